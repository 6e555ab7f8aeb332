"""`dataset train-head` and `dataset calibrate`: from labels to a head, from pairs to a threshold."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, messages, needs_extra
from dataset.models.decoders import MODELS, Decoders
from dataset.recipe.recipe import ModelRecipe, ModelRole
from dataset.recipe.tags import Tag
from dataset.store.store import Store
from dataset.tags.accuracy import AtThreshold, Scores
from dataset.tags.heads import Embedder, HeadError
from dataset.tags.labels import (
    LabelledError,
    comparable_rows,
    read_column,
    read_embedding_column,
    read_labels,
    read_similarities,
    read_splits,
    read_weights,
)
from dataset.tags.thresholds import Proposal, propose_by_labels, propose_by_rate, table_around

PAIRS_PER_BATCH = 64

MAX_SEED = 2**32 - 1
"""The largest seed that both NumPy and torch accept."""

PositiveOption = Annotated[
    str | None, typer.Option(metavar="CLASS", help="For a file of `dataset label --export`: the class that is 1.")
]


def train_head_command(
    embeddings: Annotated[Path, typer.Option(help=".npy (N, D), or parquet with a column embedding.")],
    labels: Annotated[
        Path, typer.Option(help=".npy (N,) of 0 and 1, parquet with a column label, or `dataset label --export`.")
    ],
    tag: Annotated[Tag, typer.Option(metavar="TAG", help="Meaning of label 1: punsafe or pwatermark.")],
    model: Annotated[str, typer.Option(help="Model that made the embeddings, e.g. 'ViT-L-14 openai'.")],
    out: Annotated[Path, typer.Option(help="Head to write, NAME.safetensors, with its model card NAME.md.")],
    positive: PositiveOption = None,
    model_sha256: Annotated[
        str | None, typer.Option(help="sha256 of that model's weights; the head then refuses other weights.")
    ] = None,
    model_config_sha256: Annotated[
        str | None,
        typer.Option(help="config_sha256 of that model, as in a part; the head then refuses other preprocessing."),
    ] = None,
    hidden: Annotated[str, typer.Option(help="Widths of hidden layers, e.g. 64,512,256; '' means none.")] = "64",
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Seed of split and training.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train a head on labelled embeddings, and print its accuracy.

    The accuracy is measured on rows that are held out from training: those of the split `test`, if the labels are a
    file of `dataset label --export`.
    """
    with needs_extra():
        from dataset.tags.training import Schedule, Split, about, card, release_rows, train_head
    if out.suffix != ".safetensors":
        raise HeadError(f"A head cannot be named {out}: use a name that ends in .safetensors.")
    if tag is Tag.AESTHETIC:
        raise HeadError("Cannot train aesthetic, which is a score and not a probability: train punsafe or pwatermark.")
    for digest in (model_sha256, model_config_sha256):
        if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
            raise HeadError(f"{digest!r} is not a sha256: give 64 digits of 0-9 and a-f.")
    rows = read_embedding_column(embeddings)
    wanted = read_labels(labels, len(rows), positive=positive)
    parts = read_splits(labels)
    schedule = Schedule(hidden=_widths(hidden), seed=seed)
    head, measured = train_head(
        rows,
        wanted,
        tag,
        Embedder(model, model_sha256, model_config_sha256),
        schedule,
        on_epoch=lambda epoch, loss: messages.print(f"epoch {epoch:3d}  validation loss {loss:.4f}", highlight=False),
        split=None if parts is None else Split(*parts.values()),
        weights=read_weights(labels),
    )
    head = replace(head, about=about(measured, schedule))
    try:
        out.write_bytes(head.to_bytes())
        out.with_suffix(".md").write_text(card(head, measured, schedule, out.stem), encoding="utf-8")
    except OSError as error:
        raise HeadError(f"Cannot write {out} ({error.strerror}): name another file.") from error
    if as_json:
        result = about(measured, schedule) | {"head": str(out), "table": [_row(row) for row in measured.table]}
        sys.stdout.write(strict_json.dumps(result) + "\n")
        return
    sys.stdout.write(
        f"{len(rows):,} rows, of which {measured.rows[2]:,} were held out\naccuracy {measured.half.accuracy:.4f}  "
        f"precision {measured.half.precision:.4f}  recall {measured.half.recall:.4f}  ROC AUC {measured.auc:.4f}\n"
    )
    _print_table([_row(row) for row in measured.table])
    if measured.release:
        sys.stdout.write("in the release, by the sampling weights of the test rows\n")
        _print_table(release_rows(measured))


