"""Merge: all files of one range of lists, from the slices of the add step and the columns of the describe step.

Memory: the ids and lists of the range, its columns, and BLOCK_BYTES of vectors; the bytes depend on none of it.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.index_files import BASE_STEP, IndexFile, IndexRange, range_file
from dataset.formats.release_parquet import HashedFile
from dataset.index.add import add_path
from dataset.index.add_files import Section, read_head
from dataset.index.describe import LIST, describe_path
from dataset.index.domains import pack_domains
from dataset.index.facets import ALIVE, REPRESENTATIVE, count_by_list, facet_masks, pack_masks
from dataset.index.groups import ROLES, Records, make_records, pack_groups
from dataset.index.kinds import OWN_ROWS
from dataset.index.neighbours import NearestRows
from dataset.index.numbers import layout, pack_numbers, pack_texts
from dataset.index.plan import Work
from dataset.index.sources import GROUP_SCHEMA
from dataset.index.texts import FrameWriter
from dataset.index.train import HeldOut

Integers = npt.NDArray[np.int64]

BLOCK_BYTES = 256 << 20
_TEXT_ROWS = 8_192


@dataclass(frozen=True, slots=True)
class MergedRange:
    """A unit's files, and how many of its rows have columns."""

    files: IndexRange
    described: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `first` to below `end` of an add unit's file, which are of this range."""

    path: str
    sections: Mapping[str, Section]
    first: int
    end: int


