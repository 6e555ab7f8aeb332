"""The store's deny lists, in the form in which groups of rows are compared with them.

Pictures are compared by the first 64 bits of their sha256 and md5, as `dataset.safety.hash_lists` does: among ten
million hashes, a picture that is on no list is taken for one that is with a chance of 5e-13. A PDQ matches within 31
of 256 bits, ThreatExchange's threshold.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.deny_lists import DenyKind, read_deny_list
from dataset.publish.digests import digest_bytes
from dataset.publish.hosts import Hosts, hosts_of, normal_host
from dataset.publish.screens import Mask
from dataset.store.store import Store

MAX_DISTANCE = 31


@dataclass(frozen=True, slots=True)
class DenyRules:
    """Sorted hashes of pairs (int64); sorted first 64 bits of URLs' sha256, sha256, md5; PDQs (N, 4); hosts."""

    pairs: npt.NDArray[np.int64]
    urls: npt.NDArray[np.uint64]
    sha256: npt.NDArray[np.uint64]
    md5: npt.NDArray[np.uint64]
    pdq: npt.NDArray[np.uint64]
    hosts: frozenset[str]

    @classmethod
    def load(cls, store: Store, paths: Sequence[str]) -> "DenyRules":
        """Load deny lists.

        Raises: DenyListError when one cannot be read.
        """
        found: dict[DenyKind, list[str]] = {kind: [] for kind in DenyKind}
        for path in paths:
            for kind, value in read_deny_list(store, path):
                found[kind].append(value)
        pdq = np.frombuffer(bytes.fromhex("".join(found[DenyKind.PDQ])), ">u8").astype(np.uint64).reshape(-1, 4)
        return cls(
            pairs=np.unique(np.array([int(value) for value in found[DenyKind.PAIR]], np.int64)),
            urls=_prefixes(found[DenyKind.URL]),
            sha256=_prefixes(found[DenyKind.SHA256]),
            md5=_prefixes(found[DenyKind.MD5]),
            pdq=pdq,
            hosts=frozenset(map(normal_host, found[DenyKind.HOST])),
        )

    def matches(self, rows: pa.Table) -> Mask:
        """Return which rows of parts are denied -> (N,) bool."""
        denied = np.zeros(len(rows), bool)
        if len(self.pairs):
            denied |= _contains(self.pairs, rows["hash"].to_numpy())
        if len(self.urls):
            digests = (hashlib.sha256(url.encode()).digest()[:8] for url in rows["URL"].to_pylist())
            denied |= _contains(self.urls, np.frombuffer(b"".join(digests), ">u8").astype(np.uint64))
        if len(self.sha256):
            denied |= _contains_digests(self.sha256, digest_bytes(rows["sha256"], 32))
        if len(self.md5):
            denied |= _contains_digests(self.md5, rows["md5"])
        if len(self.pdq):
            denied |= self._near_pdq(rows["pdq"])
        if self.hosts:
            denied |= self._of_hosts(hosts_of(rows["URL"])) | self._of_hosts(_coded(rows["final_host"]))
        return denied

    def _near_pdq(self, column: pa.ChunkedArray) -> Mask:
        known = column.is_valid().to_numpy()
        filled = pc.fill_null(column, bytes(32)).combine_chunks()
        words = np.frombuffer(b"".join(filled.to_pylist()), ">u8").astype(np.uint64).reshape(-1, 4)
        near = np.zeros(len(words), bool)
        for pdq in self.pdq:
            near |= np.bitwise_count(words ^ pdq).sum(axis=1, dtype=np.int16) <= MAX_DISTANCE
        found: Mask = near & known
        return found

    def _of_hosts(self, hosts: Hosts) -> Mask:
        found: Mask = np.array([self._is_denied(host) for host in hosts.names], bool)[hosts.numbers]
        return found

    def _is_denied(self, host: str) -> bool:
        labels = host.split(".")
        return any(".".join(labels[at:]) in self.hosts for at in range(len(labels)))


def _contains_digests(known: npt.NDArray[np.uint64], digests: pa.Array | pa.ChunkedArray) -> Mask:
    """Return which digests begin with one of the known 64 bits -> (N,) bool."""
    first = pc.fill_null(pc.binary_slice(digests, 0, 8), bytes(8)).to_pylist()
    valid: Mask = np.asarray(digests.is_valid())
    return _contains(known, np.frombuffer(b"".join(first), ">u8").astype(np.uint64)) & valid


def _coded(hosts: pa.ChunkedArray) -> Hosts:
    coded = pc.fill_null(hosts, "").combine_chunks().dictionary_encode()
    return Hosts([normal_host(host) for host in coded.dictionary.to_pylist()], coded.indices.to_numpy())


def _prefixes(digests: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.unique(np.array([int(digest[:16], 16) for digest in digests], np.uint64))


def _contains(known: npt.NDArray[np.generic], values: npt.NDArray[np.generic]) -> Mask:
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: Mask = known[at] == values
    return found
