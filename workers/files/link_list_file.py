"""Opening a link list where `tracker seed` found it: a path, file:, s3://, gs://, abfs:// or https://.

Invariant: a file whose size has changed since it was seeded is not read.
"""

import io
from collections.abc import Callable
from typing import BinaryIO, cast

import pyarrow as pa

from dataset.store.object_store import open_location
from workers.errors import WorkerError
from workers.files.http_file import HttpFile, HttpParts, SourceError

BUFFER_BYTES = 1 << 20

Pause = Callable[[float], object]


class ListGoneError(WorkerError):
    """The list is no longer where it was seeded, or has changed."""


def open_link_list(location: str, size: int, *, in_parts: bool, pause: Pause) -> BinaryIO:
    """Open a list of `size` bytes; the caller closes it. Use `in_parts` if it is not read from start to end.

    Raises: ListGoneError when the list is missing or has changed; later reads from a web server raise SourceError.
    """
    if location.startswith(("http://", "https://")):
        return _open_http(location, size, in_parts=in_parts, pause=pause)
    try:
        filesystem, path = open_location(location)
        found = filesystem.get_file_info(path)
        if not found.is_file:
            raise ListGoneError(
                f"the link list {location} does not exist here: put it where every ingest worker can read it"
            )
        _require_size(location, found.size, size)
        return cast(BinaryIO, filesystem.open_input_file(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ListGoneError(
            f"cannot open the link list {location} ({error}): check the address and the credentials"
        ) from error


def _open_http(url: str, size: int, *, in_parts: bool, pause: Pause) -> BinaryIO:
    try:
        file = HttpParts(url, pause=pause) if in_parts else HttpFile(url, pause=pause)
    except SourceError as error:
        raise ListGoneError(f"cannot open the link list {url}: {error}") from error
    try:
        _require_size(url, file.file_size, size)
    except ListGoneError:
        file.close()
        raise
    return cast(BinaryIO, file) if in_parts else io.BufferedReader(file, BUFFER_BYTES)


def _require_size(location: str, found: int | None, size: int) -> None:
    if found not in (None, size):
        raise ListGoneError(
            f"the link list {location} has changed since it was seeded: seed it again under another run"
        )
