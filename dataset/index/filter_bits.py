"""The rows of a segment that pass a filter, as a bitmap over positions, filled range by range when it is needed.

Ranges that no query looks at are never filled: their bytes are zero pages, which take no memory. Facet counts estimate
what a range holds before it is filled; afterwards its counts are exact.
"""

import threading

import numpy as np
import numpy.typing as npt

from dataset.index.facets import ALIVE, sum_by_list
from dataset.index.filters import Condition, Filter
from dataset.index.mapped import MappedRange, MappedSegment
from dataset.index.neighbours import passes

Bits = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class FilterBits:
    """The bitmap of one filter over one segment, and the number of passing rows of each list."""

    def __init__(self, segment: MappedSegment, where: Filter) -> None:
        self._segment, self._where = segment, where
        self.bits: Bits = np.zeros(-(-segment.end // 8) + 8, np.uint8)
        self._filled = np.zeros(len(segment.ranges), bool)
        self._lock = threading.Lock()
        self._positions: Integers | None = None
        self.counts = np.concatenate([_estimate(one, where) for one in segment.ranges])
        self._range_of_list = np.repeat(np.arange(len(segment.ranges)), [one.lists for one in segment.ranges])
        if where.hosts:
            self.fill_all()  # rows of a host are few, and in any list

    @property
    def filled_bytes(self) -> int:
        """Bytes of the ranges that were filled."""
        return sum(-(-one.count // 8) for one, full in zip(self._segment.ranges, self._filled, strict=True) if full)

    @property
    def exact(self) -> bool:
        """Whether all counts are exact."""
        return bool(self._filled.all())

    def fill_lists(self, lists: Integers) -> None:
        """Fill the ranges of these lists."""
        if self.exact:
            return
        for at in np.unique(self._range_of_list[lists]).tolist():
            self._fill(at)

    def passes(self, positions: Integers) -> npt.NDArray[np.bool_]:
        """Return which positions pass -> (n,) bool."""
        at, _ = self._segment.split(positions)
        for one in np.unique(at).tolist():
            self._fill(one)
        return np.asarray((self.bits[positions >> 3] >> (positions & 7).astype(np.uint8)) & 1, bool)

    def fill_all(self) -> None:
        """Fill all ranges."""
        for at in range(len(self._segment.ranges)):
            self._fill(at)

    def _fill(self, at: int) -> None:
        with self._lock:
            if self._filled[at]:
                return
            one = self._segment.ranges[at]
            bits = passing_bits(one, self._where)
            self.bits[one.base // 8 : one.base // 8 + len(bits)] = bits
            mask = np.unpackbits(bits, count=one.count, bitorder="little")
            self.counts[one.first_list : one.first_list + one.lists] = sum_by_list(mask, one.sizes)
            self._filled[at] = True

    def positions(self) -> Integers:
        """Return the positions of all rows that pass, in order -> (n,) int64; kept, as only few are asked for."""
        if self._positions is not None:
            return self._positions
        self.fill_all()
        full = np.flatnonzero(self.bits)
        offset = np.unpackbits(self.bits[full][:, None], axis=1, bitorder="little")
        byte, bit = np.nonzero(offset)
        self._positions = full[byte] * 8 + bit
        return self._positions


def passing_bits(one: MappedRange, where: Filter) -> Bits:
    """Return the bitmap of a range's rows that pass."""
    bits = _facet_bits(one, (ALIVE,))
    for condition in where.conditions:
        bits &= _condition_bits(one, condition)
    if where.hosts:
        bits &= _host_bits(one, where.hosts)
    if where.hosts_out:
        bits &= ~_host_bits(one, where.hosts_out)
    if where.share < 1:
        bits &= np.packbits(passes(np.asarray(one.ids), where.share), bitorder="little")
    return bits


def _condition_bits(one: MappedRange, condition: Condition) -> Bits:
    bits = _facet_bits(one, condition.facets)
    return ~bits if condition.negated else bits


def _host_bits(one: MappedRange, hosts: tuple[str, ...]) -> Bits:
    mask = np.zeros(one.count, bool)
    for host in hosts:
        mask[one.domain_rows(host)] = True
    return np.packbits(mask, bitorder="little")


def _facet_bits(one: MappedRange, facets: tuple[str, ...]) -> Bits:
    bits = np.zeros(one.bits.shape[1], np.uint8)
    for facet in facets:
        if facet in one.facets:
            bits |= one.bits[one.facets.index(facet)]
    return bits


def _estimate(one: MappedRange, where: Filter) -> npt.NDArray[np.float64]:
    """Return about how many rows of each list pass, as if conditions were independent -> (lists,)."""
    counts = np.asarray(one.counts, np.float64)
    sizes = np.maximum(np.asarray(one.sizes, np.float64), 1)
    passing = _facet_counts(one, counts, (ALIVE,))
    for condition in where.conditions:
        share = np.minimum(1.0, _facet_counts(one, counts, condition.facets) / sizes)
        passing = passing * ((1 - share) if condition.negated else share)
    return passing * where.share


def _facet_counts(
    one: MappedRange, counts: npt.NDArray[np.float64], facets: tuple[str, ...]
) -> npt.NDArray[np.float64]:
    known = [one.facets.index(facet) for facet in facets if facet in one.facets]
    found: Counts = counts[:, known].sum(axis=1)
    return found
