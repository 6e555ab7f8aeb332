"""Uniqueness by URL or by picture: of several rows with the same URL, or the same sha256, only the best is published.

    run phase    ─▶ values of each run,  in sections by range of the value
    earlier unit ─▶ values of a file of an earlier batch, in the same sections; they have priority over all others value
    unit   ─▶ which rows lose in one range of values, in sections by range of their hash range phase  ─▶ drops them
    before anything else

This is one more external sort. Values are compared by 64 bits: of 6 billion rows, about one is dropped by mistake.
"""

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.url_hashes import url_hashes
from dataset.publish.digests import digest_bytes
from dataset.publish.plan import Work
from dataset.publish.record_file import RecordFile, Records
from dataset.publish.sections import range_of

VALUE = np.dtype([("value", "<i8"), ("similarity", "<f8"), ("key", "<i8"), ("row", "<i4"), ("range", "<i4")])
"""`row` is the row number in the run, `range` the range of its hash."""
LOSER = np.dtype([("group", "<i4"), ("row", "<i4")])


class UniqueBy(StrEnum):
    """The column that must be unique in addition to the hash; the value is its name in lower case."""

    URL = "url"
    SHA256 = "sha256"

    @property
    def reason(self) -> str:
        """The reason under which dropped rows are counted."""
        return f"same_{self.value}"


def write_values(work: Work, group: int, rows: pa.Table) -> None:
    """Write the values of a run's rows, for each kind of uniqueness that the plan has."""
    ranges = range_of(rows["hash"].to_numpy(), work.plan.ranges)
    for by in map(UniqueBy, work.plan.options.unique):
        records = np.empty(len(rows), VALUE)
        records["value"], known = _values(by, rows)
        records["similarity"] = rows["similarity"].fill_null(-2.0).to_numpy()
        records["key"] = rows["key"].to_numpy()
        records["row"] = np.arange(len(rows))
        records["range"] = ranges
        _write(_value_file(work, by, f"{group:06d}"), records[known])


def write_earlier(work: Work, by: UniqueBy, at: int) -> None:
    """Write the values of file `at` of the earlier batches."""
    column = by.value.upper() if by is UniqueBy.URL else by.value
    with work.release_store.open_input(work.plan.earlier_data[at]) as file:
        rows = pq.ParquetFile(file).read(columns=[column], use_threads=False)
    records = np.zeros(len(rows), VALUE)
    records["value"], known = _values(by, rows)
    records["similarity"] = np.inf
    _write(_value_file(work, by, f"earlier-{at:06d}"), records[known])


def write_losers(work: Work, by: UniqueBy, at: int) -> None:
    """Write the rows to drop in range `at` of the values, in sections by the range of their hash."""
    found: list[Records] = []
    groups: list[npt.NDArray[np.int32]] = []
    inputs: list[npt.NDArray[np.int16]] = []
    for group, position in [*((-1, -1) for _ in work.plan.earlier_data), *enumerate(work.group_inputs)]:
        name = f"{group:06d}" if group >= 0 else f"earlier-{len(found):06d}"
        records, _ = _value_file(work, by, name).read(at, 1)
        found.append(records)
        groups.append(np.full(len(records), group, np.int32))
        inputs.append(np.full(len(records), position, np.int16))
    records, group_of = np.concatenate(found), np.concatenate(groups)
    order = np.lexsort((records["key"], np.concatenate(inputs), -records["similarity"], records["value"]))
    again = np.concatenate(([False], records["value"][order][1:] == records["value"][order][:-1]))
    lost = order[again & (group_of[order] >= 0)]
    lost = lost[np.lexsort((records["row"][lost], group_of[lost], records["range"][lost]))]
    losers = np.empty(len(lost), LOSER)
    losers["group"], losers["row"] = group_of[lost], records["row"][lost]
    counts = np.bincount(records["range"][lost], minlength=work.plan.ranges)
    _loser_file(work, by, at).write(losers, counts)


def read_losers(work: Work, at: int) -> Iterator[tuple[UniqueBy, Records]]:
    """Yield, for each kind of uniqueness, the rows to drop in a range of hashes."""
    for by in map(UniqueBy, work.plan.options.unique):
        yield by, np.concatenate([_loser_file(work, by, part).read(at, 1)[0] for part in range(work.plan.value_ranges)])


def _values(by: UniqueBy, rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return 64 bits of each row's value, and which rows have a value."""
    match by:
        case UniqueBy.URL:
            return url_hashes(rows["URL"]).view(np.int64), np.ones(len(rows), bool)
        case UniqueBy.SHA256:
            digests = digest_bytes(rows["sha256"], 32)
            data = np.frombuffer(digests.buffers()[1], "<i8").reshape(-1, 4)
            return data[digests.offset : digests.offset + len(digests), 0], rows["sha256"].is_valid().to_numpy()


def _write(file: RecordFile, records: Records) -> None:
    order = np.argsort(records["value"])
    sections = range_of(records["value"], file.sections)
    file.write(records[order], np.bincount(sections, minlength=file.sections))


def _value_file(work: Work, by: UniqueBy, name: str) -> RecordFile:
    return RecordFile(work.store, work.path(f"unique-{by.value}/{name}.values"), VALUE, work.plan.value_ranges)


def _loser_file(work: Work, by: UniqueBy, at: int) -> RecordFile:
    return RecordFile(work.store, work.path(f"unique-{by.value}/{at:06d}.losers"), LOSER, work.plan.ranges)
