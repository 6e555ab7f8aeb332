"""Request bodies within bounds, and the checked fields of JSON objects.

Invariant: no body is held beyond its limit, large bodies are few at a time, and a slow one is given up. So a gigabyte
that is uploaded costs nothing but its connection.
"""

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from dataset.search.errors import SearchError
from dataset.search.fetcher_wire import MAX_PICTURE_BYTES

MAX_BODY_BYTES = MAX_PICTURE_BYTES * 4 // 3 + (1 << 20)
"""A picture in base64, and the rest of its request."""
SMALL_BYTES = 256 << 10
"""Most requests; 10,000 ids for /metadata are 200 KB."""
LARGE_AT_ONCE = 8
BODY_SECONDS = 30.0


class BodyReader:
    """Reads the bodies of all requests."""

    def __init__(self) -> None:
        self._large = 0

    async def object(self, request: Request) -> dict[str, Any]:
        """Return the body as a JSON object, whatever its Content-Type says.

        Raises: SearchError: 400, 408, 413, and 429 when too many large bodies are being read.
        """
        data = await self._read(request)
        try:
            found = await asyncio.to_thread(json.loads, data) if len(data) > SMALL_BYTES else json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SearchError(400, "The body is not JSON: send a JSON object.") from error
        if not isinstance(found, dict):
            raise SearchError(400, "The body is not a JSON object.")
        return found

    async def _read(self, request: Request) -> bytes:
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
            raise _too_large()
        is_large = False
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for piece in request.stream():
                    data += piece
                    if len(data) > MAX_BODY_BYTES:
                        raise _too_large()
                    if len(data) > SMALL_BYTES and not is_large:
                        self._take_large()
                        is_large = True
        except TimeoutError as error:
            raise SearchError(408, f"The body did not arrive within {BODY_SECONDS:.0f} s.", headers=_CLOSE) from error
        except ClientDisconnect as error:
            raise SearchError(400, "The body has no end.") from error
        finally:
            self._large -= is_large
        return bytes(data)

    def _take_large(self) -> None:
        if self._large >= LARGE_AT_ONCE:
            headers = {"Retry-After": "5", **_CLOSE}
            raise SearchError(429, "Too many pictures are being uploaded: try again later.", headers=headers)
        self._large += 1


_CLOSE = {"Connection": "close"}


def _too_large() -> SearchError:
    return SearchError(413, f"The body is too large: {MAX_BODY_BYTES:,} bytes are allowed.", headers=_CLOSE)


class Fields:
    """The fields of a JSON object; each is read once, and `finish` refuses the rest."""

    def __init__(self, given: Mapping[str, Any], path: str = "") -> None:
        self._given = dict(given)
        self._path = path

    def has(self, name: str) -> bool:
        """Return whether a field is there, null or not."""
        return name in self._given

    def get(self, name: str, kinds: type | tuple[type, ...], default: Any = None) -> Any:
        """Return a field of one of these types; a missing field or null gives `default`.

        Raises: SearchError (400) that names the field.
        """
        value = self._given.pop(name, None)
        if value is None:
            return default
        is_bool = isinstance(value, bool)
        wants_bool = kinds is bool
        if is_bool != wants_bool or not isinstance(value, kinds):
            raise self.wrong(name, f"is of the wrong type: {_said(kinds)} is wanted")
        return value

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """Return a list of numbers, or None; they may be infinite."""
        values = self.get(name, list)
        if values is not None and not {*map(type, values)} <= {int, float}:
            raise self.wrong(name, "must be a list of numbers")
        return None if values is None else tuple(values)

    def integers(self, name: str, *, most: int, low: int, high: int) -> tuple[int, ...] | None:
        """Return a list of 1 to `most` integers within bounds, or None."""
        values = self.get(name, list)
        if values is None:
            return None
        if not 1 <= len(values) <= most or not all(type(one) is int and low <= one <= high for one in values):
            raise self.wrong(name, f"must be a list of 1 to {most:,} integers from {low:,} to {high:,}")
        return tuple(values)

    def number(self, name: str, default: float | None = None, *, low: float = -math.inf, high: float = math.inf) -> Any:
        """Return a finite number as float within bounds, or `default`."""
        value = self.get(name, (int, float), default)
        if value is None:
            return None
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and low <= number <= high):
            raise self.wrong(name, f"must be a number from {low:g} to {high:g}")
        return number

    def integer(self, name: str, default: int | None = None, *, low: int, high: int) -> Any:
        """Return an integer within bounds, or `default`."""
        value = self.get(name, int, default)
        if value is not None and not low <= value <= high:
            raise self.wrong(name, f"must be an integer from {low:,} to {high:,}")
        return value

    def wrong(self, name: str, said: str) -> SearchError:
        """Return the error of a field."""
        return SearchError(400, f"{self._path}{name} {said}.", field=f"{self._path}{name}")

    def finish(self) -> None:
        """Raise SearchError (400) for a field that was not read."""
        if self._given:
            name = next(iter(self._given))
            raise self.wrong(name[:100], "is not a known field")


_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "a list"}


def _said(kinds: type | tuple[type, ...]) -> str:
    names = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        list: "a list",
        dict: "an object",
    }
    return " or ".join(names[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
