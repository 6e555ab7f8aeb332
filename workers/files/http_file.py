"""A file on a web server: one body that is resumed where it breaks, or parts that are requested one by one.

Invariant: all bytes are from one version of the file, or an error is raised. A broken connection is resumed at the byte
where it broke; a different version or position in the answer is an error. Retries are bounded; then the job fails.

Common Crawl answers 503 or 403, sometimes with Retry-After, when it is asked too often. Its bucket refuses anonymous
access since 2022, so https://data.commoncrawl.org is the source without an account. urllib suffices: a thread reads one
long body.
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
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlsplit

from workers.errors import WorkerError
from workers.fetching.retry_after import retry_after_seconds
from workers.files.connections import take_connection

TIMEOUT_SECONDS = 60.0
"""Longest time without a byte; the whole body has no time limit."""
MAX_RETRIES = 6
"""Consecutive resumes without a byte in between; with the pauses below, about a minute."""
MAX_RESUMES = 100
"""Resumes of one body in total."""
PAUSE_SECONDS = 1.0  # pause before the first retry; doubled before each further one
MAX_RETRY_AFTER_SECONDS = 120.0
"""A longer Retry-After fails the job, which is tried again later."""
USER_AGENT = "shoal/0.1"
RETRIED_STATUSES = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""Common Crawl answers 403 to clients that send requests too fast. A file that is really forbidden takes a minute
longer to fail.
"""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)\Z")


class SourceError(WorkerError):
    """A file cannot be read from its source."""


class HttpFile(io.RawIOBase):
    """The body of a GET, or `size` bytes of it from `start` on, resumed where the connection breaks.

    `pause(seconds)` waits between retries and for a free connection of this machine; its exceptions pass through.

    Raises: SourceError when the server lacks the file, does not support ranges, or fails after all retries.
    """

    def __init__(
        self, url: str, *, pause: Callable[[float], object] = time.sleep, start: int = 0, size: int | None = None
    ) -> None:
        self._url = url
        self._pause = pause
        self._position = start
        self._is_part = size is not None
        self._end = None if size is None else start + size  # None: the body ends where the connection does
        self.version: str | None = None
        """The ETag if it is strong, otherwise Last-Modified."""
        self.file_size: int | None = None
        """None if the server does not give it."""
        self._is_begun = False
        self._retries = 0
        self._resumes = 0
        self._connection: int | None = take_connection(urlsplit(url).netloc, pause)
        try:
            self._response = self._connect()
        except BaseException:
            self._free_connection()
            raise

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`, reconnecting as necessary; return the byte count, 0 at the end of the file."""
        while self._position != self._end:
            try:
                count = self._response.readinto(buffer)
            except (OSError, http.client.HTTPException) as error:
                self._resume(f"the connection broke: {error!r}")
                continue
            if count:
                self._position += count
                self._retries = 0
                return count
            if self._end is None:
                break
            self._resume(f"the connection ended at byte {self._position} of {self._end}")
        return 0

    def close(self) -> None:
        if not self.closed and hasattr(self, "_response"):
            self._response.close()
        self._free_connection()
        super().close()

    def _free_connection(self) -> None:
        if getattr(self, "_connection", None) is not None:
            os.close(cast(int, self._connection))
            self._connection = None

    def _resume(self, why: str) -> None:
        self._response.close()
        self._resumes += 1
        if self._resumes > MAX_RESUMES:
            raise SourceError(f"Cannot download all of {self._url} ({why}): try again later.")
        self._retry(why)
        self._response = self._connect()

    def _retry(self, why: str, at_least_seconds: float = 0.0) -> None:
        """Wait before the next request, or give up.

        Raises: SourceError after too many retries in a row, or when the server asks for a long pause.
        """
        if self._retries >= MAX_RETRIES:
            raise SourceError(f"Cannot download {self._url} ({why}): check the network, or try again later.")
        if at_least_seconds > MAX_RETRY_AFTER_SECONDS:
            raise SourceError(f"Cannot download {self._url} ({why}): try again after {at_least_seconds:.0f} s.")
        pause = PAUSE_SECONDS * 2**self._retries * random.uniform(0.5, 1.5)  # noqa: S311 — spreads the workers
        self._pause(at_least_seconds + pause)
        self._retries += 1

    def _connect(self) -> http.client.HTTPResponse:
        """Request the rest of the file until the server sends it or refuses for good."""
        while True:
            retry_after = 0.0
            try:
                response = self._ask()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in RETRIED_STATUSES:
                    raise SourceError(f"Cannot download {self._url} ({error}): check the address.") from error
                why, retry_after = str(error), _retry_after_seconds(error)
            except (OSError, http.client.HTTPException) as error:
                why = repr(error)
            else:
                self._accept(response)
                return response
            self._retry(why, retry_after)

    def _ask(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self._position or self._is_part:
            headers["Range"] = f"bytes={self._position}-{self._end - 1 if self._is_part and self._end else ''}"
        if self._is_begun and self.version:
            headers["If-Range"] = self.version
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 — http or https, by the caller
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))  # noqa: S310

    def _accept(self, response: http.client.HTTPResponse) -> None:
        """Store the size and version of the first response; compare later ones with them.

        Raises: SourceError when a response does not continue the file that was begun.
        """
        etag = response.headers.get("ETag")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if self._is_begun or self._is_part:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT or not match or int(match[1]) != self._position:
                response.close()
                what = "was cut off and cannot be resumed" if self._is_begun else "cannot be read in parts"
                raise SourceError(f"{self._url} {what}: try again later, or download it and use the copy.")
            size = None if match[2] == "*" else int(match[2])
            if self._is_begun and (_differ(version, self.version) or _differ(size, self.file_size)):
                response.close()
                raise SourceError(f"{self._url} has changed while it was read: try again.")
        else:
            self._end = size = response.length
        if not self._is_begun:
            self.file_size, self.version, self._is_begun = size, version, True


class HttpParts(io.RawIOBase):
    """A file that is read in parts, in any order; each read is a request.

    Raises: SourceError, also from later reads, when the server does not support ranges, or as HttpFile.
    """

    def __init__(self, url: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._url = url
        self._pause = pause
        self._position = 0
        with HttpFile(url, pause=pause, size=1) as first:
            self._version = first.version
            if first.file_size is None:
                raise SourceError(f"The server does not give the size of {url}: download it and use the copy.")
            self.file_size = first.file_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.file_size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer only at the end of the file."""
        left = max(self.file_size - self._position, 0)
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        with HttpFile(self._url, pause=self._pause, start=self._position, size=size) as part:
            if _differ(part.version, self._version) or _differ(part.file_size, self.file_size):
                raise SourceError(f"{self._url} has changed while it was read: try again.")
            data = io.BufferedReader(part, max(size, 1)).read(size)
        self._position += size
        return data


def _differ(one: str | int | None, other: str | int | None) -> bool:
    """Return whether two values differ; a 206 may leave out either."""
    return one is not None and other is not None and one != other


def _retry_after_seconds(error: urllib.error.HTTPError) -> float:
    """Return the seconds of Retry-After; 0 without the header."""
    value = error.headers.get("Retry-After", "").encode("latin-1", "replace")
    return retry_after_seconds(value, datetime.now(UTC)) or 0.0
