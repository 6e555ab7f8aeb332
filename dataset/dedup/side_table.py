"""The side table `duplicates`: from rows by super-cell to files in the order of ids.

result  super-cell ─▶ each row's representative, in sections by data file
texts   data file  ─▶ captions, similarities and hosts of its rows in groups, in sections by the representative's file
write   data file  ─▶ duplicates/{generation}-v1/…   one row for each row of the release that has an embedding
finish  one unit   ─▶ side_tables.json, duplicates/report.json, state.json
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.dedup.arrays import Array, in_sections, write_arrays
from dataset.dedup.check import look_up, read_members
from dataset.dedup.group_texts import TEXTS, GroupTexts, texts_of_groups
from dataset.dedup.rescore import STEP, to_steps
from dataset.dedup.work import Work, nodes, split_nodes
from dataset.formats.duplicates import COLUMNS, KINDS, NAME
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import table_writer
from dataset.formats.side_tables import SideFile, read_side_tables, side_path, side_schema
from dataset.formats.steps import UnitFile, UnitResult
from dataset.publish.hosts import hosts_of

Integers = npt.NDArray[np.int64]


def place_rows(work: Work, super_cell: int) -> UnitResult:
    """Write the rows of a super-cell with what represents them, in sections by data file."""
    pieces: dict[str, list[Array]] = {name: [] for name in ("id", "representative", "cosine", "kind", "size")}
    for batch in range(len(work.plan.batches)):
        home, members = work.home(batch, super_cell), read_members(work, super_cell, batch)
        ids = np.concatenate([home.read("id"), home.read("equal_id")])
        sha256 = np.concatenate([home.read("sha256"), home.read("equal_sha256")])
        of = look_up(work, members.representative, ["id", "sha256"])
        kind = np.where(members.cosine >= to_steps(work.options.at), 3, 4)
        kind[members.equal] = 2
        kind[(sha256 == of["sha256"]) & (sha256 != 0) & (kind != 4)] = 1
        kind[members.representative == nodes(batch, super_cell, np.arange(len(ids)))] = 0
        pieces["id"].append(ids)
        pieces["representative"].append(of["id"])
        pieces["cosine"].append(members.cosine)
        pieces["kind"].append(kind.astype(np.uint8))
        pieces["size"].append(_sizes(work, members.representative))
    rows = {name: np.concatenate(found) for name, found in pieces.items()}
    order, offsets = in_sections(_data_file_of(work, rows["id"]), len(work.data))
    arrays = {name: values[order] for name, values in rows.items()} | {"offsets": offsets}
    write_arrays(work.store, work.path("end", "result", super_cell), arrays)
    return UnitResult(len(order), len(order))


def _sizes(work: Work, representatives: Integers) -> Integers:
    batches, supers, places = split_nodes(representatives)
    found = np.empty(len(representatives), np.int64)
    for one in np.unique(supers).tolist():
        opened = work.open("end", "sizes", one)
        for batch in np.unique(batches[supers == one]).tolist():
            mine = np.flatnonzero((supers == one) & (batches == batch))
            found[mine] = opened.read(f"size{batch}")[places[mine]]
    return found


def _data_file_of(work: Work, ids: Integers) -> Integers:
    found: Integers = np.searchsorted(np.array([file.first_id for file in work.data]), ids, "right") - 1
    return found


def _result(work: Work, at: int) -> dict[str, Array]:
    """Return the rows of a data file that were searched, by id."""
    opened = [work.open("end", "result", one) for one in range(work.plan.super_cells)]
    names = ("id", "representative", "cosine", "kind", "size")
    rows = {name: np.concatenate([one.section(name, at, "offsets") for one in opened]) for name in names}
    order = np.argsort(rows["id"])
    data = work.store.read_table(work.release.path(work.data[at].path), ["id"])["id"].to_numpy()
    order = order[np.isin(rows["id"][order], data)]
    return {name: values[order] for name, values in rows.items()}


def send_texts(work: Work, at: int) -> UnitResult:
    """Write captions, similarities and hosts of a data file's rows in groups to their representatives' files."""
    rows = _result(work, at)
    chosen = np.flatnonzero(rows["size"] > 1)
    data = _rows_of_ids(work, at, rows["id"][chosen])
    hosts = hosts_of(data["URL"]) if len(data) else None
    names = pa.array(hosts.names).take(pa.array(hosts.numbers)) if hosts else pa.array([], pa.string())
    texts = pa.table(
        [
            pa.array(rows["representative"][chosen]),
            data["id"],
            data["TEXT"],
            data["similarity"],
            names,
        ],
        schema=TEXTS,
    )
    order, offsets = in_sections(_data_file_of(work, rows["representative"][chosen]), len(work.data))
    texts = texts.take(pa.array(order))
    with (
        work.store.write(work.path("end", "texts", f"{at}.arrow")) as file,
        pa.ipc.new_file(pa.PythonFile(file, "w"), TEXTS) as writer,
    ):
        for start, end in zip(offsets.tolist(), offsets[1:].tolist(), strict=False):
            found = texts.slice(start, end - start).combine_chunks().to_batches()
            writer.write_batch(found[0] if found else pa.RecordBatch.from_pylist([], schema=TEXTS))
    return UnitResult(len(rows["id"]), len(chosen))


def write_file(work: Work, at: int) -> UnitResult:
    """Write the side table's file that belongs to a data file."""
    rows = _result(work, at)
    texts = _read_texts(work, at)
    shown = _groups_of(rows, texts)
    weight = 1 / np.maximum(rows["size"], 1)
    table = pa.table(
        [
            pa.array(rows["id"]),
            pa.array(rows["representative"]),
            pa.array(rows["size"]),
            pa.array((rows["cosine"] * STEP).astype(np.float32)),
            pa.array(KINDS, pa.string()).take(pa.array(rows["kind"])),
            pc.list_element(texts.captions, 0).take(shown),
            texts.captions.take(shown),
            texts.similarities.take(shown),
            texts.hosts.take(shown),
            pa.array(weight.astype(np.float32)),
            pa.array(np.sqrt(weight).astype(np.float32)),
        ],
        schema=side_schema(COLUMNS),
    )
    data = work.data[at]
    path = side_path(work.release, NAME, generation_to_write(work), data)
    with table_writer(work.store, work.release.path(path), table.schema) as writer:
        writer.write(table)
    written = SideFile(path=path, data=data.path, rows=len(table), bytes=writer.file.bytes, sha256=writer.file.sha256)
    counts = FileCounts(
        file=written,
        kinds={kind: int((rows["kind"] == number).sum()) for number, kind in enumerate(KINDS)},
        sizes=_histogram(rows["size"][rows["kind"] == 0]),
        cosines=_cosine_histogram(rows["cosine"][rows["kind"] > 1]),
    )
    work.store.put(work.path("end", "files", f"{at}.json"), to_json(counts))
    return UnitResult(len(rows["id"]), len(table), (UnitFile(path, len(table), written.bytes),))


