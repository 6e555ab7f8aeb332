"""The search page in a headless browser, as a person uses it: type, scroll, filter, go back, keys, phone, export."""

import base64
import io
import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset.index.filters import Condition, Filter, parse_filter
from dataset.search.encoder import Encoder, EncoderOptions
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from dataset.search.page_routes import PAGE
from dataset.search.reports import Reports
from dataset.store.store import Store
from dataset.takedown.requests import list_requests
from tests.dataset.search.browser import Browser, browsing
from tests.dataset.search.tiny import Client, TinyEngine, served, tiny_engine
from tests.file_server import serving_files
from tracker.main import app as tracker

SAID = "document.querySelector('#said').textContent"
RESULTS = f"(parseInt({SAID}.replaceAll(',', '')) || 0)"
FIRST_ID = "Number(document.querySelector('button.result')?.dataset.id)"


DROP = """(() => {
  const bytes = Uint8Array.from(atob('DATA'), (one) => one.charCodeAt(0));
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], 'a.png', { type: 'image/png' }));
  dispatchEvent(new DragEvent('drop', { dataTransfer: carried, bubbles: true, cancelable: true }));
})()"""
SCROLL = """(async () => {
  let most = 0;
  while (!/^10,000 results$/.test(document.querySelector('#said').textContent)) {
    scrollTo(0, document.body.scrollHeight);
    await new Promise((resolve) => setTimeout(resolve, 20));
    most = Math.max(most, document.querySelectorAll('#results li').length);
  }
  return most;
})()"""
SHIFTED = """new Promise((resolve) => {
  const seen = new PerformanceObserver((found) => resolve(found.getEntries().map((one) => [one.value,
    ...one.sources.map(({ node }) => node?.outerHTML?.slice(0, 200) ?? node?.data)])));
  seen.observe({ type: 'layout-shift', buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve([])));
})"""
NOTE_SAVED = """window.saved = null; URL.createObjectURL = (blob) => {
  blob.text().then((text) => { saved = text });
  return 'data:,';
}"""


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


@pytest.fixture(scope="module")
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
        options = SiteOptions(per_second=0, reports=Reports(store))
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


def test_a_text_is_typed_and_results_follow_while_the_person_scrolls(shown: Shown) -> None:
    page = shown.browser
    shown.open()
    assert "may disturb" in page.wait(SAID)
    page.press("/")
    page.type("a red fox")
    page.press("Enter")
    page.wait(f"{RESULTS} === 60")
    assert page.evaluate("document.querySelector('#terms span').textContent") == "a red fox"
    assert "term=1%3Atext%3Aa+red+fox" in page.evaluate("location.search")
    for least in (120, 240, 270):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.wait(f"{RESULTS} >= {least}")
    ids = page.evaluate("import('./grid.js').then(({ shown }) => [...shown.keys()])")
    assert len(ids) == len(set(ids)) == 270


