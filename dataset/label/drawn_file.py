"""The drawn pictures of a task: one parquet file in the task's working folder, written once.

    drawn.parquet   the pictures in the order in which they are shown; `shoal.drawn` of its metadata holds the record

Invariant: rows of a group of near-duplicates have the same split, and `test` has only rows that were drawn at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.errors import said_by
from dataset.formats.json_records import from_json, to_json
from dataset.label.journal import LabelError
from dataset.label.random_draws import Stratum
from dataset.label.tasks import Task

FORMAT = 1
NAME = "drawn.parquet"
METADATA_KEY = b"shoal.drawn"
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("hash", pa.int64()),
        ("sha256", pa.string()),
        ("group", pa.int64()),  # an id that all its near-duplicates share
        ("split", pa.string()),
        ("draw", pa.string()),
        ("prompt", pa.string()),
        ("rank", pa.int32()),
        ("similarity", pa.float64()),
        ("weight", pa.float64()),
        ("stratum", pa.int32()),  # position in the record's strata; null outside random draws
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRecord:
    """The content of the key `shoal.drawn`."""

    format: int
    task: str
    digest: str
    """The task's."""
    release: str
    version: str
    groups: bool
    """Whether the release has the side table of near-duplicates."""
    strata: tuple[Stratum, ...]
    left_out: Mapping[str, int]
    """Pictures near prompts that were left out, by reason."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The record, and the rows with the columns of SCHEMA."""

    record: DrawRecord
    rows: pa.Table


def write_drawn(folder: Path, drawn: Drawn) -> None:
    """Write the drawn pictures into a working folder.

    Raises: LabelError when they cannot be written.
    """
    aside = folder / f"{NAME}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(drawn.rows.replace_schema_metadata({METADATA_KEY: to_json(drawn.record)}), aside)
        aside.replace(folder / NAME)
    except OSError as error:
        raise LabelError(f"Cannot write {folder / NAME} ({error.strerror}): give another --work.") from error


def read_drawn(folder: Path, task: Task) -> Drawn | None:
    """Return the drawn pictures of a task; None if nothing was drawn yet.

    Raises: LabelError when the file is damaged, or was drawn for another task.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        rows = pq.read_table(path)
        record = from_json(DrawRecord, (rows.schema.metadata or {})[METADATA_KEY])
        rows = rows.select(SCHEMA.names).cast(SCHEMA)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise LabelError(f"{path} is damaged ({said_by(error)}): restore it, or give another --work.") from error
    if record.digest != task.digest:
        raise LabelError(
            f"{path} was drawn with other classes, prompts, examples or draws: undo the change in the task, or draw "
            "again with another --work."
        )
    return Drawn(record, rows)