def calibrate_command(
    pairs: Annotated[
        list[Path], typer.Argument(help="Parquet files with a column similarity, or with image and text.")
    ],
    role: Annotated[ModelRole, typer.Option(help="The model whose threshold is proposed.")] = ModelRole.EN,
    labelled: Annotated[bool, typer.Option("--labelled", help="The files have a column label; 1 is a match.")] = False,
    positive: PositiveOption = None,
    keep_rate: Annotated[float | None, typer.Option(help="Share of pairs to keep, 0 to 1.")] = None,
    min_precision: Annotated[
        float | None, typer.Option(help="With --labelled: minimum share of matches among kept pairs.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Compute similarities of image and text with this model.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Its weights, as in a recipe.")] = None,
    store: Annotated[str | None, typer.Option(envvar="SHOAL_STORE", help="Store for --pretrained store:….")] = None,
    as_json: JsonOption = False,
) -> None:
    """Propose a threshold, from labelled pairs or a share to keep.

    Prints a table of thresholds and the --set option for `dataset recipe`.
    """
    if labelled == (keep_rate is not None):
        raise LabelledError("A threshold needs a goal: give either --labelled or --keep-rate.")
    if min_precision is not None and not labelled:
        raise LabelledError("--min-precision needs labels: add --labelled.")
    similarities = _similarities(pairs, model, pretrained, store)
    labels = None
    if labelled:
        every = [(path, len(read_column(path, "label"))) for path in pairs]
        labels = np.concatenate([read_labels(path, count, positive=positive) for path, count in every])
        if len(labels) != len(similarities):
            raise LabelledError(f"There are {len(labels)} labels for {len(similarities)} pairs: give one per pair.")
        starts = np.cumsum([0, *(count for _, count in every)])
        chosen = [start + comparable_rows(path, count) for start, (path, count) in zip(starts, every, strict=False)]
        similarities, labels = similarities[np.concatenate(chosen)], labels[np.concatenate(chosen)]
    scored = np.isfinite(similarities)
    if not scored.all():
        messages.print(f"{np.count_nonzero(~scored):,} pairs without a similarity are left out", highlight=False)
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
    with needs_extra():
        from dataset.models.clip import load_model
    opened = Store.open(store, writable=False) if store else None
    loaded = load_model(ModelRecipe(model, pretrained, 0.0), opened)
    cosines: list[float] = []
    with Decoders(modules=MODELS) as decoders:
        for path in paths:
            images, texts = read_column(path, "image"), read_column(path, "text")
            for start in range(0, len(images), PAIRS_PER_BATCH):
                pictures = [_bytes(data, path) for data in images[start : start + PAIRS_PER_BATCH]]
                wanted = loaded.preparation
                pixels = decoders.pixels(wanted, pictures, (wanted.height, wanted.width, 3))
                if pixels is None:
                    raise LabelledError(
                        f"{path} has a picture that cannot be decoded in rows {start + 1} to {start + len(pictures)}: "
                        "remove its row."
                    )
                captions = [str(text) for text in texts[start : start + PAIRS_PER_BATCH]]
                cosines += np.einsum("nd,nd->n", loaded.embed_pixels(pixels), loaded.embed_texts(captions)).tolist()
    return np.array(cosines, np.float64)


def _bytes(data: object, path: Path) -> bytes:
    if not isinstance(data, bytes):
        raise LabelledError(f"{path} has a row whose image is not bytes: remove the row.")
    return data


def _widths(hidden: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in hidden.split(",") if width.strip())
    except ValueError as error:
        raise HeadError(f"--hidden {hidden!r} is not a list of widths: write 64 or 64,512,256.") from error
    if any(not 1 <= width <= 8_192 for width in widths):
        raise HeadError(f"--hidden {hidden!r} has a width out of range: use 1 to 8192.")
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
    values = {"threshold": row.threshold, "kept": row.kept}
    if row.labelled is None:
        return values
    counts = {key: asdict(row.labelled)[key] for key in ("true_positives", "false_positives")}
    return values | counts | {"precision": row.labelled.precision, "recall": row.labelled.recall}


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with tabs between the columns."""
    sys.stdout.write("\t".join(rows[0]) + "\n")
    for row in rows:
        sys.stdout.write("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()) + "\n")
