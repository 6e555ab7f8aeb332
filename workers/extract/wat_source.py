"""Where a WAT file is read from: a local file, http(s) or s3, each a plain stream of bytes as it is stored.

From a web server it is one body, resumed where it breaks (see workers/files/http_file.py). From a bucket each read is a
request of its own for a range, so a broken one is asked for again by itself.
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
"""One request; a WAT file of 350 MB takes 44."""


def open_wat(wat: str, *, pause: Callable[[float], object] = time.sleep) -> BinaryIO:
    """Open a WAT file named by a path, file:, http(s):// or s3:// URI, as it is stored; the caller closes it.

    `pause` waits for so many seconds, between retries and for one of the machine's connections; what it raises passes.

    Raises: SourceError when there is no such file or nobody lets us read it; later reads may raise it, too.
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
            raise SourceError(f"The WAT file {wat} cannot be read: name a path, an https:// or an s3:// address.")


def _open_local(wat: str) -> BinaryIO:
    try:
        return Path(open_location(wat)[1]).open("rb", buffering=BUFFER_BYTES)
    except (OSError, ValueError, pa.ArrowException) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SourceError(f"The WAT file {wat} cannot be read ({said}): check the path.") from error


def _open_s3(uri: str) -> BinaryIO:
    """Open an object with the credentials that are found in the usual places; without any, as nobody."""
    try:
        filesystem, path = open_location(uri)
        return cast(BinaryIO, filesystem.open_input_stream(path, compression=None, buffer_size=S3_READ_BYTES))
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise SourceError(f"The WAT file {uri} cannot be read ({said}): check it, and your AWS credentials.") from error
