"""Hash lists: sha256, md5 and PDQ of pictures that nobody may keep. Each picture is compared with them before it is
stored.

Invariant: a listed picture never reaches a shard, and a list that cannot be read completely is an error, never an empty
list. The lists are secret: a file contains only the first 64 bits of a sha256 or md5, and nothing here is logged.

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

from dataset.errors import DatasetError
from dataset.store.store import Store

MAX_DISTANCE = 31
"""Bits of 256: ThreatExchange's recommended threshold."""
KINDS = ("sha256", "md5", "pdq")
MAGIC = b"SHOALRL1"
HEAD_BYTES = 64
BLOCK = 1 << 16  # PDQs compared at once, so that they stay in the cache

Numbers = npt.NDArray[np.uint64]


class HashListError(DatasetError):
    """A hash list cannot be read; nothing may be downloaded without it."""


@dataclass(frozen=True, slots=True)
class HashLists:
    """The loaded hash lists: sorted first 64 bits of sha256 (N,) and md5 (M,), and PDQs (4, K), all uint64."""

    sha256: Sequence[Numbers] = field(default_factory=tuple)
    md5: Sequence[Numbers] = field(default_factory=tuple)
    pdq: Sequence[Numbers] = field(default_factory=tuple)

    @classmethod
    def load(cls, store: Store, path: str | Iterable[str], *, sha256: Mapping[str, str] | None = None) -> Self:
        """Load one list or several; `sha256` maps paths to the files' checksums.

        Raises: HashListError when a file is damaged or differs from its checksum; StoreError when one is missing.
        """
        found: dict[str, list[Numbers]] = {kind: [] for kind in KINDS}
        for one in [path] if isinstance(path, str) else path:
            for kind, numbers in _parse(store.read(one), one, (sha256 or {}).get(one)).items():
                if numbers.size:
                    found[kind].append(numbers)
        return cls(**{kind: tuple(arrays) for kind, arrays in found.items()})

    @property
    def needs_pdq(self) -> bool:
        """Return whether pictures need a PDQ."""
        return bool(self.pdq)

    def matches(self, *, sha256: str | None = None, md5: str | None = None, pdq: str | None = None) -> bool:
        """Return whether a picture with these hashes (hex) is on a list; hashes that are None are not compared."""
        return (
            (sha256 is not None and any(_holds(known, sha256) for known in self.sha256))
            or (md5 is not None and any(_holds(known, md5) for known in self.md5))
            or (pdq is not None and any(_is_near(known, pdq) for known in self.pdq))
        )


def _holds(known: Numbers, digest: str) -> bool:
    number = np.uint64(int(digest[:16], 16))
    at = int(np.searchsorted(known, number))
    return at < len(known) and bool(known[at] == number)


def _is_near(known: Numbers, pdq: str) -> bool:
    wanted = np.frombuffer(bytes.fromhex(pdq), ">u8").astype(np.uint64)
    for at in range(0, known.shape[1], BLOCK):
        block = known[:, at : at + BLOCK]
        # Too many different bits in one half are too many in all: one in 100 million random PDQs passes this check.
        half = np.bitwise_count(block[0] ^ wanted[0]) + np.bitwise_count(block[1] ^ wanted[1])
        near = block[:, half <= MAX_DISTANCE] ^ wanted[:, None]
        if (np.bitwise_count(near).sum(axis=0, dtype=np.uint16) <= MAX_DISTANCE).any():
            return True
    return False


def _parse(data: bytes, path: str, checksum: str | None) -> dict[str, Numbers]:
    """Read a file as the tracker writes it: 64 bytes of magic and counts, then little-endian uint64."""
    if checksum is not None and hashlib.sha256(data).hexdigest() != checksum:
        raise HashListError(f"{path} in the store is not the hash list that the tracker names: add it again")
    try:
        counts = json.loads(data[len(MAGIC) : HEAD_BYTES]) if data.startswith(MAGIC) else {}
        n, m, k = (int(counts[kind]) for kind in KINDS)
        numbers = np.frombuffer(data, "<u8", offset=HEAD_BYTES) if n + m + k else np.empty(0, "<u8")
        pdq = np.ascontiguousarray(numbers[n + m :].reshape(k, 4).T)
    except (ValueError, KeyError, TypeError) as error:
        raise HashListError(f"{path} in the store is not a hash list ({error!r}): add it again") from error
    return {"sha256": numbers[:n], "md5": numbers[n : n + m], "pdq": pdq}
