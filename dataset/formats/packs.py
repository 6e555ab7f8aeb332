"""Packs: the candidates of one WAT file or link list in parquet, one file for each slot of the Bloom filter.

Invariant: a candidate's slot is the XXH3 hash of its URL modulo the number of slots, so the worker that holds a slot
reads only that slot's files. A candidate is identified by its file and row. It names its page, and the file names its
WAT file, so that every sample can be traced to its origin.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.formats.url_hashes import Hashes
from dataset.store.store import Store

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
"""The schema for a link list: `extra` holds its other columns (see `recipe.extra_columns`), page_url is ''."""

_REPEATING = ["language", "subset", "page_url"]  # the other columns do not get smaller with dictionaries


def blank_rows(store: Store, path: str, rows: Collection[int]) -> bool:
    """Blank the rows at these positions of a pack; other rows keep their positions.

    Return whether any of them was not blank before. The subset stays, because it is counted. The row groups stay the
    same.

    Raises: StoreError when the pack is missing or cannot be written.
    """
    wanted = pa.array(sorted(rows), pa.int64())
    changed, start, groups = False, 0, []
    with store.open_input(path) as file:
        parquet = pq.ParquetFile(file)
        for at in range(parquet.num_row_groups):
            group = parquet.read_row_group(at)
            hit = pc.is_in(pa.array(range(start, start + len(group)), pa.int64()), wanted)
            changed |= bool(pc.any(pc.and_(hit, pc.not_equal(group["url"], ""))).as_py())
            groups.append(_blanked(group, hit))
            start += len(group)
    if changed:
        schema = groups[0].schema
        with (
            store.write(path) as target,
            pq.ParquetWriter(target, schema, compression="zstd", use_dictionary=_REPEATING) as writer,
        ):
            for group in groups:
                writer.write_table(group)
    return changed


def _blanked(rows: pa.Table, hit: pa.Array) -> pa.Table:
    for at, column in enumerate(rows.schema):
        if column.name != "subset":
            blank = "" if not column.nullable else None
            rows = rows.set_column(at, column, pc.if_else(hit, pa.scalar(blank, column.type), rows.column(at)))
    return rows


class PackWriter:
    """Writes each candidate to the file of its slot. Unless `finish` is called, the files are invalid.

    `slot_rows` and `subset_rows` count the rows written.
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
        """Write candidates in the pack's schema, one row group per slot; `hashes` are the 64-bit XXH3 hashes of their
        URLs.

        Callers collect some ten thousand rows first, because small row groups compress badly.
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