class _Rows:
    """The rows of a range in their final order, read from the add step's files."""

    def __init__(self, work: Work, at: int) -> None:
        self._store = work.store
        self._pieces: list[_Piece] = []
        self.base = 0
        totals = np.zeros(work.plan.ranges, np.int64)
        ids, lists = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
        for unit in range(work.plan.add_units):
            path = work.path(add_path(unit))
            with work.store.open_input(path) as file:
                head = read_head(file, path)
                borders = head.sections["ranges"].read(file, 0, head.ranges + 1)
                totals += np.diff(borders)
                first, end = int(borders[at]), int(borders[at + 1])
                if end > first:
                    self._pieces.append(_Piece(path, head.sections, first, end))
                    ids.append(head.sections["ids"].read(file, first, end))
                    lists.append(head.sections["lists"].read(file, first, end))
        self.base = int(sum(-(-int(rows) // BASE_STEP) * BASE_STEP for rows in totals[:at]))
        unordered, of_list = np.concatenate(ids), np.concatenate(lists)
        order = np.lexsort((unordered, of_list))
        self.ids: Integers = unordered[order]
        self.lists: npt.NDArray[np.uint32] = of_list[order]
        self._place = np.empty(len(order), np.int64)
        self._place[order] = np.arange(len(order))  # the final place of each row, piece after piece
        self._starts = np.cumsum([0, *(piece.end - piece.first for piece in self._pieces)])

    def blocks(self, rows: int) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
        """Yield codes and vectors of `rows` rows at a time, with the place of the first."""
        for start in range(0, len(self.ids), rows):
            end = min(len(self.ids), start + rows)
            found: dict[str, npt.NDArray[Any]] = {}
            for at, piece in enumerate(self._pieces):
                places = self._place[self._starts[at] : self._starts[at + 1]]  # ascending
                low, high = np.searchsorted(places, (start, end)).tolist()
                if low == high:
                    continue
                with self._store.open_input(piece.path) as file:
                    for name in ("codes", "vectors"):
                        section = piece.sections[name]
                        if not section.width:
                            continue
                        block = section.read(file, piece.first + low, piece.first + high)
                        block = block.reshape(high - low, section.width)
                        if name not in found:
                            found[name] = np.empty((end - start, section.width), section.dtype)
                        found[name][places[low:high] - start] = block
            yield start, found


class _Writer:
    """Writes the files of a range and keeps their checksums."""

    def __init__(self, work: Work, at: int, stack: ExitStack) -> None:
        self._work, self._at, self._stack = work, at, stack
        self._open: dict[str, tuple[str, HashedFile]] = {}

    def open(self, role: str, ending: str, revision: int | None = None) -> HashedFile:
        path = range_file(self._work.plan.segment, role, self._at, ending, revision)
        file = HashedFile(self._stack.enter_context(self._work.store.write(self._work.output(path))))
        self._open[role] = path, file
        return file

    def put(self, role: str, ending: str, data: bytes, revision: int | None = None) -> None:
        self.open(role, ending, revision).write(data)

    @property
    def files(self) -> dict[str, IndexFile]:
        return {
            role: IndexFile(path=path, bytes=file.bytes, sha256=file.sha256)
            for role, (path, file) in self._open.items()
        }


def merge_unit(work: Work, held_out: HeldOut, at: int) -> MergedRange:
    """Write the files of range `at`.

    Raises: SearchIndexError, StoreError.
    """
    plan = work.plan
    rows = _Rows(work, at)
    first_list, lists = plan.first_list(at), plan.first_list(at + 1) - plan.first_list(at)
    sizes = np.bincount(rows.lists - np.uint32(first_list), minlength=lists).astype("<u4")
    numbers, texts = layout(work.source.schema, work.source.categories)
    with ExitStack() as stack:
        writer = _Writer(work, at, stack)
        _write_vectors(work, rows, sizes, held_out, writer, at)
        writer.put("sizes", "u32", sizes.tobytes())
        writer.put("ids", "i64", rows.ids.astype("<i8").tobytes())
        columns = _columns(work, rows, at)
        packed = pack_numbers(columns, numbers, work.source.categories)
        present = np.asarray(columns["id"].is_valid())
        masks = facet_masks(packed, work.source.categories)
        if plan.describe_units:
            masks = {name: mask & present for name, mask in masks.items()}
        if numbers:
            writer.put("numbers", "bin", packed.tobytes())
        if texts:
            frames = FrameWriter(writer.open("texts", "zst"), len(texts))  # type: ignore[arg-type]
            for start in range(0, len(columns), _TEXT_ROWS):
                frames.write(pack_texts(columns.slice(start, _TEXT_ROWS), texts))
            writer.put("frames", "u64", frames.finish().tobytes())
        domains = pack_domains(columns)
        if domains is not None:
            writer.put("domains", "bin", domains)
        if plan.groups:
            records = _records(rows.ids, columns)
            for role, data in pack_groups(rows.ids, records).items():
                writer.put(role, ROLES[role], data, 1)
            masks[REPRESENTATIVE] = (records["representative"] == rows.ids) & present
        writer.put("bits", "bits", pack_masks(masks).tobytes(), 1)
        writer.put("facets", "u32", count_by_list(masks, sizes).tobytes(), 1)
    files = IndexRange(
        first_list=first_list,
        lists=lists,
        rows=len(rows.ids),
        base=rows.base,
        facets=tuple(masks),
        files=writer.files,
    )
    return MergedRange(files, int(np.count_nonzero(masks[ALIVE])))


def _write_vectors(
    work: Work, rows: _Rows, sizes: npt.NDArray[np.uint32], held_out: HeldOut, writer: _Writer, at: int
) -> None:
    """Write each list's codes with the positions behind them, and the rows unless they are the codes."""
    plan = work.plan
    own = plan.kind in OWN_ROWS
    lists_file = writer.open("lists", "ivf")
    rows_file = None if own else writer.open("rows", "f16")
    nearest = NearestRows(np.concatenate((held_out.images, held_out.texts)).astype(np.float32))
    ends = np.cumsum(sizes, dtype=np.int64)
    block_rows = max(1, BLOCK_BYTES // (2 * plan.dimensions))
    current = 0
    for start, found in rows.blocks(block_rows):
        vectors = found["vectors"]
        codes = vectors if own else found["codes"]
        end = start + len(vectors)
        place = start
        while place < end:
            while ends[current] <= place:  # empty lists, and the one that has just ended
                current += 1
            stop = min(end, int(ends[current]))
            lists_file.write(codes[place - start : stop - start].tobytes())
            if stop == ends[current]:
                positions = np.arange(stop - int(sizes[current]), stop) + rows.base
                lists_file.write(positions.astype("<i8").tobytes())
            place = stop
        if rows_file is not None:
            rows_file.write(vectors.tobytes())
        nearest.add(rows.ids[start:end], vectors)
    work.store.put(work.path(f"merge/{at:06d}.nearest"), nearest.to_bytes())
    order = np.argsort(rows.ids, kind="stable")
    with work.store.write(work.path(f"merge/{at:06d}.by_id")) as file:
        file.write(rows.ids[order].astype("<i8").tobytes())
        file.write((order + rows.base).astype("<i8").tobytes())


def _records(ids: Integers, columns: pa.Table) -> Records:
    """Return the groups of rows in their order."""
    representatives, sizes = (np.asarray(pc.fill_null(columns[name], 0)) for name in GROUP_SCHEMA.names)
    return make_records(ids, representatives, sizes)


def _columns(work: Work, rows: _Rows, at: int) -> pa.Table:
    """Return the columns of the range's rows in their order, null for ids that have none any more."""
    schema = pa.schema([("id", pa.int64()), *work.source.schema, *(GROUP_SCHEMA if work.plan.groups else ())])
    found = []
    for unit in range(work.plan.describe_units):
        with work.store.open_input(work.path(describe_path(unit))) as file:
            batch = pa.ipc.open_file(file).get_batch(at)
        if batch.num_rows:
            found.append(pa.Table.from_batches([batch]).drop_columns([LIST]).cast(schema))
    table = pa.concat_tables(found).combine_chunks() if found else schema.empty_table()
    known = table["id"].to_numpy()  # ascending: units are in the order of ids, and rows within them by id
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], rows.ids)
    place = np.minimum(place, max(0, len(known) - 1))
    missing = known[order][place] != rows.ids if len(known) else np.ones(len(rows.ids), bool)
    if not len(known):
        return pa.table({field.name: pa.nulls(len(rows.ids), field.type) for field in schema}, schema=schema)
    return table.take(pa.array(order[place], mask=missing))
