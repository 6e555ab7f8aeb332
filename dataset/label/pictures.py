"""The pictures that a page shows: kept ones, decoded once at the start, and others through the fetcher process.

A fetched picture is shown only if its bytes are those that were downloaded for the release (sha256).
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool

from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient

PIXELS = 768
"""The longer side: small marks in corners are still seen, and 5,000 pictures take about 0.5 GB of memory."""
MOST_FETCHED = 256


class Pictures:
    """JPEGs by id. `urls` and `digests` are those of pictures that may be fetched."""

    def __init__(
        self,
        kept: Mapping[int, bytes],
        urls: Mapping[int, str] | None = None,
        digests: Mapping[int, str] | None = None,
        fetcher: FetcherClient | None = None,
    ) -> None:
        self._kept = dict(kept)
        self._urls, self._digests, self._fetcher = dict(urls or {}), dict(digests or {}), fetcher
        self._fetched: OrderedDict[int, bytes] = OrderedDict()
        self._asked: dict[int, asyncio.Task[bytes | None]] = {}
        self._decoders = Decoders() if fetcher else None

    async def jpeg(self, item: int) -> bytes | None:
        """Return a picture; None if it is not kept, and cannot be fetched as it was."""
        if (known := self._kept.get(item) or self._fetched.get(item)) is not None:
            return known
        if item not in self._urls or self._fetcher is None:
            return None
        if item not in self._asked:
            self._asked[item] = asyncio.create_task(self._fetch(item))
            self._asked[item].add_done_callback(lambda _: self._asked.pop(item))
        return await asyncio.shield(self._asked[item])

    async def _fetch(self, item: int) -> bytes | None:
        assert self._fetcher is not None
        assert self._decoders is not None
        try:
            data = await self._fetcher.fetch(self._urls[item])
        except SearchError:
            return None
        if hashlib.sha256(data).hexdigest() != self._digests.get(item):
            return None
        (jpeg,) = await run_in_threadpool(self._decoders.each, SmallJpeg(PIXELS), [data])
        if jpeg is None or item not in self._urls:  # hidden in the meantime
            return None
        self._fetched[item] = jpeg
        if len(self._fetched) > MOST_FETCHED:
            self._fetched.popitem(last=False)
        return jpeg

    def forget(self, item: int) -> None:
        """Never return a picture again."""
        self._kept.pop(item, None)
        self._fetched.pop(item, None)
        self._urls.pop(item, None)

    def close(self) -> None:
        """End the decoders' processes."""
        if self._decoders is not None:
            self._decoders.close()
