"""Rows by the registrable domain of their URL: the domains in order, and the places of each one's rows in the range."""

import io
from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_URLS = ("URL", "url")


def pack_domains(rows: pa.Table) -> bytes | None:
    """Return the file of a range's rows; None when they have no URL.

    Three arrays follow each other: the domains joined by newlines, in the order of their bytes (uint8); the first row
    of each in the third, and the end (D + 1, uint32); the places of the rows (N, uint32).
    """
    name = next((one for one in _URLS if one in rows.column_names), None)
    if name is None:
        return None
    of_row = [domain_of(url) if url else "" for url in rows[name].to_pylist()]
    known = sorted(set(of_row) - {""})
    number = {domain: at for at, domain in enumerate(known)}
    numbers = np.array([number.get(domain, -1) for domain in of_row], np.int64)
    places = np.flatnonzero(numbers >= 0)
    order = places[np.argsort(numbers[places], kind="stable")]
    starts = np.searchsorted(numbers[order], np.arange(len(known) + 1))
    file = io.BytesIO()
    np.save(file, np.frombuffer("\n".join(known).encode(), np.uint8))
    np.save(file, starts.astype("<u4"))
    np.save(file, order.astype("<u4"))
    return file.getvalue()


def domain_of(url: str) -> str:
    """Return the registrable domain of a URL, '' when it has no host."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return ""
    return _domain(host)


@lru_cache(1 << 16)
def _domain(host: str) -> str:
    from dataset.stats.suffixes import suffix_rules

    return suffix_rules().domain(host.lower().rstrip(".")) if host else ""


class Domains:
    """The domains of a range."""

    def __init__(self, data: bytes) -> None:
        file = io.BytesIO(data)
        self._names = np.load(file).tobytes().decode().split("\n")
        self._starts, self._places = np.load(file), np.load(file)

    def rows(self, domain: str) -> npt.NDArray[np.int64]:
        """Return the places in the range of a domain's rows, in order -> (n,) int64."""
        import bisect

        at = bisect.bisect_left(self._names, domain)
        if at == len(self._names) or self._names[at] != domain:
            return np.empty(0, np.int64)
        places: npt.NDArray[np.int64] = self._places[self._starts[at] : self._starts[at + 1]].astype(np.int64)
        return places
