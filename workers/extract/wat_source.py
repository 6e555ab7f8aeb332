"""Opening a WAT file from a local path, http(s) or s3, as a plain stream of its stored bytes.

A web server sends one body, which is resumed where it breaks (see workers/files/http_file.py). A bucket is read by
range requests, and Arrow retries each of them.
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from dataset.store.object_store import open_location
from workers.files.http_file import HttpFile, SourceError

BUFFER_BYTES = 1 << 20
S3_READ_BYTES = 8 << 20
"""Bytes per request; a WAT file of 350 MB takes 44 requests."""


def open_wat(wat: str, *, pause: Callable[[float], object] = time.sleep) -> BinaryIO:
    """Open a WAT file named by a path, file:, http(s):// or s3:// URI; the caller closes it.

    `pause(seconds)` waits between retries and for a free connection of this machine; its exceptions pass through.

    Raises: SourceError when the file is missing or access is denied; later reads may raise it, too.
    """
    scheme, separator, _ = wat.partition("://")
    match scheme if separator else "file":
        case "http" | "https":
            return io.BufferedReader(HttpFile(wat, pause=pause), BUFFER_BYTES)
        case "s3":
            return _open_s3(wat)
        case "file":
            return _open_local(wat)
        case _:
            raise SourceError(f"Cannot read the WAT file {wat}: use a path, an https:// or an s3:// address.")


def _open_local(wat: str) -> BinaryIO:
    try:
        return Path(open_location(wat)[1]).open("rb", buffering=BUFFER_BYTES)
    except (OSError, ValueError, pa.ArrowException) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SourceError(f"Cannot read the WAT file {wat} ({said}): check the path.") from error


def _open_s3(uri: str) -> BinaryIO:
    """Open an object with the credentials found in the usual places; without credentials, anonymously."""
    try:
        filesystem, path = open_location(uri)
        return cast(BinaryIO, filesystem.open_input_stream(path, compression=None, buffer_size=S3_READ_BYTES))
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise SourceError(
            f"Cannot read the WAT file {uri} ({said}): check the address and your AWS credentials."
        ) from error
