"""A file on a web server, for `tracker seed`: a link list, which is read in parts, or a list of WAT files.

Invariant: all bytes come from one version of the file, or an error is raised; a part that is cut off is requested
again. If the server supports ranges, each read requests one, so that reading a parquet file's footer needs no download.
If it does not, the file can only be read from its beginning.

This is the only module of the package that uses the network. Workers have workers/files/http_file.py, which resumes one
long body and takes one of the machine's connections.
"""

import http.client
import io
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, cast

TIMEOUT_SECONDS = 60.0
"""Longest time without a byte."""
TRIES = 4
PAUSE_SECONDS = 1.0  # pause after the first try; doubled after each further one
RETRIED_STATUSES = frozenset({403, 408, 425, 429, 500, 502, 503, 504})
"""Common Crawl answers 403 to clients that send requests too fast."""
FIRST_BYTES = 64 << 10
"""Size of the first request, whose response also contains the file's size."""
USER_AGENT = "shoal/0.1"
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


class HttpFile(io.RawIOBase):
    """A file at an http(s) URL.

    Raises: OSError when it cannot be read, now or later.
    """

    def __init__(self, url: str, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._url = url
        self._pause = pause
        self._position = 0
        self._version: str | None = None
        # the response with the whole body, if the server does not support ranges
        self._whole: http.client.HTTPResponse | None = None
        self._given = 0  # number of bytes read from it
        self.size: int | None = None
        """Size in bytes; None if the server does not say."""
        self._begin = self._tried(self._first)

    @property
    def gives_parts(self) -> bool:
        """Return whether the server supports ranges; otherwise the file can only be read from its beginning."""
        return self._whole is None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.size is not None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self.size is None:
            raise OSError("the server does not give its size")
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._whole is not None:
            return self._read_whole(self._whole, buffer)
        assert self.size is not None
        start, stop = self._position, min(self._position + len(buffer), self.size)
        if start >= stop:
            return 0
        data = self._begin[start:stop] if stop <= len(self._begin) else self._tried(lambda: self._part(start, stop))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if getattr(self, "_whole", None) is not None:
            cast(http.client.HTTPResponse, self._whole).close()
        super().close()

    def _read_whole(self, response: http.client.HTTPResponse, buffer: Any) -> int:
        if self._position != self._given:
            raise OSError("the server does not support ranges: download it, and name the copy")
        count = response.readinto(buffer)
        self._position = self._given = self._given + count
        if not count and len(buffer) and self.size not in (None, self._given):
            raise OSError(f"the response was cut off at byte {self._given} of {self.size}")
        return count

    def _tried(self, ask: Callable[[], bytes]) -> bytes:
        """Call `ask` until it returns, at most TRIES times."""
        for left in reversed(range(TRIES)):
            try:
                return ask()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in RETRIED_STATUSES or not left:
                    raise
            except (OSError, http.client.HTTPException) as error:
                if not left or self.size is None:  # the host was not reached at all, so the address may be wrong
                    raise OSError(str(error) or repr(error)) from error
            self._pause(PAUSE_SECONDS * 2 ** (TRIES - 1 - left))
        raise AssertionError("the last try returns or raises")

    def _first(self) -> bytes:
        """Request the beginning, to learn the size and whether the server supports ranges."""
        try:
            response = self._ask(0, FIRST_BYTES)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            self.size = 0  # an empty file has no first byte
            return b""
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            self.size, self._whole = response.length, response
            return b""
        with response:
            begin, stop, self.size = self._range(response)
            self._version = _version(response)
            if begin != 0:
                raise OSError("the server sent a different part than was requested")
            return self._body(response, stop)

    def _part(self, start: int, stop: int) -> bytes:
        with self._ask(start, stop) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise OSError("the server has stopped supporting ranges")
            if self._range(response) != (start, stop, self.size) or _version(response) != self._version:
                raise OSError("the file has changed since its first part was read")
            return self._body(response, stop - start)

    def _ask(self, start: int, stop: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", "Range": f"bytes={start}-{stop - 1}"}
        request = urllib.request.Request(self._url, headers=headers)  # noqa: S310 — http or https, by the caller
        return cast(http.client.HTTPResponse, urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))  # noqa: S310

    def _range(self, response: http.client.HTTPResponse) -> tuple[int, int, int]:
        """Return the first byte and the end of a response's range, and the size of the file."""
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if found is None:
            raise OSError("the server sent a part without a valid Content-Range")
        return int(found[1]), int(found[2]) + 1, int(found[3])

    def _body(self, response: http.client.HTTPResponse, size: int) -> bytes:
        data = response.read()
        if len(data) != size:
            raise OSError(f"a part of {size} bytes was cut off after {len(data)}")
        return data


def _version(response: http.client.HTTPResponse) -> str | None:
    return response.headers.get("ETag") or response.headers.get("Last-Modified")
