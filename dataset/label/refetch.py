"""Pictures that are no longer kept, fetched from their URLs by `worker fetcher`.

Only bytes with the release's sha256 are used: another picture at the URL, or the same one encoded again, would be
labelled as what it is not.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from dataset.dedup.explain import read_by_id
from dataset.label.answers import Refetched
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient
from dataset.side_tables.rows import ReleaseRows

_NO_FETCHER = 503


def refetch(
    rows: ReleaseRows, ids: Sequence[int], order: Sequence[str], socket: Path, pixels: int
) -> tuple[dict[int, bytes], Refetched]:
    """Return JPEGs by id of rows whose URLs still answer with the same bytes, and how many did.

    Raises: SearchError when the fetcher does not answer.
    """
    described = read_by_id(rows, ids, order) if ids else {}
    answered = asyncio.run(_fetch_all({one: row["URL"] for one, row in described.items()}, FetcherClient(socket)))
    same = {
        one: picture
        for one, picture in answered.items()
        if hashlib.sha256(picture).hexdigest() == described[one]["sha256"]
    }
    with Decoders() as decoders:
        made = decoders.each(SmallJpeg(pixels), list(same.values()))
    jpegs = {one: jpeg for one, jpeg in zip(same, made, strict=True) if jpeg is not None}
    return jpegs, Refetched(len(ids), len(answered), len(same))


async def _fetch_all(urls: Mapping[int, str], client: FetcherClient) -> dict[int, bytes]:
    async def fetch(url: str) -> bytes | None:
        try:
            return await client.fetch(url)
        except SearchError as error:
            if error.status == _NO_FETCHER:
                raise
            return None

    found = await asyncio.gather(*map(fetch, urls.values()))
    return {one: picture for one, picture in zip(urls, found, strict=True) if picture is not None}
