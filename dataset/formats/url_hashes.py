"""The keys of the Bloom filter: the 64-bit XXH3 hash of a URL, or of a URL and its language.

The URL's hash also picks a pack's slot (`hash % slots`), so one filter may get only hashes with equal low bits. The
filter works with such hashes: the block is chosen by the high half, and the low half is multiplied before use.

Among eight billion keys, a new key equals an existing hash once in 2.3 billion, far below any useful false-positive
rate.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Hashes = npt.NDArray[np.uint64]

# Neither URLs nor language codes contain NUL, so different pairs never join to the same bytes.
SEPARATOR = b"\0"


def url_hashes(
    urls: Sequence[str] | pa.Array | pa.ChunkedArray,
    languages: Sequence[str | None] | pa.Array | pa.ChunkedArray | None = None,
) -> Hashes:
    """Return the hash of each URL's UTF-8, combined with its language if languages are given, as (N,) uint64.

    None among the languages means a candidate without one. Hashes with languages differ from hashes without, even where
    the language is None; a filter gets one kind or the other.

    Raises:
        TypeError: a URL is null; packs contain no null URLs.
    """
    keys = _as_binary(urls)
    if languages is not None:
        keys = pc.binary_join_element_wise(keys, pc.fill_null(_as_binary(languages), b""), SEPARATOR)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys.to_pylist()), np.uint64, len(keys))


def _as_binary(strings: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if isinstance(strings, pa.Array | pa.ChunkedArray):
        return strings.cast(pa.binary())
    return pa.array(strings, pa.binary())
