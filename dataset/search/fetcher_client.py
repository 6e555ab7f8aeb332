"""Pictures by URL, from `worker fetcher`; this process opens no connection to any other host."""

import asyncio
import json
from pathlib import Path

from dataset import strict_json
from dataset.pictures.outcomes import Outcome
from dataset.search.errors import SearchError
from dataset.search.fetcher_wire import ANSWER, ANSWER_SECONDS, MAX_HEAD_BYTES, MAX_PICTURE_BYTES, REQUEST

MAX_URL_CHARACTERS = 4_096

_REFUSED_BY_US = {
    Outcome.BAD_URL: 400,
    Outcome.REFUSED_ADDRESS: 400,
    Outcome.TOO_LARGE: 422,
    Outcome.TOO_MANY_PIXELS: 422,
    Outcome.UNSUPPORTED_FORMAT: 422,
    Outcome.UNDECODABLE: 422,
    Outcome.NOT_AN_IMAGE: 422,
    Outcome.TIMEOUT: 504,
}
"""The HTTP status for an outcome; 502 for the others, which are the other server's."""


class FetcherClient:
    """Asks the fetcher at a Unix socket; None means that there is no fetcher."""

    def __init__(self, path: Path | None, at_once: int = 16) -> None:
        self._path = path
        self._at_once = asyncio.Semaphore(at_once)

    @property
    def is_there(self) -> bool:
        """Return whether the server was given a fetcher."""
        return self._path is not None

    async def fetch(self, url: str) -> bytes:
        """Return the picture at a URL, as received.

        Raises: SearchError: 501 without a fetcher, 400 for a URL that may not be fetched, 422 for what is not a
        picture, 502 and 504 when its server fails, 503 when the fetcher does.
        """
        if self._path is None:
            raise SearchError(501, "This server does not fetch pictures by URL: upload the picture instead.")
        if len(url) > MAX_URL_CHARACTERS:
            raise SearchError(400, f"The URL has {len(url)} characters: {MAX_URL_CHARACTERS} are allowed.")
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._at_once:
                head, picture = await self._exchange(self._path, url)
        except TimeoutError as error:
            raise SearchError(504, "The picture did not arrive in time: upload it instead.") from error
        except (OSError, ValueError, EOFError) as error:
            raise SearchError(503, "The fetcher of this server does not answer: try again later.") from error
        outcome = head.get("outcome")
        if outcome == Outcome.SUCCESS:
            return picture
        status = next((code for ours, code in _REFUSED_BY_US.items() if ours == outcome), 502)
        raise SearchError(status, f"Cannot fetch the picture ({outcome}: {head.get('reason')}): give another URL.")

    async def _exchange(self, path: Path, url: str) -> tuple[dict[str, str], bytes]:
        reader, writer = await asyncio.open_unix_connection(path)
        try:
            request = strict_json.dumps({"url": url}).encode("utf-8")
            writer.write(REQUEST.pack(len(request)) + request)
            await writer.drain()
            head_size, picture_size = ANSWER.unpack(await reader.readexactly(ANSWER.size))
            if head_size > MAX_HEAD_BYTES or picture_size > MAX_PICTURE_BYTES:
                raise ValueError("an answer over its limit")
            head: dict[str, str] = json.loads(await reader.readexactly(head_size))
            return head, await reader.readexactly(picture_size)
        finally:
            writer.close()
