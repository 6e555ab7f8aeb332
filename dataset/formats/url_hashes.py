"""What the Bloom filter knows a candidate by: the 64-bit XXH3 hash of its URL, or of its URL and language.

The URL's hash alone also picks a pack's slot (`hash % slots`), so one filter may see only hashes that agree in their
low bits. The filter stands that: the block comes from the high half, and the low half is multiplied before use.

At eight billion keys a new one has an equal hash once in 2.3 billion; any useful false-positive rate is far above it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

Hashes = npt.NDArray[np.uint64]

# Neither a URL nor a language code can hold NUL, so no two pairs join to the same bytes.
SEPARATOR = b"\0"


def url_hashes(
    urls: Sequence[str] | pa.Array | pa.ChunkedArray,
    languages: Sequence[str | None] | pa.Array | pa.ChunkedArray | None = None,
) -> Hashes:
    """Hash each URL's UTF-8, together with its language where languages are given -> (N,) uint64.

    A None among the languages is a candidate without one. With languages the hashes are others than without, even where
    the language is None: a filter is fed one kind or the other.

    Raises:
        TypeError: a URL is null; packs hold none.
    """
    keys = _as_binary(urls)
    if languages is not None:
        keys = pc.binary_join_element_wise(keys, pc.fill_null(_as_binary(languages), b""), SEPARATOR)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys.to_pylist()), np.uint64, len(keys))


def _as_binary(strings: Sequence[str | None] | pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if isinstance(strings, pa.Array | pa.ChunkedArray):
        return strings.cast(pa.binary())
    return pa.array(strings, pa.binary())