def _rows_of_ids(work: Work, at: int, ids: Integers) -> pa.Table:
    """Return a data file's rows with these ascending ids, a row group in memory at a time."""
    pieces = []
    with work.store.open_input(work.release.path(work.data[at].path)) as opened, pq.ParquetFile(opened) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["id", "URL", "TEXT", "similarity"], use_threads=False)
            known = rows["id"].to_numpy()
            first, end = np.searchsorted(ids, [known[0], known[-1] + 1])
            pieces.append(rows.take(pa.array(np.searchsorted(known, ids[first:end]))))
    return pa.concat_tables(pieces)


def _read_texts(work: Work, at: int) -> GroupTexts:
    """Return the texts of the groups whose representatives lie in a data file."""
    batches = []
    for one in range(len(work.data)):
        with work.store.open_input(work.path("end", "texts", f"{one}.arrow")) as file:
            batches.append(pa.ipc.open_file(file).get_batch(at))
    return texts_of_groups(pa.Table.from_batches(batches, TEXTS))


def _groups_of(rows: dict[str, Array], texts: GroupTexts) -> pa.Array:
    """Return the numbers of the groups that rows in the order of ids represent -> (N,), null for other rows."""
    place = np.searchsorted(texts.representatives, rows["id"])
    place = np.minimum(place, max(0, len(texts.representatives) - 1))
    shown = np.zeros(len(place), bool)
    if len(texts.representatives):
        shown = (rows["kind"] == 0) & (texts.representatives[place] == rows["id"])
    return pa.array(place, mask=~shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """A file of the table, and its rows by kind, groups by size, members by cosine."""

    file: SideFile
    kinds: Mapping[str, int]
    sizes: Mapping[str, int]
    cosines: Mapping[str, int]


def _histogram(sizes: Integers) -> dict[str, int]:
    """Return the number of groups by size: 1, 2, and from 4, 8, 16 … on the powers of two that are the lowest size."""
    lowest = 2 ** np.floor(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    found, counts = np.unique(lowest, return_counts=True)
    return dict(zip(map(str, found.tolist()), counts.tolist(), strict=True))


def _cosine_histogram(cosines: Array) -> dict[str, int]:
    found, counts = np.unique(cosines // 100, return_counts=True)
    return dict(zip((f"{one / 100:.2f}" for one in found.tolist()), counts.tolist(), strict=True))


def generation_to_write(work: Work) -> int:
    """Return the generation of the table that is being written."""
    known = read_side_tables(work.release).get(NAME)
    return known.generation + 1 if known else 1
