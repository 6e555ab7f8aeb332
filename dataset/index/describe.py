"""Describe: the columns of a range of ids, divided among the ranges of lists that their vectors are in.

The file is Arrow IPC with a record batch for each range of lists: the list of each row, then id and columns, by id.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.index_files import SearchIndexError
from dataset.formats.steps import UnitResult
from dataset.index.add import add_path
from dataset.index.add_files import read_head
from dataset.index.plan import DESCRIBED_IDS, Work
from dataset.index.sources import NO_HASH

LIST = "__list"


def describe_path(unit: int) -> str:
    """Return the path in the work of a unit's file."""
    return f"describe/{unit:06d}.arrow"


def describe_unit(work: Work, unit: int) -> UnitResult:
    """Write the columns of a range of ids.

    Raises: SearchIndexError when an id was embedded twice, or with another pair; StoreError.
    """
    plan = work.plan
    part = work.source.id_ranges(DESCRIBED_IDS)[unit]
    ids, lists, hashes = _pairs(work, unit)
    rows = work.source.read_rows(part, groups=plan.groups)
    known = rows["id"].to_numpy()
    at = np.minimum(np.searchsorted(ids, known), max(0, len(ids) - 1))
    has_vector = ids[at] == known if len(ids) else np.zeros(len(known), bool)
    rows, at = rows.filter(pa.array(has_vector)), at[has_vector]
    if "hash" in rows.column_names and len(at):
        wrong = (hashes[at] != NO_HASH) & (hashes[at] != rows["hash"].to_numpy())
        if wrong.any():
            raise SearchIndexError(
                f"The vector of id {int(ids[at[np.argmax(wrong)]])} was made of another pair: run `dataset embeddings` "
                "again with --restart."
            )
    lists = lists[at]
    order = np.argsort(lists, kind="stable")
    rows = rows.add_column(0, LIST, pa.array(lists)).take(pa.array(order))
    borders = np.searchsorted(lists[order], [plan.first_list(one) for one in range(plan.ranges + 1)])
    with (
        work.store.write(work.path(describe_path(unit))) as file,
        pa.ipc.new_file(pa.PythonFile(file, "w"), rows.schema) as writer,
    ):
        for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            section = rows.slice(start, end - start).combine_chunks().to_batches()
            writer.write_batch(section[0] if section else pa.RecordBatch.from_pylist([], schema=rows.schema))
    return UnitResult(len(ids), len(rows))


def _pairs(work: Work, unit: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Return ids, lists and hashes of the vectors whose ids are in the unit's range, by id."""
    found: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.int64]]] = []
    for one in range(work.plan.add_units):
        path = work.path(add_path(one))
        with work.store.open_input(path) as file:
            sections = read_head(file, path).sections
            first, end = sections["pairs"].read(file, unit, unit + 2).tolist()
            if end > first:
                names = ("pair_ids", "pair_lists", "pair_hashes")
                found.append(tuple(sections[name].read(file, first, end) for name in names))  # type: ignore[arg-type]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0, np.int64)
    ids, lists, hashes = (np.concatenate([one[part] for one in found]) for part in range(3))
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if np.any(ids[1:] == ids[:-1]):
        raise SearchIndexError(
            f"The id {int(ids[np.argmax(ids[1:] == ids[:-1])])} has two vectors: run `dataset embeddings` again with "
            "--restart."
        )
    return ids, lists[order].astype(np.uint32), hashes[order].astype(np.int64)
