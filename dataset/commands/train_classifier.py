"""`dataset train-classifier`: from labelled pictures to a picture classifier with its model card."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.training import MAX_SEED
from dataset.models.decoders import Decoders
from dataset.recipe.tags import Tag
from dataset.tags.heads import CLASSIFIER, CLASSIFIER_CARD, HeadError
from dataset.tags.labels import LabelledError

SCORES = "scores.parquet"


def train_classifier_command(
    tag: Annotated[Tag, typer.Option(metavar="TAG", help="What the class says: punsafe or pwatermark.")],
    positive: Annotated[
        str, typer.Option(metavar="CLASS", help="The class that has the tag; all other classes lack it.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the classifier, its card and the scores of the test pictures.")],
    store: StoreOption,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of `dataset label --export`; needs the release's kept pictures.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Instead of --labels: a folder with a folder of pictures or tars per class.")
    ] = None,
    architecture: Annotated[str, typer.Option(metavar="NAME", help="A classifier of timm.")] = "efficientnet_b0",
    side: Annotated[int, typer.Option(min=32, max=1_024, metavar="PIXELS", help="Of the squares that it reads.")] = 256,
    epochs: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="Passes over the pictures.")] = 12,
    batch: Annotated[int, typer.Option(min=2, max=4_096, metavar="N", help="Pictures per step.")] = 64,
    rate: Annotated[float, typer.Option(min=1e-6, max=1.0, metavar="X", help="Highest learning rate.")] = 3e-3,
    prevalence: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="SHARE", help="Share of the class in the data; by default as weighted."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, metavar="N", help="Seed of splits and training.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N; by default a GPU if there is one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a picture classifier, and print its accuracy at real prevalence.

    The accuracy is measured on test pictures that are used neither in training nor for the calibration.
    """
    with needs_extra():
        from dataset.commands.labelled_pictures import read_labelled
        from dataset.tags.classifier_runs import read_folder, train_and_measure
        from dataset.tags.picture_heads import PictureLayout
        from dataset.tags.picture_training import PictureSchedule
    if (labels is None) == (pictures is None):
        raise LabelledError("A classifier needs labelled pictures: give either --labels or --pictures.")
    if tag is Tag.AESTHETIC:
        raise HeadError("Cannot train aesthetic, which is a score and not a probability: train punsafe or pwatermark.")
    layout = PictureLayout(architecture, side, (positive, f"not {positive}"))
    schedule = PictureSchedule(epochs, batch, rate, seed=seed)
    with tempfile.TemporaryFile(dir=_made(out)) as file, Decoders() as decoders:
        if labels is not None:
            given = read_labelled(labels, positive, store, side, file, decoders)
        else:
            assert pictures is not None
            given = read_folder(pictures, positive, side, file, decoders, seed)
        messages.print(f"{len(given.pictures.labels):,} pictures", highlight=False)
        run = train_and_measure(given, tag, layout, schedule, prevalence, device, on_epoch=_say)
    try:
        (out / CLASSIFIER).write_bytes(run.file)
        (out / CLASSIFIER_CARD).write_text(run.card, encoding="utf-8")
        pq.write_table(pa.table(dict(run.scores)), out / SCORES)
    except OSError as error:
        raise HeadError(f"Cannot write to {out} ({error.strerror}): name another folder.") from error
    result = {"head": str(out / CLASSIFIER), **run.measured.to_json()}
    sys.stdout.write(strict_json.dumps(result) + "\n" if as_json else _text(result))


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadError(f"Cannot make the folder {out} ({error.strerror}): name another one.") from error
    return out


def _say(epoch: int, loss: float) -> None:
    messages.print(f"epoch {epoch:3d}  validation loss {loss:.4f}", highlight=False)


def _text(result: dict[str, Any]) -> str:
    """Return the accuracy as lines of at most 80 columns."""
    lines = [
        f"{result['head']}",
        f"{result['test_rows']:,} test pictures, prevalence {_share(result['prevalence'])}",
        "threshold  called   precision               recall",
    ]
    lines += [
        f"{row['threshold']:9.2f}  {100 * row['called']['share']:5.1f} %  {_share(row['precision']):22}  "
        f"{_share(row['recall'])}"
        for row in result["table"]
    ]
    return "\n".join(lines) + "\n"


def _share(said: dict[str, Any]) -> str:
    if said["share"] is None:
        return "-"
    return f"{100 * said['share']:.1f} % ({100 * said['low']:.1f} to {100 * said['high']:.1f})"
