"""Packs: the candidates of one WAT file in parquet, one file for each slot of the Bloom filter.

Invariant: a candidate's slot is the XXH3 hash of its URL modulo the number of slots, so each holder of a piece of the
filter reads only what is its own. A candidate is known by its file and its row there; it carries its page, and the file
its WAT file, so that every sample can be led back to where it was found.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.url_hashes import Hashes

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
LIST_PACK_SCHEMA = PACK_SCHEMA.append(pa.field("extra", pa.string(), nullable=False))
"""Of a link list: `extra` holds its other columns (see extra), page_url is ''."""

_REPEATING = ["language", "subset", "page_url"]  # the others would fill a dictionary for nothing


class PackWriter:
    """Writes candidates to the file of their slot; leaving the `with` block before `finish` leaves worthless files.

    `slot_rows` and `subset_rows` count what has been written.
    """

    def __init__(self, files: Sequence[BinaryIO], schema: pa.Schema = PACK_SCHEMA) -> None:
        self._writers = [
            pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=_REPEATING) for file in files
        ]
        self.slot_rows = [0] * len(files)
        self.subset_rows: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()

    def write(self, candidates: pa.Table, hashes: Hashes) -> None:
        """Write candidates in the pack's schema, a row group a slot; `hashes` are the 64-bit XXH3 hashes of their URLs.

        Row groups of a few rows make a poor pack: whoever extracts gathers some ten thousand rows first.
        """
        slots = hashes % np.uint64(len(self._writers))
        for slot, writer in enumerate(self._writers):
            mine = np.flatnonzero(slots == slot)
            if len(mine):
                writer.write_table(candidates.take(mine) if len(mine) < len(candidates) else candidates)
                self.slot_rows[slot] += len(mine)
        self.subset_rows.update(
            {row["values"]: row["counts"] for row in pc.value_counts(candidates["subset"]).to_pylist()}
        )

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Complete all files, with `metadata` and the slot's number in each."""
        for slot, writer in enumerate(self._writers):
            writer.add_key_value_metadata({**metadata, "slot": str(slot), "slots": str(len(self._writers))})
            writer.close()
