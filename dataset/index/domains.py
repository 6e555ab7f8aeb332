"""Rows by the domains of their URL: its host and every domain above it, such as img.example.co.uk, example.co.uk, co.uk
and uk. Domains are kept as hashes, so a removed row leaves no name behind.

domains   uint64: D
hashes    (D,) uint64, ascending: xxh64 of the domain in its normal form
starts    (D + 1,) uint32: where each domain's rows begin in `places`
places    (M,) uint32: rows by their places in the range, once for each domain; REMOVED for one that was removed
"""

from functools import lru_cache
from itertools import chain
from urllib.parse import urlsplit

import ada_url
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

REMOVED = np.uint32(2**32 - 1)
_URLS = ("URL", "url")
_MOST_ABOVE = 7
"""Of a host with more domains above it only the shortest are kept."""


def pack_domains(rows: pa.Table) -> bytes | None:
    """Return the file of a range's rows; None when they have no URL."""
    name = next((one for one in _URLS if one in rows.column_names), None)
    if name is None:
        return None
    hashes_of_rows = [_hashes(_host_of(url or "")) for url in rows[name].to_pylist()]
    counts = np.fromiter(map(len, hashes_of_rows), np.int64, len(hashes_of_rows))
    hashes = np.fromiter(chain.from_iterable(hashes_of_rows), np.uint64, int(counts.sum()))
    order = np.argsort(hashes, kind="stable")
    places = np.repeat(np.arange(len(counts)), counts)[order]
    known, starts = np.unique(hashes[order], return_index=True)
    ends = np.append(starts, len(order))
    head = np.array([len(known)], "<u8").tobytes()
    return head + known.astype("<u8").tobytes() + ends.astype("<u4").tobytes() + places.astype("<u4").tobytes()


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


@lru_cache(1 << 16)
def _hashes(host: str) -> tuple[int, ...]:
    """Return the numbers that stand for a host's domains; an IP address has no domain above it."""
    host = normal_domain(host)
    if not host:
        return ()
    labels = host.split(".")
    if ":" in host or labels[-1].isdecimal():
        return (_hash_of(host),)
    above = [".".join(labels[at:]) for at in range(max(1, len(labels) - _MOST_ABOVE), len(labels))]
    return tuple(_hash_of(domain) for domain in (host, *above))


def normal_domain(text: str) -> str:
    """Return a domain as URLs have it: in lower case, international names in ASCII, without `*.` and final dots."""
    domain = text.lower().removeprefix("*.").strip(".")
    if domain.isascii():
        return domain
    try:
        return ada_url.URL(f"http://{domain}/").hostname
    except ValueError:
        return domain


def _hash_of(domain: str) -> int:
    return xxhash.xxh64_intdigest(domain.encode())


class Domains:
    """The file of a range; `data` may be a memory map."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        count = int(data[:8].view("<u8")[0])
        self._hashes = data[8 : 8 + 8 * count].view("<u8")
        self._starts = data[8 + 8 * count : 12 + 12 * count].view("<u4")
        self._places = data[12 + 12 * count :].view("<u4")

    def rows(self, domain: str) -> npt.NDArray[np.int64]:
        """Return the places in the range of the rows in a domain, in order -> (n,) int64."""
        wanted = np.uint64(_hash_of(normal_domain(domain)))
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            return np.empty(0, np.int64)
        places = self._places[self._starts[at] : self._starts[at + 1]]
        return np.asarray(places[places != REMOVED], np.int64)

    def remove(self, places: npt.NDArray[np.int64]) -> None:
        """Forget rows; the data must be writable."""
        self._places[np.isin(self._places, places.astype(np.uint32))] = REMOVED
