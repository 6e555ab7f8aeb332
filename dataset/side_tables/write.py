"""Write a side table: runs of rows with their keys, then one file for each data file, then the record.

Units are functions that return rows, so tables from any source are written in the same way. The rows of a run are
grouped by sections of the key, and a file gets its rows from the sections that it overlaps, one after the other. Memory
holds a unit, or a file and a section.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import FileKind, Release, ReleaseFile, require_live
from dataset.formats.side_tables import (
    SideFile,
    SideTable,
    SideTableError,
    check_table_name,
    delete_side_files,
    read_side_tables,
    side_path,
    side_schema,
    write_side_tables,
)
from dataset.formats.versions import WorkKind, work_folder
from dataset.recipe.extra_columns import type_name
from dataset.side_tables.places import HashKeys, IdKeys, Keys
from dataset.side_tables.sources import JoinOn
from dataset.stats.threads import map_in_order
from dataset.store.lock import locked

Integers = npt.NDArray[np.int64]
UnitRows = Callable[[], pa.Table]
"""Returns a unit's rows: their keys first, int64, null for a row without one; then the table's columns."""
_KEY = "join.key"
_MOST_BITS = 16
"""Bits of a section's number: there are 65,536 sections, so numpy sorts the numbers with a radix sort."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """The table, and the number of the source's rows that are not in it, by reason."""

    table: SideTable
    left_out: Mapping[str, int]


def write_side_table(
    release: Release,
    name: str,
    columns: pa.Schema,
    units: Sequence[UnitRows],
    *,
    on: JoinOn,
    source: str,
    threads: int = 1,
    on_progress: Progress = lambda *_: None,
) -> Written:
    """Write a table from units, and replace a table of the same name; of several rows with the same id, the first is
    used.

    Raises: SideTableError when no row is in the release; StoreError. When called again, it starts from the beginning.
    """
    check_table_name(name)
    tables = read_side_tables(release)
    generation = tables[name].generation + 1 if name in tables else 1
    data = [file for file in release.files(FileKind.DATA) if file.rows]
    keys = IdKeys.of(data) if on is JoinOn.ID else HashKeys(release, data, section_bits(data, len(units)))
    folder = work_folder(WorkKind.SIDE_TABLE, release.record.name, release.record.version)
    work = _Work(release, f"{folder}/{name}", name, generation, data, columns, keys)
    work.delete()
    left_out: Counter[str] = Counter()
    numbered = list(enumerate(units))
    for done, rows in enumerate(map_in_order(work.write_run, numbered, threads), 1):
        left_out["not_in_release"] += rows
        on_progress("looking up", done, len(units))
    files: list[SideFile] = []
    written = map_in_order(lambda at: work.write_file(at, len(units)), range(len(data)), threads)
    for done, (file, counts) in enumerate(written, 1):
        left_out.update(counts)
        files += [file] if file else []
        on_progress("writing", done, len(data))
    work.delete()
    if not files:
        raise SideTableError(
            f"No row of {source} is in {release.record.name}: check --on, and that it belongs to this release."
        )
    table = SideTable(
        name=name,
        version=release.record.version,
        generation=generation,
        source=source,
        columns={field.name: type_name(field.type) for field in columns},
        rows=sum(file.rows for file in files),
        files=tuple(files),
        heads={},
    )
    register_table(release, table)
    return Written(table, {reason: rows for reason, rows in sorted(left_out.items()) if rows})


def register_table(release: Release, table: SideTable) -> None:
    """Add a table whose files are written to the record, and delete the files of the table that it replaces.

    Raises: ReleaseError when rows were removed from the release since it was opened; StoreError.
    """
    with locked(release.store, release.folder):
        require_live(release)
        tables = read_side_tables(release)
        write_side_tables(release, {**tables, table.name: table}.values())
    if table.name in tables:
        delete_side_files(release, tables[table.name], table)


def section_bits(files: Sequence[ReleaseFile], units: int) -> int:
    """Return the number of bits by which hashes are divided: a section of all runs is not larger than a run, and a
    section of a file is at most a quarter of it.
    """
    of_one = Counter((file.subset, file.batch) for file in files)
    return min(_MOST_BITS, (max(units, 4 * max(of_one.values(), default=1)) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class _Work:
    """A table in progress; its runs are in `folder` of the release's store."""

    release: Release
    folder: str
    name: str
    generation: int
    data: Sequence[ReleaseFile]
    columns: pa.Schema
    keys: Keys

    @property
    def run_schema(self) -> pa.Schema:
        """The columns of runs."""
        return pa.schema([(_KEY, pa.int64()), *self.columns])

    def write_run(self, unit: tuple[int, UnitRows]) -> int:
        """Write a unit's rows by section, one record batch per section, in the order of the source; return their
        number.
        """
        at, read = unit
        rows = read().rename_columns(self.run_schema.names).cast(self.run_schema)
        count_all = len(rows)
        if rows.column(0).null_count:
            rows = rows.filter(pc.is_valid(rows.column(0)))
        sections = self.keys.section_of(rows.column(0).to_numpy())
        small = sections.astype(np.uint16) if self.keys.sections < 1 << _MOST_BITS else sections
        order = pa.array(np.argsort(small, kind="stable"))
        counts = np.bincount(sections, minlength=self.keys.sections + 1)
        ordered = _one_batch(rows.take(order).combine_chunks())
        with (
            self.release.store.write(self._run_path(at), durable=False) as file,
            pa.ipc.new_file(pa.PythonFile(file, "w"), self.run_schema) as writer,
        ):
            start = 0
            for count in counts[:-1].tolist():
                writer.write_batch(ordered.slice(start, count))
                start += count
        return count_all

    def write_file(self, at: int, units: int) -> tuple[SideFile | None, Counter[str]]:
        """Write the file that belongs to data file `at`; return None if it has no rows."""
        data = self.data[at]
        places, rows = self._rows_of(at, units)
        left_out = Counter(not_in_release=-len(rows))
        span = data.last_id + 1 - data.first_id
        chosen = np.full(span, -1, np.int64)
        chosen[places] = np.arange(len(places))
        present = chosen >= 0
        if np.count_nonzero(present) < len(places):
            chosen = np.full(span, len(places), np.int64)
            np.minimum.at(chosen, places, np.arange(len(places)))
            left_out["repeated"] = len(places) - int(np.count_nonzero(present))
        if data.rows < span:
            alive = self.release.store.read_table(self.release.path(data.path), ["id"])["id"].to_numpy()
            removed = present.copy()
            removed[alive - data.first_id] = False
            left_out["not_in_release"] += int(np.count_nonzero(removed))
            present &= ~removed
        at_places = np.flatnonzero(present)
        if not len(at_places):
            return None, left_out
        rows = rows.take(pa.array(chosen[at_places])).add_column(0, "id", pa.array(data.first_id + at_places))
        schema = side_schema(self.columns)
        path = side_path(self.release, self.name, self.generation, data)
        with table_writer(self.release.store, self.release.path(path), schema) as writer:
            writer.write(rows)
        file = SideFile(path=path, data=data.path, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
        return file, left_out

    def _rows_of(self, at: int, units: int) -> tuple[Integers, pa.Table]:
        """Return the rows that belong to data file `at`, and their positions in it, in the order of the source."""
        found = self.keys.file(at)
        places = [np.empty(0, np.int64)]
        tables = [self.columns.empty_table()]
        with ExitStack() as stack:
            runs = [
                pa.ipc.open_file(stack.enter_context(self.release.store.open_input(self._run_path(unit))))
                for unit in range(units)
            ]
            for section in found.sections:
                rows = pa.Table.from_batches([run.get_batch(section) for run in runs], self.run_schema).combine_chunks()
                hits = found.find(section, rows[_KEY].to_numpy())
                places.append(hits.places)
                tables.append(rows.take(pa.array(hits.keys)).drop_columns([_KEY]))
        return np.concatenate(places), pa.concat_tables(tables).combine_chunks()

    def delete(self) -> None:
        """Delete the runs."""
        for path in self.release.store.list(self.folder):
            self.release.store.delete(path)
        self.release.store.delete_empty_folders(self.folder)

    def _run_path(self, unit: int) -> str:
        return f"{self.folder}/{unit:06d}.arrow"


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
