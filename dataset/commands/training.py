"""The commands `train-head` and `calibrate`: from labels to a head, from pairs to a threshold."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from dataset import strict_json
from dataset.models.decoders import MODELS, Decoders
from dataset.models.files import ModelError
from dataset.recipe.recipe import ModelRecipe, ModelRole
from dataset.recipe.tags import Tag
from dataset.store.store import Store
from dataset.tags.accuracy import AtThreshold, Scores
from dataset.tags.heads import Embedder, HeadError
from dataset.tags.labels import LabelledError, read_column, read_embedding_column, read_labels, read_similarities
from dataset.tags.thresholds import Proposal, propose_by_labels, propose_by_rate, table_around

talk = Console(stderr=True)
PAIRS_AT_ONCE = 64

MAX_SEED = 2**32 - 1
"""NumPy's and torch's generators both take it."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def train_head(
    embeddings: Annotated[Path, typer.Option(help=".npy (N, D), or parquet with a column embedding.")],
    labels: Annotated[Path, typer.Option(help=".npy (N,) of 0 and 1, or parquet with a column label.")],
    tag: Annotated[Tag, typer.Option(help="What the label 1 means.")],
    model: Annotated[str, typer.Option(help="Whose embeddings these are, e.g. 'ViT-L-14 openai'.")],
    out: Annotated[Path, typer.Option(help="The head, NAME.safetensors; its model card comes beside it.")],
    model_sha256: Annotated[str | None, typer.Option(help="Weights of that model; others are then refused.")] = None,
    model_config_sha256: Annotated[
        str | None,
        typer.Option(help="Its configuration and preprocessing (config_sha256 in a part); others are refused."),
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of the hidden layers, e.g. 64,512,256; '' for none.")] = "64",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the split and the training.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a head on labelled embeddings, and print what it is worth on rows that it has not seen."""
    training = _training()
    if out.suffix != ".safetensors":
        raise HeadError(f"{out} is no name for a head: let it end in .safetensors.")
    if tag is Tag.AESTHETIC:
        raise HeadError("An aesthetic score is no probability of a label: train punsafe or pwatermark.")
    for digest in (model_sha256, model_config_sha256):
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise HeadError(f"{digest!r} is no sha256: give 64 digits of 0-9 and a-f.")
    rows = read_embedding_column(embeddings)
    wanted = read_labels(labels, len(rows))
    schedule = training.Schedule(hidden=_widths(hidden), seed=seed)
    head, measured = training.train_head(
        rows,
        wanted,
        tag,
        Embedder(model, model_sha256, model_config_sha256),
        schedule,
        on_epoch=lambda epoch, loss: talk.print(f"epoch {epoch:3d}  validation loss {loss:.4f}", highlight=False),
    )
    head = replace(head, about=training.about(measured, schedule))
    try:
        out.write_bytes(head.to_bytes())
        out.with_suffix(".md").write_text(training.card(head, measured, schedule, out.stem), encoding="utf-8")
    except OSError as error:
        raise HeadError(f"{out} cannot be written ({error.strerror}): name another file.") from error
    if as_json:
        said = training.about(measured, schedule) | {"head": str(out), "table": [_row(row) for row in measured.table]}
        sys.stdout.write(strict_json.dumps(said) + "\n")
        return
    sys.stdout.write(
        f"{len(rows):,} rows, of which {measured.rows[2]:,} were held out\naccuracy {measured.half.accuracy:.4f}  "
        f"precision {measured.half.precision:.4f}  recall {measured.half.recall:.4f}  ROC AUC {measured.auc:.4f}\n"
    )
    _print_table([_row(row) for row in measured.table])


def calibrate(
    pairs: Annotated[list[Path], typer.Argument(help="Parquet with similarity (a part's scores), or image and text.")],
    role: Annotated[ModelRole, typer.Option(help="Whose threshold is sought.")] = ModelRole.EN,
    labelled: Annotated[bool, typer.Option("--labelled", help="The files have a column label, 1 for a match.")] = False,
    keep_rate: Annotated[float | None, typer.Option(help="Share of the pairs to keep.")] = None,
    min_precision: Annotated[float | None, typer.Option(help="With --labelled: the share of matches to reach.")] = None,
    model: Annotated[str | None, typer.Option(help="Score image and text by this model first.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Its weights, as in a recipe.")] = None,
    store: Annotated[str | None, typer.Option(envvar="SHOAL_STORE", help="For pretrained store:…")] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a threshold from labelled pairs or a share to keep; prints the table and what the recipe has to say."""
    if labelled == (keep_rate is not None):
        raise LabelledError("Nothing says what the threshold is for: give either --labelled or --keep-rate.")
    if min_precision is not None and not labelled:
        raise LabelledError("A precision is told from labels: give --labelled too.")
    similarities = _similarities(pairs, model, pretrained, store)
    labels = None
    if labelled:
        labels = np.concatenate([read_labels(path, len(read_column(path, "label"))) for path in pairs])
        if len(labels) != len(similarities):
            raise LabelledError(f"There are {len(labels)} labels for {len(similarities)} pairs: give one for each.")
    scored = np.isfinite(similarities)
    if not scored.all():
        talk.print(f"{np.count_nonzero(~scored):,} pairs have no similarity and are left out", highlight=False)
    similarities, labels = similarities[scored], None if labels is None else labels[scored]
    if labels is not None:
        proposal = propose_by_labels(similarities, labels, min_precision)
    else:
        assert keep_rate is not None
        proposal = propose_by_rate(similarities, keep_rate)
    table = [_proposal_row(row) for row in table_around(proposal, similarities, labels)]
    setting = f"models.{role}.threshold={proposal.threshold:g}"
    if as_json:
        sys.stdout.write(strict_json.dumps({"set": setting, **_proposal_row(proposal), "table": table}) + "\n")
        return
    _print_table(table)
    sys.stdout.write(f"--set {setting}\n")


def _similarities(paths: Sequence[Path], model: str | None, pretrained: str | None, store: str | None) -> Scores:
    if model is None:
        return np.concatenate([read_similarities(path) for path in paths])
    try:
        from dataset.models.clip import load_model
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [models].") from error
    opened = Store.open(store, writable=False) if store else None
    loaded = load_model(ModelRecipe(model, pretrained, 0.0), opened)
    cosines: list[float] = []
    with Decoders(modules=MODELS) as decoders:
        for path in paths:
            images, texts = read_column(path, "image"), read_column(path, "text")
            for start in range(0, len(images), PAIRS_AT_ONCE):
                pictures = [_bytes(data, path) for data in images[start : start + PAIRS_AT_ONCE]]
                wanted = loaded.preparation
                pixels = decoders.pixels(wanted, pictures, (wanted.height, wanted.width, 3))
                if pixels is None:
                    raise LabelledError(
                        f"{path} has a picture that cannot be decoded among rows {start + 1} to "
                        f"{start + len(pictures)}: leave its row out."
                    )
                said = [str(text) for text in texts[start : start + PAIRS_AT_ONCE]]
                cosines += np.einsum("nd,nd->n", loaded.embed_pixels(pixels), loaded.embed_texts(said)).tolist()
    return np.array(cosines, np.float64)


def _bytes(data: object, path: Path) -> bytes:
    if not isinstance(data, bytes):
        raise LabelledError(f"{path} has a row whose image is no bytes: leave it out.")
    return data


def _widths(hidden: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in hidden.split(",") if width.strip())
    except ValueError as error:
        raise HeadError(f"{hidden!r} names no widths: write 64 or 64,512,256.") from error
    if any(not 1 <= width <= 8_192 for width in widths):
        raise HeadError(f"{hidden!r} names no widths: give each from 1 to 8192.")
    return widths


def _row(row: AtThreshold) -> dict[str, float]:
    return {
        "threshold": row.threshold,
        "accuracy": row.accuracy,
        "precision": row.precision,
        "recall": row.recall,
        "called": row.called,
    }


def _proposal_row(row: Proposal) -> dict[str, Any]:
    said = {"threshold": row.threshold, "kept": row.kept}
    if row.labelled is None:
        return said
    more = {key: asdict(row.labelled)[key] for key in ("true_positives", "false_positives")}
    return said | more | {"precision": row.labelled.precision, "recall": row.labelled.recall}


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows as text with tabs."""
    sys.stdout.write("\t".join(rows[0]) + "\n")
    for row in rows:
        sys.stdout.write("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")


def _training() -> ModuleType:
    """Import torch only where it trains."""
    try:
        from dataset.tags import training
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [models].") from error
    return training


__all__ = ["calibrate", "train_head"]
