"""Files for other users: a table's columns with hashes, as LAION shares tags, and data files with a table's columns."""

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import ReleaseFile
from dataset.formats.side_tables import SideTableError
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order
from dataset.store.store import Store

Progress = Callable[[str, int, int], None]


def write_copy(
    rows: ReleaseRows,
    columns: Sequence[str],
    out: Store,
    *,
    threads: int = 1,
    on_progress: Progress = lambda *_: None,
) -> int:
    """Write columns of all rows, a file for each data file under its own path; return the number of rows.

    `table.column` is written as `column`, and a data column of that name is left out.

    Raises: SideTableError when a column is unknown, or the folder already contains such a file; StoreError.
    """
    known = rows.schema
    missing = [name for name in columns if name not in known.names]
    if missing:
        raise SideTableError(
            f"{rows.release.record.name} has no column {', '.join(missing)}, only {', '.join(known.names)}."
        )
    written_names = {name.rpartition(".")[2]: name for name in columns}
    if len(written_names) < len(columns):
        columns = [name for name in columns if written_names[name.rpartition(".")[2]] == name]
    schema = pa.schema([(name.rpartition(".")[2], known.field(name).type) for name in columns])
    files = list(_by_file(rows.row_groups()))
    taken = [file.path for file, _ in files if out.exists(_path(file))]
    if taken:
        raise SideTableError(f"{out.uri} already contains {_path(files[0][0])}: name an empty folder.")

    def write(one: tuple[ReleaseFile, list[RowGroup]]) -> int:
        with table_writer(out, _path(one[0]), schema) as writer:
            for group in one[1]:
                writer.write(rows.read(group, columns).rename_columns(schema.names))
        return writer.rows

    total = 0
    for done, count in enumerate(map_in_order(write, files, threads), 1):
        total += count
        on_progress("writing", done, len(files))
    return total


def _path(data: ReleaseFile) -> str:
    return data.path.partition("/")[2]


def _by_file(groups: Iterator[RowGroup]) -> Iterator[tuple[ReleaseFile, list[RowGroup]]]:
    """Gather the row groups of each file."""
    gathered: list[RowGroup] = []
    for group in groups:
        if gathered and group.file.path != gathered[0].file.path:
            yield gathered[0].file, gathered
            gathered = []
        gathered.append(group)
    if gathered:
        yield gathered[0].file, gathered
