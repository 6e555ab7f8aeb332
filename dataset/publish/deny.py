"""The store's deny lists, in a form that can be compared with groups of rows.

URLs and pictures are compared by the first 64 bits of their digests, as `dataset.safety.hash_lists` does: with ten
million hashes, a picture that is on no list matches one by chance with probability 5e-13. A list of 16 million takes
128 MB. A PDQ matches within 31 of 256 bits, ThreatExchange's threshold.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.deny_lists import HEX_DIGITS, DenyKind, read_deny_list
from dataset.publish.digests import digest_bytes
from dataset.publish.hosts import Hosts, hosts_of, normal_host
from dataset.publish.screens import Mask
from dataset.store.store import Store

MAX_DISTANCE = 31
DIRECT = frozenset({DenyKind.PAIR, DenyKind.URL, DenyKind.SHA256, DenyKind.HOST})
"""Kinds that can be compared with the columns of `data/` and `extended/`; the others need `source/`, or much time."""
COLUMNS = {
    DenyKind.PAIR: ("hash",),
    DenyKind.URL: ("URL",),
    DenyKind.SHA256: ("sha256",),
    DenyKind.MD5: ("md5",),
    DenyKind.SHA1: ("sha1",),
    DenyKind.PDQ: ("pdq",),
    DenyKind.HOST: ("URL", "final_host"),
}
"""The columns that each kind is compared with."""

Prefixes = npt.NDArray[np.uint64]


def _none() -> Prefixes:
    return np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenyRules:
    """Sorted hashes of pairs (int64); sorted first 64 bits of URLs' sha256, sha256, md5, sha1; PDQs (N, 4); hosts."""

    pairs: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    urls: Prefixes = field(default_factory=_none)
    sha256: Prefixes = field(default_factory=_none)
    md5: Prefixes = field(default_factory=_none)
    sha1: Prefixes = field(default_factory=_none)
    pdq: Prefixes = field(default_factory=lambda: np.empty((0, 4), np.uint64))
    hosts: frozenset[str] = frozenset()

    @classmethod
    def load(cls, store: Store, paths: Sequence[str], kinds: Collection[DenyKind] = frozenset(DenyKind)) -> "DenyRules":
        """Load the entries of some kinds from deny lists.

        Raises: DenyListError when one cannot be read.
        """
        found: dict[DenyKind, list[npt.NDArray[np.generic]]] = defaultdict(list)
        hosts: set[str] = set()
        for path in paths:
            for rows in read_deny_list(store, path):
                _gather(rows.filter(pc.is_in(rows["kind"], pa.array(sorted(kinds)))), found, hosts)
        return cls._of(found, hosts)

    @classmethod
    def load_by_reason(cls, store: Store, paths: Sequence[str]) -> dict[str, "DenyRules"]:
        """Load deny lists, with the entries of each reason separate.

        Raises: DenyListError when one cannot be read.
        """
        found: dict[str, dict[DenyKind, list[npt.NDArray[np.generic]]]] = {}
        hosts: dict[str, set[str]] = {}
        for path in paths:
            for rows in read_deny_list(store, path):
                reasons = pc.fill_null(rows["reason"], "")
                for reason in reasons.unique().to_pylist():
                    mine = rows.filter(pc.equal(reasons, reason))
                    _gather(mine, found.setdefault(reason, defaultdict(list)), hosts.setdefault(reason, set()))
        return {reason: cls._of(found[reason], hosts[reason]) for reason in sorted(found)}

    @classmethod
    def _of(cls, found: dict[DenyKind, list[npt.NDArray[np.generic]]], hosts: Collection[str]) -> "DenyRules":
        numbers = {kind: _distinct(found[kind]) for kind in _PREFIXED}
        return cls(
            pairs=np.unique(np.concatenate([np.empty(0, np.int64), *found[DenyKind.PAIR]])),
            urls=numbers[DenyKind.URL],
            sha256=numbers[DenyKind.SHA256],
            md5=numbers[DenyKind.MD5],
            sha1=numbers[DenyKind.SHA1],
            pdq=np.concatenate([np.empty((0, 4), np.uint64), *found[DenyKind.PDQ]]),
            hosts=frozenset(map(normal_host, hosts)),
        )

    @property
    def kinds(self) -> frozenset[DenyKind]:
        """The kinds that have entries."""
        numbers = {
            DenyKind.PAIR: self.pairs, DenyKind.URL: self.urls, DenyKind.SHA256: self.sha256, DenyKind.MD5: self.md5,
            DenyKind.SHA1: self.sha1, DenyKind.PDQ: self.pdq,
        }  # fmt: skip
        return frozenset(kind for kind in DenyKind if len(numbers.get(kind, self.hosts)))

    @property
    def columns(self) -> frozenset[str]:
        """The columns that rows must have to be compared."""
        return frozenset(column for kind in self.kinds for column in COLUMNS[kind])

    def only(self, kinds: Collection[DenyKind]) -> "DenyRules":
        """Return only the rules of some kinds."""
        empty, names = DenyRules(), {DenyKind.PAIR: "pairs", DenyKind.URL: "urls", DenyKind.HOST: "hosts"}
        left_out = [names.get(kind, kind.value) for kind in DenyKind if kind not in kinds]
        return replace(self, **{name: getattr(empty, name) for name in left_out})

    def matches(self, rows: pa.Table) -> Mask:
        """Return which rows are denied -> (N,) bool. Rows have the `columns`: digests in hex or as bytes."""
        denied = np.zeros(len(rows), bool)
        if not len(rows):
            return denied
        if len(self.pairs):
            denied |= _contains(self.pairs, rows["hash"].to_numpy())
        if len(self.urls):
            digests = (hashlib.sha256(url.encode()).digest()[:8] for url in rows["URL"].to_pylist())
            denied |= _contains(self.urls, np.frombuffer(b"".join(digests), ">u8").astype(np.uint64))
        for known, kind in ((self.sha256, DenyKind.SHA256), (self.md5, DenyKind.MD5), (self.sha1, DenyKind.SHA1)):
            if len(known):
                denied |= _contains_digests(known, rows[kind.value], kind)
        if len(self.pdq):
            denied |= self._near_pdq(rows["pdq"])
        if self.hosts:
            denied |= self._of_hosts(hosts_of(rows["URL"])) | self._of_hosts(_coded(rows["final_host"]))
        return denied

    def _near_pdq(self, column: pa.ChunkedArray) -> Mask:
        known = column.is_valid().to_numpy()
        filled = pc.fill_null(column, bytes(32)).combine_chunks()
        words = np.frombuffer(b"".join(filled.to_pylist()), ">u8").astype(np.uint64).reshape(-1, 4).T.copy()
        near = np.zeros(words.shape[1], bool)
        for pdq in self.pdq:
            # If one half has too many different bits, the whole has; few random PDQs pass this check.
            half = np.bitwise_count(words[0] ^ pdq[0]) + np.bitwise_count(words[1] ^ pdq[1])
            at = np.flatnonzero(half <= MAX_DISTANCE)
            bits = np.bitwise_count(words[:, at] ^ pdq[:, None]).sum(axis=0, dtype=np.int16)
            near[at[bits <= MAX_DISTANCE]] = True
        found: Mask = near & known
        return found

    def _of_hosts(self, hosts: Hosts) -> Mask:
        found: Mask = np.array([self._is_denied(host) for host in hosts.names], bool)[hosts.numbers]
        return found

    def _is_denied(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[at:]) in self.hosts for at in range(len(labels)))


