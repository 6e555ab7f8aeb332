"""Rows with the bytes of a picture, or with a PDQ hash near to its hash: found without any model.

All hashes of the release are compared, 40 bytes a row. A hash says that the frame is the same, so that a hit is a
candidate for the comparison of pixels, as a row that is near by its embedding is; equal bytes are proof.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.releases import FileKind
from dataset.side_tables.rows import ReleaseRows

Words = npt.NDArray[np.uint64]

MAX_DISTANCE = 31
"""Bits of 256: ThreatExchange's threshold for the same picture."""
HITS = 5
"""Rows with near hashes that are looked at for each picture, those with the same bytes first."""
_ROWS_AT_ONCE, _QUERIES_AT_ONCE = 8_192, 256


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """A row whose bytes or hash are near; 0 is the distance of equal bytes."""

    distance: int
    id: int
    same_bytes: bool


def words_of(hashes: Sequence[str | None]) -> Words:
    """Return hashes in hex as words -> (N, 4) uint64; zeros where there is none."""
    return np.frombuffer(b"".join(bytes.fromhex(one or "00" * 32) for one in hashes), np.uint64).reshape(-1, 4)


def hash_hits(
    rows: ReleaseRows, sha256: Sequence[str], plain: Words, mirrored: Words, on_rows: Callable[[int], None]
) -> list[list[Hit]]:
    """Return the nearest rows of each picture, by its sha256 in hex and the hashes of it and its mirror image.

    Raises: StoreError.
    """
    found: list[list[Hit]] = [[] for _ in sha256]
    has_pdq = any(True for _ in rows.release.files(FileKind.EXTENDED))
    numbers: dict[str, list[int]] = {}
    for at, digest in enumerate(sha256):
        numbers.setdefault(digest, []).append(at)
    wanted, done = pa.array(list(numbers), pa.string()), 0
    for group in rows.row_groups():
        table = rows.read(group, ["id", "sha256", *(["pdq"] if has_pdq else [])])
        ids = table["id"].to_numpy()
        for at in np.flatnonzero(pc.is_in(table["sha256"], wanted).to_numpy(zero_copy_only=False)).tolist():
            for picture in numbers[table["sha256"][at].as_py()]:
                found[picture].append(Hit(0, int(ids[at]), True))
        if has_pdq:
            hashes = np.frombuffer(b"".join(one or bytes(32) for one in table["pdq"].to_pylist()), np.uint64)
            for picture, row, distance in _near(plain, mirrored, hashes.reshape(-1, 4)):
                found[picture].append(Hit(distance, int(ids[row]), False))
        found = [_nearest(hits) for hits in found]
        done += len(ids)
        on_rows(done)
    return found


def _nearest(hits: list[Hit]) -> list[Hit]:
    """Return the HITS nearest rows, each once."""
    once: dict[int, Hit] = {}
    for hit in sorted(hits, key=lambda one: (not one.same_bytes, one.distance, one.id)):
        once.setdefault(hit.id, hit)
    return list(once.values())[:HITS]


def _near(plain: Words, mirrored: Words, hashes: Words) -> Iterator[tuple[int, int, int]]:
    """Yield picture, row and distance of the pairs whose hashes are near."""
    known = np.flatnonzero(hashes.any(axis=1))
    for start in range(0, len(known), _ROWS_AT_ONCE):
        some = known[start : start + _ROWS_AT_ONCE]
        for first in range(0, len(plain), _QUERIES_AT_ONCE):
            one = slice(first, first + _QUERIES_AT_ONCE)
            distance = np.minimum(distances(plain[one], hashes[some]), distances(mirrored[one], hashes[some]))
            for picture, row in zip(*np.nonzero(distance <= MAX_DISTANCE), strict=True):
                yield first + int(picture), int(some[row]), int(distance[picture, row])


def distances(a: Words, b: Words) -> npt.NDArray[np.uint16]:
    """Return in how many bits hashes differ -> (N, M); 256 where there is none."""
    found = np.zeros((len(a), len(b)), np.uint16)
    for word in range(4):
        found += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    found[~a.any(axis=1)] = 256
    found[:, ~b.any(axis=1)] = 256
    return found
