"""Writing a side table: runs of rows with ids, then one file for each data file, then the record.

Units are functions that return rows, so that tables of any source are written in one way.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
from dataset.recipe.extra_columns import type_name
from dataset.side_tables.lookup import NO_ID
from dataset.stats.threads import map_in_order

Integers = npt.NDArray[np.int64]
UnitRows = Callable[[], tuple[Integers, pa.Table]]
"""Returns the ids of a unit's rows, NO_ID for rows that are not in the release, and their columns."""
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Written:
    """The table, and what became of the source's rows that are not in it."""

    table: SideTable
    left_out: Mapping[str, int]


def write_side_table(
    release: Release,
    name: str,
    columns: pa.Schema,
    units: Sequence[UnitRows],
    *,
    source: str,
    threads: int = 1,
    on_progress: Progress = lambda *_: None,
) -> Written:
    """Write a table from units, and replace the one of this name; of rows with one id, the first counts.

    Raises: SideTableError when no row is in the release; StoreError. Called again, it begins anew.
    """
    check_table_name(name)
    tables = read_side_tables(release)
    generation = tables[name].generation + 1 if name in tables else 1
    data = [file for file in release.files(FileKind.DATA) if file.rows]
    work = _Work(release, f"joining/{release.record.name}/{name}", name, generation, data, side_schema(columns))
    work.delete()
    left_out: Counter[str] = Counter()
    numbered = list(enumerate(units))
    for done, missing in enumerate(map_in_order(work.write_run, numbered, threads), 1):
        left_out["not_in_release"] += missing
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
    )
    register_table(release, table)
    return Written(table, {reason: rows for reason, rows in sorted(left_out.items()) if rows})


def register_table(release: Release, table: SideTable) -> None:
    """Put a table whose files are written into the record, and delete the files of the one that it replaces.

    Raises: ReleaseError when rows were removed from the release since it was opened; StoreError.
    """
    require_live(release)
    tables = read_side_tables(release)
    write_side_tables(release, {**tables, table.name: table}.values())
    if table.name in tables:
        delete_side_files(release, tables[table.name])


@dataclass(frozen=True, slots=True)
class _Work:
    """A table under way; runs lie in `folder` of the release's store."""

    release: Release
    folder: str
    name: str
    generation: int
    data: Sequence[ReleaseFile]
    schema: pa.Schema

    def write_run(self, unit: tuple[int, UnitRows]) -> int:
        """Write a unit's rows by id, a record batch for each data file; return how many are not in the release."""
        at, read = unit
        ids, rows = read()
        found = np.flatnonzero(ids != NO_ID)
        order = found[np.argsort(ids[found], kind="stable")]
        ordered = ids[order]
        if len(order) < len(rows) or np.any(order[1:] < order[:-1]):
            rows = rows.take(pa.array(order))
        rows = rows.add_column(0, "id", pa.array(ordered)).select(self.schema.names).cast(self.schema)
        inside = 0
        with (
            self.release.store.write(self._run_path(at)) as file,
            pa.ipc.new_file(pa.PythonFile(file, "w"), self.schema) as writer,
        ):
            for one in self.data:
                first, end = np.searchsorted(ordered, (one.first_id, one.last_id + 1))
                section = rows.slice(first, end - first).combine_chunks()
                writer.write_batch(_one_batch(section))
                inside += int(end - first)
        return len(ids) - inside

    def write_file(self, at: int, units: int) -> tuple[SideFile | None, Counter[str]]:
        """Write the file that belongs to data file `at`; None if there is no row for it."""
        data, sections = self.data[at], []
        for unit in range(units):
            with self.release.store.open_input(self._run_path(unit)) as file:
                sections.append(pa.ipc.open_file(file).get_batch(at))
        rows = pa.Table.from_batches(sections, self.schema)
        ids = rows["id"].to_numpy()
        left_out: Counter[str] = Counter()
        if len(ids) and np.any(ids[1:] <= ids[:-1]):
            order = np.argsort(ids, kind="stable")
            ordered = ids[order]
            kept = order[np.concatenate(([True], ordered[1:] != ordered[:-1]))]
            left_out["repeated"] = len(ids) - len(kept)
            rows = rows.take(pa.array(kept))
        if data.rows < data.last_id + 1 - data.first_id:
            alive = self.release.store.read_table(self.release.path(data.path), ["id"])["id"].to_numpy()
            present = np.isin(rows["id"].to_numpy(), alive)
            left_out["not_in_release"] = int(np.count_nonzero(~present))
            rows = rows.filter(pa.array(present))
        if not len(rows):
            return None, left_out
        path = side_path(self.name, self.generation, data)
        with table_writer(self.release.store, self.release.path(path), self.schema) as writer:
            writer.write(rows)
        file = SideFile(path=path, data=data.path, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
        return file, left_out

    def delete(self) -> None:
        """Delete the runs."""
        for path in self.release.store.list(self.folder):
            self.release.store.delete(path)

    def _run_path(self, unit: int) -> str:
        return f"{self.folder}/{unit:06d}.arrow"


def _one_batch(rows: pa.Table) -> pa.RecordBatch:
    batches = rows.to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
