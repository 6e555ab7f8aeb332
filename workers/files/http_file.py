"""A file on a web server: one body that is resumed, or parts of it that are asked for one by one.

Invariant: the bytes are those of one version of the file, from the first to the last, or an error is raised: a
connection that is cut is resumed at the byte where it broke, and a server that then answers with another file or from
another place is refused. Retries are bounded; what is left is the job's next attempt.

urllib suffices for one long body at a time, and blocks only the thread that reads. Common Crawl answers 503 or 403
when it is asked too often and wants to be left alone for a while, for as long as Retry-After says if it says so; its
bucket lets nobody in anonymously since 2022, so https://data.commoncrawl.org is the way in without an account.
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
from workers.files.connections import take_slot

TIMEOUT_SECONDS = 60.0
"""Without a byte; a body takes as long as it takes."""
MAX_RETRIES = 6
"""In a row without any byte in between; with the pauses below, about a minute."""
MAX_RESUMES = 100
"""Of one body in all, whatever came in between."""
PAUSE_SECONDS = 1.0  # before the first retry, twice as long before each further one
MAX_RETRY_AFTER_SECONDS = 120.0
"""A server that wants to be left alone for longer is: the job is another worker's, later."""
USER_AGENT = "shoal/0.1"
RETRIED_STATUSES = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""403 is how Common Crawl's front answers whom it finds too fast; a file that is forbidden costs a minute more."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)\Z")


class SourceError(WorkerError):
    """The file cannot be read from where it should be."""


class HttpFile(io.RawIOBase):
    """The body of a GET, or `size` bytes of it from `start` on, resumed where the connection breaks.

    `pause` waits for so many seconds, between retries and for one of the machine's connections; what it raises passes.

    Raises: SourceError when the server has no such file, does not give parts, or has been asked often enough.
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
        """A strong ETag, else Last-Modified."""
        self.file_size: int | None = None
        """None: the server does not say."""
        self._is_begun = False
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
                    raise SourceError(f"Cannot download {self._url} ({error}): check the address.") from error
                why, left_alone_seconds = str(error), _wish_seconds(error)
            except (OSError, http.client.HTTPException) as error:
                why = repr(error)
            else:
                self._accept(response)
                return response
            self._retry(why, left_alone_seconds)

    def _ask(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self._position or self._is_part:
            headers["Range"] = f"bytes={self._position}-{self._end - 1 if self._is_part and self._end else ''}"
        if self._is_begun and self.version:
            headers["If-Range"] = self.version
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 — http or https, by the caller
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))  # noqa: S310

    def _accept(self, response: http.client.HTTPResponse) -> None:
        """Take note of the size and version that the first answer tells, and hold later ones against them.

        Raises: SourceError when the rest is not the rest of what was read.
        """
        etag = response.headers.get("ETag")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        match = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if self._is_begun or self._is_part:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT or not match or int(match[1]) != self._position:
                response.close()
                what = "broke off, and the server does not give its rest" if self._is_begun else "is not given in parts"
                raise SourceError(f"{self._url} {what}: try again later, or download it and name the copy.")
            size = None if match[2] == "*" else int(match[2])
            if self._is_begun and (_differ(version, self.version) or _differ(size, self.file_size)):
                response.close()
                raise SourceError(f"{self._url} is another file than when it was begun: try again.")
        else:
            self._end = size = response.length
        if not self._is_begun:
            self.file_size, self.version, self._is_begun = size, version, True


class HttpParts(io.RawIOBase):
    """A file that is read by parts, in any order: each read is a request.

    Raises: SourceError, also later, when the server does not give parts, or as HttpFile.
    """

    def __init__(self, url: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._url = url
        self._pause = pause
        self._position = 0
        with HttpFile(url, pause=pause, size=1) as first:
            self._version = first.version
            if first.file_size is None:
                raise SourceError(f"The server does not say how large {url} is: download it, and name the copy.")
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
                raise SourceError(f"{self._url} is another file than when it was begun: try again.")
            data = io.BufferedReader(part, max(size, 1)).read(size)
        self._position += size
        return data


def _differ(one: str | int | None, other: str | int | None) -> bool:
    """Compare what both answers tell; a 206 need not repeat all of it."""
    return one is not None and other is not None and one != other


def _wish_seconds(error: urllib.error.HTTPError) -> float:
    """Return for how long the server wants to be left alone (Retry-After); 0 if it does not say."""
    value = error.headers.get("Retry-After", "").encode("latin-1", "replace")
    return retry_after_seconds(value, datetime.now(UTC)) or 0.0
