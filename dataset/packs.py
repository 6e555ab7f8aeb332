"""Packs: the candidates of one WAT file in parquet, one file for each slot of the Bloom filter.

Invariant: a candidate's slot is the XXH3 hash of its URL modulo the number of slots, so each holder of a piece of the
filter reads only what is its own. A candidate is known by its file and its row there; it carries its page, and the file
its WAT file, so that every sample can be led back to where it was found.

At most ROWS_HELD candidates wait in memory, whatever the number of slots.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_HELD = 65_536
"""Some 30 MB; a row group is as many rows by the number of slots."""

PACK_SCHEMA = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("probability", pa.float32()),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("page_url", pa.string(), nullable=False),
    ]
)
_REPEATING = ["language", "subset", "page_url"]  # the others would fill a dictionary for nothing


class Candidate(NamedTuple):
    """A row of a pack."""

    url: str
    text: str
    language: str | None
    probability: float | None
    subset: str
    page_url: str


class PackWriter:
    """Writes candidates to the file of their slot; leaving the `with` block before `finish` leaves worthless files.

    `slot_rows` and `subset_rows` count what has been written.
    """

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._writers = [
            pq.ParquetWriter(file, PACK_SCHEMA, compression="zstd", use_dictionary=_REPEATING) for file in files
        ]
        self.slot_rows = [0] * len(files)
        self.subset_rows: Counter[str] = Counter()
        self._held: list[Candidate] = []
        self._hashes: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()

    def add(self, candidate: Candidate, url_hash: int) -> None:
        """Add a candidate; `url_hash` is the 64-bit XXH3 hash of its URL's UTF-8."""
        self._held.append(candidate)
        self._hashes.append(url_hash)
        if len(self._held) >= ROWS_HELD:
            self.flush()

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Complete all files, with `metadata` and the slot's number in each."""
        self.flush()
        for slot, writer in enumerate(self._writers):
            writer.add_key_value_metadata({**metadata, "slot": str(slot), "slots": str(len(self._writers))})
            writer.close()

    def flush(self) -> None:
        """Write what waits; from then on the counts hold all that was added."""
        if not self._held:
            return
        columns = zip(*self._held, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, PACK_SCHEMA, strict=True)]
        table = pa.Table.from_arrays(arrays, schema=PACK_SCHEMA)
        slots = np.array(self._hashes, np.uint64) % np.uint64(len(self._writers))
        for slot, writer in enumerate(self._writers):
            mine = np.flatnonzero(slots == slot)
            if len(mine):
                writer.write_table(table.take(mine) if len(mine) < len(table) else table)
                self.slot_rows[slot] += len(mine)
        self.subset_rows.update({row["values"]: row["counts"] for row in table["subset"].value_counts().to_pylist()})
        self._held.clear()
        self._hashes.clear()
