"""The file phase: one output file of a subset, with its extended, source and variant files, its hosts and statistics.

A file has the published rows of its subset between two positions, so its content depends only on the rows, not on the
ranges from which they are read.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.release_parquet import HashedFile, TableWriter, table_writer
from dataset.formats.releases import (
    HOST_COUNTS_SCHEMA,
    ROW_GROUP_ROWS,
    SOURCE_SCHEMA,
    SUBSETS,
    FileKind,
    ReleaseFile,
    data_schema,
    extended_schema,
    ids_path,
    table_path,
)
from dataset.publish.hosts import HostCounts
from dataset.publish.plan import Work
from dataset.publish.predicates import filter_rows, parse_predicate
from dataset.publish.ranges import read_range
from dataset.stats.columns import find_columns
from dataset.stats.rows import RowCounter
from dataset.stats.saved import counts_to_bytes
from dataset.stats.units import saved_path


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUnit:
    """File `at` of the `files` of a subset: its rows are in `ranges`, after the first `skip` rows of these."""

    subset: str
    at: int
    files: int
    first_id: int
    rows: int
    ranges: range
    skip: int


def plan_files(work: Work, range_rows: npt.NDArray[np.int64]) -> list[FileUnit]:
    """Return the output files for the rows of each range and subset, (ranges, subsets), the largest first."""
    units: list[FileUnit] = []
    first_id = work.plan.first_id
    for number, subset in enumerate(SUBSETS):
        ends = np.cumsum(range_rows[:, number])
        total = int(ends[-1])
        files = -(-total // work.plan.options.rows_per_file)
        for at in range(files):
            start, end = total * at // files, total * (at + 1) // files
            first = int(np.searchsorted(ends, start, side="right"))
            last = int(np.searchsorted(ends, end, side="left"))
            units.append(
                FileUnit(
                    subset=subset,
                    at=at,
                    files=files,
                    first_id=first_id + start,
                    rows=end - start,
                    skip=start - int(ends[first - 1] if first else 0),
                    ranges=range(first, last + 1),
                )
            )
        first_id += total
    return sorted(units, key=lambda unit: -unit.rows)


def write_file(work: Work, unit: FileUnit) -> list[ReleaseFile]:
    """Write a file of each kind, and return their entries for the record.

    Raises: StoreError when the store cannot be written.
    """
    # memory that units of the run phase freed: the units of this phase are larger, and allocate other sizes
    pa.default_memory_pool().release_unused()
    plan, hosts, counter = work.plan, HostCounts(), RowCounter(unit.subset)
    predicates = {name: parse_predicate(text) for name, text in plan.options.variants.items()}
    data = data_schema(unit.subset, aesthetic=plan.aesthetic)
    columns = find_columns(data.names, "the release")
    outputs = [
        (FileKind.DATA, None, data),
        (FileKind.EXTENDED, None, extended_schema(plan.columns)),
        (FileKind.SOURCE, None, SOURCE_SCHEMA),
        *((FileKind.VARIANT, name, data) for name in predicates),
        (FileKind.HOSTS, None, HOST_COUNTS_SCHEMA),
    ]
    written: list[tuple[ReleaseFile, TableWriter]] = []
    with ExitStack() as stack:
        for kind, variant, schema in outputs:
            entry = _entry(unit, kind, plan.batch, variant)
            path = work.release_path(entry.path)
            written.append((entry, stack.enter_context(table_writer(work.release_store, path, schema))))
        for rows in in_groups(read_rows(work, unit), ROW_GROUP_ROWS):
            hosts.add(rows)
            counter.add(rows.select(data.names).combine_chunks().to_batches()[0], columns)
            for entry, writer in written:
                if entry.kind is not FileKind.HOSTS:
                    writer.write(filter_rows(rows, predicates[entry.variant]) if entry.variant else rows)
        written[-1][1].write(hosts.table())
    counts = counts_to_bytes(counter.finish(), written[0][1].file.sha256)
    work.release_store.put(work.release_path(saved_path(written[0][0].path)), counts)
    return [
        replace(entry, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
        for entry, writer in written
    ]


def read_rows(work: Work, unit: FileUnit) -> Iterator[pa.Table]:
    """Yield the rows of a file range by range, in the order of their ids, with all columns of a release."""
    done = -unit.skip
    for at in unit.ranges:
        _, take = read_range(work, at, SUBSETS.index(unit.subset))
        wanted = take[max(0, -done) : unit.rows - done]
        if len(wanted):
            yield _take(work, at, unit, wanted, unit.first_id + max(0, done))
        done += len(take)


def in_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Split tables into groups of `rows` rows; the last one may be smaller.

    Sums of floats and frequent values depend on the grouping of rows, and ranges depend on the available memory; the
    bytes of a release must depend on neither.
    """
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= rows:
            together = pa.concat_tables(waiting)
            yield together.slice(0, rows).combine_chunks()
            waiting, count = [together.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _take(work: Work, at: int, unit: FileUnit, take: npt.NDArray[np.int64], first_id: int) -> pa.Table:
    """Take rows of a range's sections, joined in the order of the runs; ids count from `first_id`."""
    subset = SUBSETS.index(unit.subset)
    batches, inputs = [], []
    for group, position in enumerate(work.group_inputs):
        batch = work.run_file(group).read_rows(at, subset, work.row_schema)
        if batch is not None:
            batches.append(batch)
            inputs.append(np.full(len(batch), position, np.int16))
    rows = pa.Table.from_batches(batches).take(pa.array(take))
    source = np.concatenate(inputs)[take]
    crawls = pa.array([one.run for one in work.plan.inputs], pa.string())
    return (
        rows.append_column("id", pa.array(np.arange(first_id, first_id + len(take))))
        .append_column("input", pa.array(source))
        .append_column("crawl", crawls.take(pa.array(source - work.plan.first_input)))
    )


def write_ids(work: Work, subset: str, rows: int, first_id: int) -> ReleaseFile:
    """Write the hashes of a subset in the order of their ids, and return the file's entry.

    Raises: StoreError when the store cannot be written.
    """
    path = ids_path(subset, work.plan.batch)
    with work.release_store.write(work.release_path(path)) as file:
        hashed = HashedFile(file)
        for at in range(work.plan.ranges):
            hashes, _ = read_range(work, at, SUBSETS.index(subset))
            hashed.write(hashes.astype("<i8").tobytes())
    return ReleaseFile(
        path=path,
        kind=FileKind.IDS,
        subset=subset,
        batch=work.plan.batch,
        variant=None,
        rows=rows,
        bytes=hashed.bytes,
        sha256=hashed.sha256,
        first_id=first_id,
        last_id=first_id + rows - 1,
    )


def _entry(unit: FileUnit, kind: FileKind, batch: str, variant: str | None) -> ReleaseFile:
    return ReleaseFile(
        path=table_path(kind, unit.subset, batch, unit.at, unit.files, variant),
        kind=kind,
        subset=unit.subset,
        batch=batch,
        variant=variant,
        rows=0,
        bytes=0,
        sha256="",
        first_id=unit.first_id,
        last_id=unit.first_id + unit.rows - 1,
    )