def test_ten_thousand_results_are_scrolled_with_few_elements_and_the_focus_stays(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=many&duplicates=1&term=1:id:15")
    page.wait(f"{RESULTS} >= 60")
    page.press("ArrowRight")
    page.press("ArrowDown")
    first = page.evaluate("document.activeElement.dataset.id")
    most = page.evaluate(SCROLL)
    assert page.evaluate(SAID) == "10,000 results"
    assert most < 150
    height = page.evaluate("document.documentElement.scrollHeight")
    assert height > 10_000 / 5 * 200
    assert page.evaluate("document.activeElement.dataset.id") == first
    page.press("End")
    last = page.evaluate("document.activeElement.getBoundingClientRect().bottom")
    assert 0 < last <= page.evaluate("innerHeight")
    assert page.evaluate("document.activeElement.parentNode.ariaPosInSet") == "10000"
    page.press("Home")
    page.press("PageDown")
    page.press("PageUp")
    assert page.evaluate("document.activeElement.parentNode.ariaPosInSet") == "1"
    assert page.evaluate("document.documentElement.scrollHeight") == height
    order = page.evaluate("[...document.querySelectorAll('#results li')].map((one) => Number(one.ariaPosInSet))")
    assert order == sorted(order)


def test_near_duplicates_are_one_tile_that_opens(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=small&term=1:id:15")
    near = "document.querySelector('.near')"
    assert page.wait(f"{near}?.textContent") == "+3"
    assert page.evaluate(f"{near}.ariaLabel") == "3 near-duplicates"
    found = page.evaluate(RESULTS)
    assert found == 42  # 5 of 50 are unsafe, 3 are near-duplicates
    ids = "[...document.querySelectorAll('button.result')].slice(0, 5).map((one) => Number(one.dataset.id))"
    before = page.evaluate(ids)
    shown.click(".near")
    page.wait("document.querySelectorAll('.of-another').length === 3")
    assert page.evaluate(ids) == [15, 50, 51, 52, before[1]]
    assert page.evaluate(f"{near}.ariaExpanded") == "true"
    page.evaluate("document.querySelector('button.result').focus()")
    page.press("d")
    page.wait("!document.querySelector('.of-another')")
    assert page.evaluate(ids) == before
    shown.click("#collapse")
    page.wait(f"{RESULTS} === 45 && !{near}")


def test_near_duplicates_of_an_index_without_groups_are_at_least_so_many(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=many&term=1:id:15")
    near = "document.querySelector('.near')"
    assert page.wait(f"{near}?.textContent") == "≥2"
    assert page.evaluate(f"{near}.ariaLabel") == "at least 2 near-duplicates"


def test_a_picture_that_is_gone_is_a_tile_with_its_caption_and_others_are_shown(shown: Shown) -> None:
    shown.open("?term=1:id:10")
    shown.browser.wait(f"{RESULTS} === 60")
    said = shown.browser.wait("document.querySelector('.missing')?.textContent")
    assert said.startswith("This picture cannot be loaded: caption ")
    assert shown.browser.wait("[...document.images].some((one) => one.naturalWidth === 60)")
    assert shown.browser.evaluate("[...document.images].every((one) => one.alt.startsWith('caption'))")


def test_filters_the_back_button_and_the_address_agree(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    count = "document.querySelector('#count').textContent"
    page.wait(f"{count} === '270 rows'")
    shown.click("[value='min-width=200']")
    page.wait(f"{count} === '90 rows'")
    assert page.wait(f"{RESULTS} >= 60")
    assert (
        min(page.evaluate("[...document.querySelectorAll('button.result')].map((one) => Number(one.dataset.id))"))
        >= 210
    )
    assert "facet=min-width%3D200" in page.evaluate("location.search")
    shown.click("#safe")
    page.wait(f"{count} === '100 rows'")
    page.wait("document.querySelector('button.result.unsafe')")
    page.evaluate("history.back()")
    page.wait(f"{count} === '90 rows'")
    assert page.evaluate("document.querySelector('#safe').checked")
    page.evaluate("history.back()")
    page.wait(f"{count} === '270 rows'")
    assert not page.evaluate("document.querySelector(\"[value='min-width=200']\").checked")
    page.evaluate("(() => { const one = document.querySelector('#threshold'); one.value = 0.3;"
                  " one.dispatchEvent(new Event('change', {bubbles: true})) })()")  # fmt: skip
    page.wait(f"{count}.includes('rows at 0.3 or more')")


def test_hosts_are_asked_for_and_left_out(shown: Shown) -> None:
    page = shown.browser
    shown.open("?host=a.example&not-host=b.example,+c.example&facet=safe")
    assert page.evaluate("document.querySelector('#hostOut').value") == "b.example, c.example"
    made = page.evaluate("import('./state.js').then(({ filterText }) => filterText())")
    assert made == "safe,host=a.example,!host=b.example|c.example"
    assert parse_filter(made) == Filter((Condition(("safe",)),), ("a.example",), ("b.example", "c.example"))
    shown.open()
    page.evaluate("document.querySelector('#host').focus()")
    page.type("https://b.example/a.jpg")
    said = "document.querySelector('[data-of=host]').textContent"
    page.wait(f"{said} === '45 rows'")
    page.evaluate("document.querySelector('#host').select()")
    page.type("nix")
    page.wait(f"{said}.includes('no facet')")


def test_the_results_are_one_tab_stop_that_follows_focus_and_view(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=many&duplicates=1&term=1:id:15")
    page.wait(f"{RESULTS} >= 60")
    stops = "[...document.querySelectorAll('#results button')].filter((one) => one.tabIndex === 0)"
    assert page.evaluate(f"{stops}.map((one) => one.parentNode.ariaPosInSet)") == ["1"]
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.evaluate(f"{stops}.map((one) => one === document.activeElement)") == [True]
    page.press("Tab")
    assert not page.evaluate("document.activeElement.closest('#results')")
    page.evaluate("scrollTo(0, 1500)")
    page.wait(f"{stops}.length === 1 && {stops}[0].getBoundingClientRect().bottom > 0")


def test_going_back_restores_results_place_and_focus(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=many&duplicates=1&term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    page.press("ArrowRight")
    page.press("End")
    page.wait(f"{RESULTS} === 120")
    place, id_ = "Math.round(scrollY)", "document.activeElement.dataset?.id"
    before = page.evaluate(f"[{place}, {id_}]")
    assert before[0] > 900
    page.press("s")
    page.wait(f"{FIRST_ID} === {before[1]} && {id_} === '{before[1]}' && {place} === 0")
    page.evaluate("history.back()")
    page.wait(f"{RESULTS} === 120")
    assert page.evaluate(f"[{place}, {id_}]") == before


def test_everything_can_be_done_by_keys(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    page.press("?")
    page.wait("document.querySelector('#keys').open")
    page.press("Escape")
    page.wait("!document.querySelector('#keys').open")
    page.evaluate("document.activeElement.blur()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.id")
    assert second == page.evaluate("document.querySelectorAll('button.result')[1].dataset.id")
    page.press("x")
    assert page.wait("document.querySelector('#basket-said').textContent") == "1 in the basket:"
    page.press("Enter")
    page.wait("document.querySelector('#detail').open")
    page.wait("document.querySelectorAll('#columns tr').length >= 7")
    assert page.evaluate("document.querySelector('#columns td').textContent") == second
    page.press("Escape")
    page.wait("document.activeElement.classList.contains('result')")  # the focus is where it was
    page.press("s")
    page.wait(f"{FIRST_ID} === {second} && document.activeElement.dataset?.id === '{second}'")
    page.press("-")
    page.wait("document.querySelectorAll('#terms li').length === 2")
    assert page.evaluate("document.querySelector('#terms li.minus span').textContent") == f"row {second}"


def test_a_dropped_picture_is_searched_and_stays_in_the_address(shown: Shown) -> None:
    page = shown.browser
    shown.open()
    data = base64.b64encode(picture("red")).decode()
    page.evaluate(DROP.replace("DATA", data))
    page.wait(f"{RESULTS} === 60")
    assert page.evaluate("document.querySelector('#terms span').textContent") == "a picture"
    first = page.evaluate(FIRST_ID)
    page.evaluate("location.reload()")
    page.wait(f"{RESULTS} === 60 && {FIRST_ID} === {first}")


def test_an_error_is_said_in_its_sentence(shown: Shown) -> None:
    shown.open("?term=1:url:https://a.example/a.jpg")
    assert "does not fetch pictures by URL" in shown.browser.wait(f"document.querySelector('#said.wrong') && {SAID}")


def test_an_export_has_progress_and_a_file_and_the_basket_is_saved(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15&facet=min-width%3D200")
    page.wait(f"{RESULTS} >= 60")
    shown.click("[data-export=parquet]")
    page.wait("document.querySelector('#export-said a')?.textContent === 'export.parquet'")
    assert "90 rows" in page.evaluate("document.querySelector('#export-said').textContent")
    assert page.violations() == []
    page.press("Escape")
    page.evaluate(NOTE_SAVED)
    page.evaluate("document.querySelector('button.result').focus()")
    page.press("x")
    shown.click("[data-save=csv]")
    head, row, _ = page.wait("saved").split("\r\n")
    assert head.startswith("id,similarity_to_query,url,caption,WIDTH,HEIGHT")
    assert row.split(",")[0] == str(page.evaluate(FIRST_ID))
    shown.click("[data-save=parquet]")
    page.wait("document.querySelector('#export-said').textContent.includes(', 1 rows')")
    page.press("Escape")
    shown.click("#select")
    basket = "document.querySelector('#basket-said').textContent"
    page.wait(f"{basket}.startsWith(document.querySelector('#said').textContent.split(' ')[0])")
    shown.click("#clear")
    assert page.evaluate("document.querySelector('#basket').hidden")


def test_the_commands_of_an_export_work_when_pasted(shown: Shown, database: str, tmp_path: Path) -> None:
    page = shown.browser
    shown.open("?term=1:id:15&facet=min-width%3D200")
    page.wait(f"{RESULTS} >= 60")
    shown.click("[data-export=jsonl]")
    page.wait("document.querySelectorAll('#export-commands code').length === 3")
    commands = "[...document.querySelectorAll('#export-commands code')].map((one) => one.textContent)"
    curl, seed, _ = page.evaluate(commands)
    subprocess.run(curl, shell=True, check=True, cwd=tmp_path, stderr=subprocess.DEVNULL)
    ids = [json.loads(line)["id"] for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert len(ids) == 90
    seeded = shlex.split(seed)
    assert seeded.pop(0) == "tracker"
    seeded[1] = str(tmp_path / seeded[1])
    done = CliRunner().invoke(tracker, seeded, env={"SHOAL_DATABASE_URL": database})
    assert "1 job added" in done.output, done.output


def test_a_report_becomes_a_request(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    shown.click("button.result")
    page.wait("document.querySelector('#detail').open")
    shown.click("[data-act=report]")
    page.type("privacy")
    page.press("Enter")
    page.wait("document.querySelector('#detail-said').textContent.includes('waits for a decision')")
    (request,) = list_requests(shown.store, pending=True)
    assert request.reason == "privacy"


def test_the_page_fits_a_phone_and_does_not_shift(shown: Shown, tmp_path: Path) -> None:
    page = shown.browser
    page.resize(360, 740)
    page.prefer(prefers_color_scheme="dark", prefers_reduced_motion="reduce")
    try:
        shown.open("?term=1:id:15")
        page.wait(f"{RESULTS} === 60")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate(SHIFTED) == []
        small = page.evaluate(
            "[...document.querySelectorAll('button:not([hidden]), select')].filter((one) => one.offsetWidth &&"
            " (one.offsetWidth < 24 || one.offsetHeight < 24)).map((one) => one.outerHTML)"
        )
        assert small == []  # WCAG 2.2, 2.5.8
        page.screenshot(tmp_path / "phone.png")
    finally:
        page.resize(1200, 900)
        page.prefer()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_keeps_to_the_accessibility_guidelines(shown: Shown, scheme: str) -> None:
    page = shown.browser
    page.prefer(prefers_color_scheme=scheme)
    page.resize(1200 if scheme == "light" else 360, 900)
    try:
        shown.open("?index=small&term=1:id:15")
        page.wait(f"{RESULTS} === 42")
        shown.click("#select")
        assert page.violations() == []
        shown.click("#help")
        assert page.violations() == []
        page.press("Escape")
        shown.click("button.result")
        page.wait("document.querySelectorAll('#columns tr').length >= 7")
        shown.click("[data-act=report]")
        assert page.violations() == []
    finally:
        page.resize(1200, 900)
        page.prefer()


def test_every_control_has_a_name_and_nothing_comes_from_another_host(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    assert page.evaluate(SHIFTED) == []
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter((one) => !(one.labels?.length ||"
        " one.getAttribute('aria-label') || one.textContent.trim() || one.querySelector('img[alt]')))"
        ".map((one) => one.outerHTML)"
    )
    assert nameless == []
    asked = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert all(one.startswith(("http://127.0.0.1:", "data:")) for one in asked)
    assert sum(path.stat().st_size for path in PAGE.glob("*.js")) < 150_000
    answer = shown.client.ask("/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
