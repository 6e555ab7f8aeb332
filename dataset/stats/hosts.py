"""The host of each URL in its normal form: for one URL as text, for a column as hashes.

A host ends at the first of `/ ? # \\` and has no port and no credentials. A URL that does not begin with http:// or
https://, has a port or credentials, a host of 48 bytes or more, or a host that may have another normal form (an
international name, a final dot, an address) is handled by the slow function `host_of`; both give the same result.
"""

from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numpy.lib.stride_tricks import sliding_window_view

from dataset.candidates import urls as candidates_urls
from dataset.stats.hashing import PADDING, ByteRanges, Hashes, Ints, hash_ranges, texts_of

_WIDTH = 48
_ROWS = 16_384
_SCHEME_BYTES = 8  # of "https://"
_CLEAN = np.arange(256, dtype=np.uint8)  # bytes that end a host become 0, bytes that need the slow function become 1
_CLEAN[ord("A") : ord("Z") + 1] += 32
_CLEAN[[ord(sign) for sign in "/?#\\"]] = 0
_CLEAN[[ord(sign) for sign in ":@[]% \t\r\n\0"]] = 1
_CLEAN[128:] = 1
_MAY_CHANGE = np.zeros(256, bool)  # the last byte of a name with a final dot, or of an address
_MAY_CHANGE[[ord(sign) for sign in ".0123456789"]] = True


def host_of(url: str) -> str:
    """Return the normal form of a URL's host, or the host unchanged if it could not be requested; '' if there is
    none.
    """
    if host := candidates_urls.host_of(url):
        return host
    try:
        return urlsplit(url.replace("\\", "/")).hostname or ""
    except ValueError:
        return ""


def host_hashes(urls: pa.Array) -> tuple[Hashes, Ints]:
    """Hash the hosts of a string array without nulls; return the hashes and their rows. URLs without a host are left
    out.
    """
    ranges = ByteRanges.of(urls)
    if not len(ranges):
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    ranges.data = np.concatenate([ranges.data, np.zeros(_WIDTH + _SCHEME_BYTES, np.uint8)])
    found, plain = [], []
    for first in range(0, len(ranges), _ROWS):
        rows = slice(first, first + _ROWS)
        hashes, is_plain = _plain_hosts(ranges.data, ranges.starts[rows], ranges.lengths[rows])
        found.append(hashes)
        plain.append(is_plain)
    is_plain = np.concatenate(plain)
    slow = np.flatnonzero(~is_plain)
    hosts = [host_of(url) for url in texts_of(urls.take(pa.array(slow)))]
    others = [host for host in hosts if host]
    hashes = np.concatenate([*found, hash_ranges(ByteRanges.of(pa.array(others, pa.string())))])
    return hashes, np.concatenate([np.flatnonzero(is_plain), slow[[host != "" for host in hosts]]])


def _plain_hosts(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """Hash the hosts that do not need the slow function, and return which rows these are."""
    scheme = sliding_window_view(data, 8)[starts]
    is_http = (scheme[:, :7] == np.frombuffer(b"http://", np.uint8)).all(1)
    is_https = (scheme == np.frombuffer(b"https://", np.uint8)).all(1)
    at = np.where(is_https, 8, 7)
    clean = _CLEAN[sliding_window_view(data, _WIDTH)[starts + at]]
    end = (clean <= 1).argmax(1)
    clean_end = clean[np.arange(len(clean)), end]
    left = lengths - at
    size = np.minimum(end, left)  # the next URL begins at `left`
    # `end` is 0 also if no byte ends the host
    plain = (is_http | is_https) & (size > 0) & ((end >= left) | (clean_end == 0))
    plain &= ~_MAY_CHANGE[clean[np.arange(len(clean)), np.maximum(size, 1) - 1]]
    rows = np.flatnonzero(plain)
    compact = ByteRanges(
        np.concatenate([clean[rows].reshape(-1), np.zeros(PADDING, np.uint8)]),
        np.arange(len(rows), dtype=np.int64) * _WIDTH,
        size[rows],
    )
    return hash_ranges(compact), plain
