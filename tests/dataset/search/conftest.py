"""The search page in a headless browser, over small engines: what its tests share."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from dataset.search.encoder import Encoder, EncoderOptions
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from dataset.search.reports import Reports
from dataset.store.store import Store
from tests.dataset.search.browser import Browser, browsing
from tests.dataset.search.tiny import Client, TinyEngine, served, tiny_engine
from tests.file_server import serving_files

SAID = "document.querySelector('#said').textContent"
RESULTS = f"(parseInt({SAID}.replaceAll(',', '')) || 0)"
FIRST_ID = "Number(document.querySelector('button.result')?.dataset.id)"


@dataclass
class Shown:
    browser: Browser
    client: Client
    store: Store

    def open(self, query: str = "") -> None:
        self.browser.open("about:blank")
        self.browser.open(f"{self.client.url}/{query}")
        self.browser.wait("document.querySelector('#index option') && !document.querySelector('.starting')")

    def click(self, selector: str) -> None:
        self.browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="package")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    async def start(metrics: Metrics) -> Encoder:
        encoder = Encoder(EncoderOptions("hashing", None, None), metrics, "tests.dataset.search.hashing_encoder")
        await encoder.start()
        return encoder

    store = Store.open(str(tmp_path_factory.mktemp("store")))
    with serving_files(**{"good.png": picture("teal")}) as web:
        engine = tiny_engine()
        for number, row in enumerate(engine.table):
            row["url"] = f"{web.url}/{'good.png' if number % 5 else f'gone-{number}.png'}"
        options = SiteOptions(
            per_second=0,
            reports=Reports(store),
            operator_token="secret",
            trace=lambda index, id_: {"index": index, "id": id_, "page": "https://page.example/"},
        )
        facets = {"alive": 300, "safe": 270, "min-width=100": 200, "min-width=200": 100}
        engine = Faceted(engine.vectors, engine.table, facets=facets)
        small, many = tiny_engine(50, name="small", has_groups=True), tiny_engine(12_000, name="many")
        small.vectors[40:43] = small.vectors[5]
        many.vectors[[100, 101]] = many.vectors[5]
        for number, row in enumerate(small.table):
            row["group_size"] = 4 if number in (5, 40, 41, 42) else 1
        with (
            browsing(tmp_path_factory.mktemp("browser")) as browser,
            served(engine, small, many, start=start, options=options) as client,
        ):
            yield Shown(browser, client, store)


class Faceted(TinyEngine):
    """The tiny engine with facets to click on."""

    def __init__(self, vectors: Any, table: Any, *, facets: dict[str, int]) -> None:
        super().__init__(vectors, table)
        self._facets = facets

    def parse_filter(self, text: str, *, safe: bool) -> object:
        """The host b.example has the last 50 rows."""
        return super().parse_filter("min-width=250" if text == "host=b.example" else text, safe=safe)

    def facets(self) -> dict[str, int]:
        return self._facets
