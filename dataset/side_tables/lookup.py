"""From hashes to ids: a unit's hashes are sorted and found among the release's, which are sorted in `ids/`."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dataset.formats.releases import FileKind, Release

Integers = npt.NDArray[np.int64]

NO_ID = -1
_HASHES_AT_ONCE = 1 << 20


def find_ids(release: Release, hashes: Integers) -> Integers:
    """Return the id of each hash, NO_ID for one that the release has not -> (N,) int64.

    Raises: StoreError when `ids/`, which is private, is not there.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    ids = np.full(len(hashes), NO_ID, np.int64)
    for first_id, known in _walk(release):
        low, high = np.searchsorted(ordered, known[0], "left"), np.searchsorted(ordered, known[-1], "right")
        if low < high:
            at = np.searchsorted(known, ordered[low:high])
            fits = known[at] == ordered[low:high]
            ids[order[low:high][fits]] = first_id + at[fits]
    return ids


def _walk(release: Release) -> Iterator[tuple[int, Integers]]:
    """Yield the release's hashes in slices, each with its first id."""
    for file in release.files(FileKind.IDS):
        with release.store.open_input(release.path(file.path)) as opened:
            for start in range(0, opened.size() // 8, _HASHES_AT_ONCE):
                yield file.first_id + start, np.frombuffer(opened.read_buffer(_HASHES_AT_ONCE * 8), "<i8")