_PREFIXED = (DenyKind.URL, DenyKind.SHA256, DenyKind.MD5, DenyKind.SHA1)


def _distinct(pieces: list[npt.NDArray[np.generic]]) -> Prefixes:
    """Return the distinct numbers of pieces, sorted, and empty the list: a large list is in memory twice at most."""
    values: Prefixes = np.concatenate([_none(), *pieces])
    pieces.clear()
    values.sort()
    repeated = values[1:] == values[:-1]
    return np.delete(values, np.flatnonzero(repeated)) if repeated.any() else values


def _gather(rows: pa.Table, found: dict[DenyKind, list[npt.NDArray[np.generic]]], hosts: set[str]) -> None:
    """Put the values of entries into arrays by kind, hosts into a set."""
    for name in rows["kind"].unique().to_pylist():
        kind, values = DenyKind(name), rows["value"].filter(pc.equal(rows["kind"], name))
        match kind:
            case DenyKind.HOST:
                hosts.update(values.to_pylist())
            case DenyKind.PAIR:
                found[kind].append(values.cast(pa.int64()).to_numpy())
            case DenyKind.PDQ:
                found[kind].append(_words(digest_bytes(values, 32)).reshape(-1, 4))
            case _:
                found[kind].append(_words(pc.binary_slice(digest_bytes(values, HEX_DIGITS[kind] // 2), 0, 8)))


def _contains_digests(known: Prefixes, digests: pa.ChunkedArray, kind: DenyKind) -> Mask:
    """Return which digests, in hex or as bytes, begin with one of the known 64 bits -> (N,) bool."""
    if pa.types.is_string(digests.type):
        digests = pa.chunked_array([digest_bytes(digests, HEX_DIGITS[kind] // 2)])
    valid: Mask = np.asarray(digests.is_valid())
    return _contains(known, _words(pc.fill_null(pc.binary_slice(digests, 0, 8), bytes(8)))) & valid


def _words(values: pa.Array | pa.ChunkedArray) -> Prefixes:
    """Return values of a multiple of 8 bytes as big-endian numbers."""
    return np.frombuffer(b"".join(values.to_pylist()), ">u8").astype(np.uint64)


def _coded(hosts: pa.ChunkedArray) -> Hosts:
    coded = pc.fill_null(hosts, "").combine_chunks().dictionary_encode()
    return Hosts([normal_host(host) for host in coded.dictionary.to_pylist()], coded.indices.to_numpy())


def _contains(known: npt.NDArray[np.generic], values: npt.NDArray[np.generic]) -> Mask:
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: Mask = known[at] == values
    return found
