"""Read deny lists: the files `deny/*.parquet` in the store, which `dataset takedown` writes.

This module reads them itself, because the tracker does not import dataset/; a test compares the kinds. A list may have
many million entries: it is read in pieces, and converted into the numbers of a hash list.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import ada_url
import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tracker.errors import TrackerError
from tracker.storage.hash_lists import Numbers
from tracker.storage.open import open_store

FOLDER = "deny"
ENTRIES_AT_ONCE = 1 << 17
DIGEST_BYTES = {"sha256": 32, "md5": 16, "sha1": 20, "url": 32, "pdq": 32}
KINDS = frozenset({*DIGEST_BYTES, "pair", "host"})


class DenyListError(TrackerError):
    """A deny list cannot be read."""


@dataclass(slots=True)
class DenyList:
    """A list's numbers by kind, in the form of a hash list, and its hosts."""

    path: str
    numbers: dict[str, Numbers] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)


def list_deny_files(uri: str) -> list[str]:
    """Return the paths of the store's deny lists, oldest first.

    Raises:
        TrackerError: the store cannot be listed.
    """
    try:
        found = open_store(uri).get_file_info(pafs.FileSelector(FOLDER, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the deny lists in {uri} cannot be listed: {error}; check SHOAL_STORE") from error
    paths = (str(info.path) for info in found if info.type == pafs.FileType.File)
    return sorted(path for path in paths if path.endswith(".parquet"))


def read_deny_list(uri: str, path: str) -> DenyList:
    """Read a deny list.

    Raises:
        DenyListError: it is damaged, or has an entry of an unknown kind: otherwise a part of it would not be in force.
    """
    found = DenyList(path)
    gathered: dict[str, list[Numbers]] = {}
    try:
        for rows in _pieces(open_store(uri), path):
            for kind in rows["kind"].unique().to_pylist():
                values = rows["value"].filter(pc.equal(rows["kind"], kind)).to_pylist()
                gathered.setdefault(str(kind), []).append(_NUMBERS[kind](values))
                if kind == "host":
                    found.hosts.update(values)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DenyListError(f"the deny list {path} cannot be read: {error!r}; restore it") from error
    for kind in list(gathered):
        found.numbers[kind] = np.concatenate(gathered.pop(kind))
    return found


def _pieces(store: pafs.FileSystem, path: str) -> Iterator[pa.Table]:
    with store.open_input_file(path) as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):  # iter_batches keeps everything it has read in memory
            rows = parquet.read_row_group(group, columns=["kind", "value"])
            for start in range(0, len(rows), ENTRIES_AT_ONCE):
                yield rows.slice(start, ENTRIES_AT_ONCE)


def _digests(size: int, kept: int) -> Callable[[Sequence[str]], Numbers]:
    """Return a function that returns the first `kept` bytes of digests of `size` bytes as numbers."""

    def numbers(values: Sequence[str]) -> Numbers:
        data = np.frombuffer(bytes.fromhex("".join(values)), np.uint8).reshape(len(values), size)
        found: Numbers = np.ascontiguousarray(data[:, :kept]).view(">u8").astype(np.uint64).ravel()
        return found

    return numbers


def _pairs(values: Sequence[str]) -> Numbers:
    numbers: npt.NDArray[np.int64] = np.array([int(value) for value in values], np.int64)
    return numbers.view(np.uint64)


def _hosts(values: Sequence[str]) -> Numbers:
    return _digests(32, 8)([hashlib.sha256(value.strip("[]").encode()).hexdigest() for value in values])


_NUMBERS: Mapping[str, Callable[[Sequence[str]], Numbers]] = {
    **{kind: _digests(size, size if kind == "pdq" else 8) for kind, size in DIGEST_BYTES.items()},
    "pair": _pairs,
    "host": _hosts,
}


def _holds(known: Numbers, number: int) -> bool:
    at = int(np.searchsorted(known, np.uint64(number)))
    return at < len(known) and int(known[at]) == number


@dataclass(slots=True)
class LinkRules:
    """The URLs, pairs and hosts of deny lists, which are compared with waiting links."""

    urls: Numbers = field(default_factory=lambda: np.empty(0, np.uint64))
    """First 64 bits of the sha256 of each URL, sorted."""
    pairs: Numbers = field(default_factory=lambda: np.empty(0, np.uint64))
    """LAION's hashes, in two's complement, sorted."""
    hosts: set[str] = field(default_factory=set)

    def add(self, found: DenyList) -> None:
        """Add the entries of a list that concern links."""
        self.urls = np.union1d(self.urls, found.numbers.get("url", self.urls))
        self.pairs = np.union1d(self.pairs, found.numbers.get("pair", self.pairs))
        self.hosts.update(host.strip("[]") for host in found.hosts)

    def __bool__(self) -> bool:
        return bool(len(self.urls) or len(self.pairs) or self.hosts)

    def matches(self, url: str, text: str) -> bool:
        """Return whether a link is denied; a blank link is not."""
        if not url:
            return False
        if len(self.urls) and _holds(self.urls, int.from_bytes(hashlib.sha256(url.encode()).digest()[:8])):
            return True
        if len(self.pairs) and _holds(self.pairs, mmh3.hash64((url + text).encode(), signed=False)[0]):
            return True
        return bool(self.hosts) and self._is_host_denied(_host_of(url))

    def _is_host_denied(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[at:]) in self.hosts for at in range(len(labels)))


def _host_of(url: str) -> str:
    """Return the host of a URL in the URL standard's form; '' if it has none."""
    try:
        return str(ada_url.URL(url).hostname).removesuffix(".").strip("[]")
    except ValueError:
        return ""
