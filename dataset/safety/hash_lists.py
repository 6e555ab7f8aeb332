"""Hash lists: sha256, md5, sha1 and PDQ of pictures that must not be kept, and the URLs, pairs and hosts of deny lists.

Each picture is compared with them before it is stored, each link before it is asked for.

Invariant: a listed picture never reaches a shard, and a list that cannot be read completely is an error, never an empty
list. The lists are secret: a file contains only the first 64 bits of a digest, and nothing here is logged. A URL and a
host are listed by their sha256, a pair by LAION's hash.

With ten million hashes, 64 bits match an unlisted picture with probability 5e-13, or once in forty times for 50 billion
pictures. As sorted numbers they take 80 MB and are found by bisection in 2 µs. PDQs are stored whole, 32 bytes each,
and a picture's is compared with all of them by vectorised bit counts: 0.2 ms for 100,000 PDQs, 2.5 ms for a million.

Rejected: a table in Postgres (3,000 workers would query it 50,000 times a second), and a Bloom filter (false positives
would lose links, and it cannot find PDQs, which match by distance).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from dataset.candidates.urls import host_of
from dataset.errors import DatasetError
from dataset.formats.parts import pair_hash
from dataset.store.store import Store

MAX_DISTANCE = 31
"""Bits of 256: ThreatExchange's recommended threshold."""
KINDS = ("sha256", "md5", "sha1", "url", "pair", "host", "pdq")
"""In the order in which a file has them."""
MAGIC = b"SHOALRL2"
HEAD_BYTES = 256
BLOCK = 1 << 16  # PDQs compared at once, so that they stay in the cache

Numbers = npt.NDArray[np.uint64]


class HashListError(DatasetError):
    """A hash list cannot be read; without it no picture may be downloaded."""


@dataclass(frozen=True, slots=True)
class HashLists:
    """The loaded lists: sorted first 64 bits of each kind (N,), pairs as two's complement, PDQs (4, K), all uint64."""

    sha256: Sequence[Numbers] = field(default_factory=tuple)
    md5: Sequence[Numbers] = field(default_factory=tuple)
    sha1: Sequence[Numbers] = field(default_factory=tuple)
    url: Sequence[Numbers] = field(default_factory=tuple)
    pair: Sequence[Numbers] = field(default_factory=tuple)
    host: Sequence[Numbers] = field(default_factory=tuple)
    pdq: Sequence[Numbers] = field(default_factory=tuple)

    @classmethod
    def load(cls, store: Store, path: str | Iterable[str], *, sha256: Mapping[str, str] | None = None) -> Self:
        """Load one list or several; `sha256` maps paths to the files' checksums.

        Raises: HashListError when a file is damaged or differs from its checksum; StoreError when one is missing.
        """
        paths = [path] if isinstance(path, str) else path
        return cls.merged([cls._of(_parse(store.read(one), one, (sha256 or {}).get(one))) for one in paths])

    @classmethod
    def merged(cls, lists: Sequence[Self]) -> Self:
        """Return one list of each kind made of several, so that many small lists are compared as fast as one."""
        found: dict[str, tuple[Numbers, ...]] = {}
        for kind in KINDS:
            arrays = [numbers for one in lists for numbers in getattr(one, kind)]
            if len(arrays) > 1:
                arrays = [np.concatenate(arrays, axis=1) if kind == "pdq" else np.unique(np.concatenate(arrays))]
            found[kind] = tuple(arrays)
        return cls(**found)

    @classmethod
    def _of(cls, numbers: Mapping[str, Numbers]) -> Self:
        return cls(**{kind: (array,) for kind, array in numbers.items() if array.size})

    @property
    def needs_pdq(self) -> bool:
        """Return whether pictures need a PDQ."""
        return bool(self.pdq)

    @property
    def has_links(self) -> bool:
        """Return whether links have to be compared."""
        return bool(self.url or self.pair or self.host)

    def matches(
        self, *, sha256: str | None = None, md5: str | None = None, sha1: str | None = None, pdq: str | None = None
    ) -> bool:
        """Return whether a picture with these hashes (hex) is on a list; hashes that are None are not compared."""
        return (
            (sha256 is not None and any(_holds(known, sha256) for known in self.sha256))
            or (md5 is not None and any(_holds(known, md5) for known in self.md5))
            or (sha1 is not None and any(_holds(known, sha1) for known in self.sha1))
            or (pdq is not None and any(_is_near(known, pdq) for known in self.pdq))
        )

    def names_link(self, url: str, text: str | None = None) -> bool:
        """Return whether a URL, its host or the pair with its caption is on a list; a caption of None is not compared.

        A blanked link, whose URL is '', counts as listed.
        """
        if not url:
            return True
        if self.url and any(_holds(known, _digest(url)) for known in self.url):
            return True
        if self.pair and text is not None:
            number = f"{pair_hash(url, text) % 2**64:016x}"
            if any(_holds(known, number) for known in self.pair):
                return True
        return self.names_host(host_of(url)) if self.host else False

    def names_host(self, host: str) -> bool:
        """Return whether a host, in its normal form, or a domain above it is on a list."""
        labels = host.split(".")
        names = [".".join(labels[at:]) for at in range(len(labels))] if self.host and host else []
        return any(_holds(known, _digest(name)) for name in names for known in self.host)

    def named_links(self, urls: Iterable[str], texts: Iterable[str]) -> npt.NDArray[np.bool_]:
        """Return which links are on a list -> (N,) bool."""
        found = (self.names_link(url, text) for url, text in zip(urls, texts, strict=True))
        return np.fromiter(found, bool)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _holds(known: Numbers, digest: str) -> bool:
    number = np.uint64(int(digest[:16], 16))
    at = int(np.searchsorted(known, number))
    return at < len(known) and bool(known[at] == number)


