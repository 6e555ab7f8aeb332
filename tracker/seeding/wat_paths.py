"""The sources of `tracker seed`: single WAT files, or lists of them such as Common Crawl's wat.paths.gz.

Invariant: the result names each WAT file once, in the order of the list, as a worker on any machine can open it: by an
absolute path or a URI.

The paths in a list (crawl-data/CC-MAIN-2024-22/…) are relative to the root of the host or bucket that serves it. For a
local list they are relative to its folder, if the file exists there, and otherwise to Common Crawl's server.
"""

import gzip
import io
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from tracker.errors import TrackerError
from tracker.seeding.http_file import HttpFile
from tracker.storage.object_store import open_location

COMMON_CRAWL = "https://data.commoncrawl.org/"
LIST_SUFFIXES = (".paths", ".paths.gz")
MAX_LIST_BYTES = 64 << 20
"""Largest list, unpacked; Common Crawl's have 10 MB for 100,000 files."""
BUFFER_BYTES = 1 << 20


class SourceError(TrackerError):
    """A WAT file, or a list of WAT files, cannot be found or read."""


def list_wats(source: str) -> list[str]:
    """Return the WAT files that `source` names: the lines of a list (.paths, .paths.gz), else `source` itself.

    Raises: SourceError when a local file is missing, or a list cannot be read or is empty.
    """
    if not source.endswith(LIST_SUFFIXES):
        return [source if _scheme(source) != "file" else _existing(source)]
    listing = _unpacked(source, _read(source))
    lines = [line.strip() for line in listing.splitlines()]
    wats = list(dict.fromkeys(_located(line, source) for line in lines if line))
    if not wats:
        raise SourceError(f"The list {source} names no WAT file: check that it is the right one.")
    return wats


def sample(wats: Sequence[str], n: int, random_seed: int) -> list[str]:
    """Draw `n` WAT files at random, without replacement, in the order of `wats`.

    With the same seed a larger sample contains the smaller one, so a run can be extended by sampling again.

    Raises: SourceError when there are fewer.
    """
    if n > len(wats):
        raise SourceError(f"There are {len(wats)} WAT files, fewer than --sample {n}: choose a smaller number.")
    places = list(range(len(wats)))
    random.Random(random_seed).shuffle(places)  # noqa: S311 — a repeatable draw, not a secret
    return [wats[place] for place in sorted(places[:n])]


def _existing(path: str) -> str:
    found = _local(path)
    if not found.is_file():
        raise SourceError(f"There is no WAT file {path}: check the path.")
    return str(found)


def _located(line: str, listing: str) -> str:
    """Return the path or URI of a line of a list."""
    if "://" in line or line.startswith("/"):
        return line
    if _scheme(listing) != "file":
        parts = urlsplit(listing)
        return f"{parts.scheme}://{parts.netloc}/{line}"
    neighbour = _local(listing).parent / line
    return str(neighbour) if neighbour.is_file() else COMMON_CRAWL + line


def _scheme(source: str) -> str:
    return source.partition("://")[0] if "://" in source else "file"


def _local(source: str) -> Path:
    try:
        return Path(open_location(source)[1])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"There is no file {source} ({error}): check the address.") from error


def _read(listing: str) -> bytes:
    """Return the bytes of a list, at most one more than MAX_LIST_BYTES."""
    try:
        match _scheme(listing):
            case "http" | "https":
                with io.BufferedReader(HttpFile(listing), BUFFER_BYTES) as file:
                    return file.read(MAX_LIST_BYTES + 1)
            case "s3":
                filesystem, path = open_location(listing)
                with filesystem.open_input_file(path) as stream:
                    return bytes(stream.read(MAX_LIST_BYTES + 1))
            case "file":
                with _local(listing).open("rb") as file:
                    return file.read(MAX_LIST_BYTES + 1)
            case scheme:
                raise SourceError(f"A list cannot be read from {scheme}://: name a path, https:// or s3://.")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SourceError(f"The list {listing} cannot be read ({error}): check the address.") from error


def _unpacked(source: str, listing: bytes) -> str:
    """Return the list's text: a gzip file may have several members, as concatenated files do (RFC 1952, 2.2)."""
    try:
        if source.endswith(".gz") and len(listing) <= MAX_LIST_BYTES:
            listing = gzip.GzipFile(fileobj=io.BytesIO(listing)).read(MAX_LIST_BYTES + 1)
        if len(listing) > MAX_LIST_BYTES:
            raise SourceError(f"The list {source} has over {MAX_LIST_BYTES} bytes: split it.")
        return listing.decode("utf-8-sig")
    except EOFError as error:
        raise SourceError(f"The list {source} ends early: fetch it again.") from error
    except (gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise SourceError(f"The list {source} is not a list of paths ({error}): check the address.") from error
