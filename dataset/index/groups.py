"""Groups of near-duplicates in an index: of each row the representative of its group and the group's size.

Source: the side table `duplicates` of a release. A row without a group represents itself. `groups` has a record for
each row of a range, by place; `members` has the places of the range's rows that are in groups of two or more, by
(representative, id), so that a group's rows are found by bisection.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]

RECORD = np.dtype([("representative", "<i8"), ("group_size", "<u4")])
COLUMNS: tuple[str, ...] = tuple(RECORD.names or ())
ROLES = {"groups": "bin", "members": "u32"}
"""The files of a range, with the endings of their names."""


def make_records(ids: Integers, representatives: Integers, sizes: Integers) -> Records:
    """Return the records of rows -> (N,) RECORD; a size below 1 means that a row has no group."""
    found = np.empty(len(ids), RECORD)
    known = sizes > 0
    found["representative"] = np.where(known, representatives, ids)
    found["group_size"] = np.where(known, sizes, 1)
    return found


def order_members(ids: Integers, records: Records) -> npt.NDArray[np.uint32]:
    """Return the places of rows in groups of two or more, by (representative, id) -> (M,) uint32."""
    places = np.flatnonzero(records["group_size"] > 1)
    order = np.lexsort((ids[places], records["representative"][places]))
    return places[order].astype("<u4")


def pack_groups(ids: Integers, records: Records) -> dict[str, bytes]:
    """Return the files of a range by role."""
    return {"groups": records.tobytes(), "members": order_members(ids, records).tobytes()}


class Groups:
    """The groups of a range, over its mapped files."""

    def __init__(self, records: Records, members: npt.NDArray[Any]) -> None:
        self.records, self._members = records, members

    def members(self, representative: int) -> Integers:
        """Return the places of a group's rows, removed ones too, by id -> (n,) int64; none for a row without others."""
        start, end = (self._first(representative + more) for more in (0, 1))
        return np.asarray(self._members[start:end], np.int64)

    def _first(self, representative: int) -> int:
        """Return the first place in the order whose representative is at least this."""
        low, high = 0, len(self._members)
        while low < high:
            middle = (low + high) // 2
            if int(self.records["representative"][int(self._members[middle])]) < representative:
                low = middle + 1
            else:
                high = middle
        return low