def _is_near(known: Numbers, pdq: str) -> bool:
    wanted = np.frombuffer(bytes.fromhex(pdq), ">u8").astype(np.uint64)
    for at in range(0, known.shape[1], BLOCK):
        block = known[:, at : at + BLOCK]
        # If one half has too many different bits, the whole has: one in 100 million random PDQs passes this check.
        half = np.bitwise_count(block[0] ^ wanted[0]) + np.bitwise_count(block[1] ^ wanted[1])
        near = block[:, half <= MAX_DISTANCE] ^ wanted[:, None]
        if (np.bitwise_count(near).sum(axis=0, dtype=np.uint16) <= MAX_DISTANCE).any():
            return True
    return False


def _parse(data: bytes, path: str, checksum: str | None) -> dict[str, Numbers]:
    """Read a file as the tracker writes it: 256 bytes of magic and counts, then little-endian uint64."""
    if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
        raise HashListError(f"{path} in the store is not the hash list that the tracker names: add it again")
    try:
        return _split(data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise HashListError(f"{path} in the store is not a hash list ({error!r}): add it again") from error


def _split(data: bytes) -> dict[str, Numbers]:
    """Return the numbers of each kind; raise ValueError, TypeError or AttributeError if it is another file."""
    if not data.startswith(MAGIC):
        raise ValueError("its first bytes are others")
    counts = {kind: int(n) for kind, n in json.loads(data[len(MAGIC) : HEAD_BYTES]).items()}
    if strange := counts.keys() - set(KINDS):
        raise ValueError(f"it has the kinds {sorted(strange)}")
    numbers = np.frombuffer(data, "<u8", offset=HEAD_BYTES) if any(counts.values()) else np.empty(0, "<u8")
    found, start = {}, 0
    for kind in KINDS:
        end = start + counts.get(kind, 0) * (4 if kind == "pdq" else 1)
        found[kind], start = numbers[start:end], end
    if start != len(numbers) or min(counts.values(), default=0) < 0:
        raise ValueError(f"it has {len(numbers)} numbers instead of {start}")
    return found | {"pdq": np.ascontiguousarray(found["pdq"].reshape(-1, 4).T)}
