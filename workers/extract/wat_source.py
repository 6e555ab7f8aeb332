"""Where a WAT file is read from: a local file, http(s) or s3, each a plain stream of bytes.

Invariant: the bytes given are those of one version of the file, from the first to the last, or an error is raised: a
connection that is cut is taken up again at the byte where it broke, and a server that then answers with another file
or from another place is refused. Retries are bounded; what is left is the job's next attempt.

urllib suffices for one long body at a time, and blocks only the thread that extracts. Common Crawl answers 503 or 403
when it is asked too often and wants to be left alone for a while, for as long as Retry-After says if it says so; its
bucket lets nobody in anonymously since 2022, so https://data.commoncrawl.org is the way in without an account. From a
bucket each read is a request of its own for a range, so a broken one is asked for again by itself.
"""

import http.client
import io
import os
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import pyarrow as pa

from dataset.store.object_store import open_s3
from workers.errors import WorkerError
from workers.extract.wat_connections import take_slot

TIMEOUT_SECONDS = 60.0
"""Without a byte; a body takes as long as it takes."""
MAX_RETRIES = 6
"""In a row without any byte in between; with the pauses below, about a minute."""
MAX_RESUMES = 100
"""Of one file in all, whatever came in between."""
PAUSE_SECONDS = 1.0  # before the first retry, twice as long before each further one
MAX_RETRY_AFTER_SECONDS = 120.0
"""A server that wants to be left alone for longer is: the job is another worker's, later."""
BUFFER_BYTES = 1 << 20
S3_READ_BYTES = 8 << 20
"""One request; a WAT file of 350 MB takes 44."""
USER_AGENT = "shoal/0.1"
RETRIED_STATUSES = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""403 is how Common Crawl's front answers whom it finds too fast; a file that is forbidden costs a minute more."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)\Z")


class SourceError(WorkerError):
    """The WAT file cannot be read from where it should be."""


def open_wat(wat: str, *, pause: Callable[[float], object] = time.sleep) -> BinaryIO:
    """Open a WAT file named by a path, file:, http(s):// or s3:// URI, as it is stored; the caller closes it.

    `pause` waits for so many seconds, between retries and for one of the machine's connections; what it raises passes.

    Raises: SourceError when there is no such file or nobody lets us read it; later reads may raise it, too.
    """
    scheme, separator, rest = wat.partition("://")
    match scheme if separator else "file":
        case "http" | "https":
            return io.BufferedReader(HttpFile(wat, pause=pause), BUFFER_BYTES)
        case "s3":
            return _open_s3(wat)
        case "file":
            return _open_local(Path(rest if separator else wat))
        case _:
            raise SourceError(f"The WAT file {wat} cannot be read: name a path, an https:// or an s3:// address.")


class HttpFile(io.RawIOBase):
    """The body of a GET, taken up again where the connection breaks.

    Raises: SourceError when the server has no such file, or has been asked often enough.
    """

    def __init__(self, url: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._url = url
        self._pause = pause
        self._position = 0
        self._size: int | None = None  # None: the server does not say, and the body ends where the connection does
        self._version: str | None = None  # a strong ETag, else Last-Modified
        self._retries = 0
        self._resumes = 0
        self._slot: int | None = take_slot(urlsplit(url).netloc, pause)
        try:
            self._response = self._connect()
        except BaseException:
            self._free_slot()
            raise

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the body, connecting again as often as need be; 0 at the end of the file."""
        while self._position != self._size:
            try:
                count = self._response.readinto(buffer)
            except (OSError, http.client.HTTPException) as error:
                self._resume(f"the connection broke: {error!r}")
                continue
            if count:
                self._position += count
                self._retries = 0
                return count
            if self._size is None:
                break
            self._resume(f"the connection ended at byte {self._position} of {self._size}")
        return 0

    def close(self) -> None:
        if not self.closed and hasattr(self, "_response"):
            self._response.close()
        self._free_slot()
        super().close()

    def _free_slot(self) -> None:
        if getattr(self, "_slot", None) is not None:
            os.close(cast(int, self._slot))
            self._slot = None

    def _resume(self, why: str) -> None:
        self._response.close()
        self._resumes += 1
        if self._resumes > MAX_RESUMES:
            raise SourceError(f"{self._url} cannot be read to its end ({why}): try again later.")
        self._retry(why)
        self._response = self._connect()

    def _retry(self, why: str, at_least_seconds: float = 0.0) -> None:
        """Wait before the next request, or give up.

        Raises: SourceError after too many in a row, or when the server wants to be left alone for long.
        """
        if self._retries >= MAX_RETRIES:
            raise SourceError(f"{self._url} cannot be read ({why}): check the network, or try again later.")
        if at_least_seconds > MAX_RETRY_AFTER_SECONDS:
            raise SourceError(f"{self._url} is not to be asked for {at_least_seconds:.0f} s ({why}): try again then.")
        pause = PAUSE_SECONDS * 2**self._retries * random.uniform(0.5, 1.5)  # noqa: S311 — spreads the workers
        self._pause(at_least_seconds + pause)
        self._retries += 1

    def _connect(self) -> http.client.HTTPResponse:
        """Ask for the rest of the file, until it is given or refused for good."""
        while True:
            left_alone_seconds = 0.0
            try:
                response = self._ask()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in RETRIED_STATUSES:
                    raise SourceError(
                        f"The WAT file {self._url} is not to be had ({error}): check the address."
                    ) from error
                why, left_alone_seconds = str(error), _retry_after_seconds(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                why = repr(error)
            else:
                self._accept(response)
                return response
            self._retry(why, left_alone_seconds)

    def _ask(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._version:
                headers["If-Range"] = self._version
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 — http or https, by open_wat
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))  # noqa: S310

    def _accept(self, response: http.client.HTTPResponse) -> None:
        """Take note of the size and version that the first answer tells, and hold later ones against them.

        Raises: SourceError when the rest is not the rest of what was read.
        """
        etag = response.headers.get("ETag")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        if not self._position:
            self._size = response.length
            self._version = version
            return
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        whole = None if not match or match[2] == "*" else int(match[2])
        if response.status != 206 or not match or int(match[1]) != self._position:
            response.close()
            raise SourceError(f"{self._url} broke off, and the server does not give its rest: try again later.")
        if _differ(version, self._version) or _differ(whole, self._size):
            response.close()
            raise SourceError(f"{self._url} is another file than when it was begun: try again.")


def _differ(one: str | int | None, other: str | int | None) -> bool:
    """Compare what both answers tell; a 206 need not repeat all of it."""
    return one is not None and other is not None and one != other


def _open_local(path: Path) -> BinaryIO:
    try:
        return path.expanduser().open("rb", buffering=BUFFER_BYTES)
    except OSError as error:
        raise SourceError(f"The WAT file {path} cannot be read ({error.strerror}): check the path.") from error


def _retry_after_seconds(header: str | None) -> float:
    """Read Retry-After, RFC 9110 10.2.3: seconds, or a date; 0 for none and for nonsense."""
    if header is None:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _open_s3(uri: str) -> BinaryIO:
    """Open an object with the credentials that are found in the usual places; without any, as nobody."""
    try:
        filesystem, path = open_s3(uri)
        return cast(BinaryIO, filesystem.open_input_stream(path, compression=None, buffer_size=S3_READ_BYTES))
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise SourceError(f"The WAT file {uri} cannot be read ({said}): check it, and your AWS credentials.") from error
