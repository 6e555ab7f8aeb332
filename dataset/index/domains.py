"""Rows by the registrable domain of their URL. Domains are kept as hashes, so a removed row leaves no name behind.

domains   uint64: D
hashes    (D,) uint64, ascending: xxh64 of the domain in lower case
starts    (D + 1,) uint32: where each domain's rows begin in `places`
places    (N,) uint32: rows by their places in the range; REMOVED for one that was removed
"""

from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from dataset.stats.suffixes import suffix_rules

REMOVED = np.uint32(2**32 - 1)
_URLS = ("URL", "url")


def pack_domains(rows: pa.Table) -> bytes | None:
    """Return the file of a range's rows; None when they have no URL."""
    name = next((one for one in _URLS if one in rows.column_names), None)
    if name is None:
        return None
    hashes = np.fromiter((_hash_of(url) for url in rows[name].to_pylist()), np.uint64, len(rows))
    places = np.flatnonzero(hashes)
    order = places[np.argsort(hashes[places], kind="stable")]
    known, starts = np.unique(hashes[order], return_index=True)
    ends = np.append(starts, len(order))
    head = np.array([len(known)], "<u8").tobytes()
    return head + known.astype("<u8").tobytes() + ends.astype("<u4").tobytes() + order.astype("<u4").tobytes()


def domain_of(url: str) -> str:
    """Return the registrable domain of a URL, '' when it has no host."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return _domain(host)


@lru_cache(1 << 16)
def _domain(host: str) -> str:
    return suffix_rules().domain(host.lower().rstrip(".")) if host else ""


def _hash_of(url: str | None) -> int:
    domain = domain_of(url) if url else ""
    return domain_hash(domain) if domain else 0


@lru_cache(1 << 16)
def domain_hash(domain: str) -> int:
    """Return the number that stands for a domain."""
    return xxhash.xxh64_intdigest(domain.lower().encode())


class Domains:
    """The file of a range; `data` may be a memory map."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        count = int(data[:8].view("<u8")[0])
        self._hashes = data[8 : 8 + 8 * count].view("<u8")
        self._starts = data[8 + 8 * count : 12 + 12 * count].view("<u4")
        self._places = data[12 + 12 * count :].view("<u4")

    def rows(self, domain: str) -> npt.NDArray[np.int64]:
        """Return the places in the range of a domain's rows, in order -> (n,) int64."""
        wanted = np.uint64(domain_hash(domain))
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            return np.empty(0, np.int64)
        places = self._places[self._starts[at] : self._starts[at + 1]]
        return np.asarray(places[places != REMOVED], np.int64)

    def remove(self, places: npt.NDArray[np.int64]) -> None:
        """Forget rows; the data must be writable."""
        self._places[np.isin(self._places, places.astype(np.uint32))] = REMOVED
