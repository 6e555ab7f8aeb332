"""The pages of charts and galleries in a headless browser: nothing leaves its card, and everybody can read them."""

from collections.abc import Iterator

import pytest

from dataset.report.html import Site, Thumbnail, bars, data_url, document, gallery, section, table, tiles
from dataset.report.plots import columns, histogram
from tests.dataset.search.browser import Browser, browsing

PAGES = {"Search": "/", "Statistics": "/statistics"}
OUTSIDE = """[...document.querySelectorAll('section')].flatMap((card) => {
  const edge = card.getBoundingClientRect();
  return [...card.querySelectorAll('.bars *, h2, .note, svg')].filter((one) => {
    const { left, right, width } = one.getBoundingClientRect();
    return width && (left < edge.left - 0.5 || right > edge.right + 0.5);
  }).map((one) => one.outerHTML);
})"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with one of everything; its numbers are those of a large release."""
    counts = {"en": 2_320_000_000, "de": 2_319_999_999, "a_name_that_is_longer_than_its_column": 1, "fr": 600_000_000}
    shown = [
        Thumbnail(data_url(b"no picture"), "a red fox", 0.31, "en", "https://a.example/", (60, 40), is_unsafe=unsafe)
        for unsafe in (False, True)
    ]
    sections = [
        tiles([("5,850,000,000", "pairs")]),
        '<div class="columns">',
        section("Languages", bars(counts, {name: count // 2 for name, count in counts.items()}), "A note."),
        section("Similarity", histogram("Similarity", [{"from": 0.3, "rows": 10**9}], 0.01, mark=0.305)),
        section("Sizes", columns("Sizes", [("256", 10**9)])),
        "</div>",
        section("Subsets", table(("", *(f"both at least {side}" for side in range(20))), [["all", *20 * ["1,000"]]])),
        section("Pictures", gallery(shown)),
    ]
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(document("A release", "1.0.0", sections, site=Site(PAGES, "Statistics")), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_leaves_its_card(browser: Browser, page: str, width: int) -> None:
    browser.resize(width, 900)
    browser.open(page)
    browser.wait("document.readyState === 'complete'")
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelector('nav [aria-current=page]').textContent") == "Statistics"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_keep_to_the_accessibility_guidelines(browser: Browser, page: str, scheme: str) -> None:
    browser.resize(360, 740)
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(page)
    browser.wait("document.readyState === 'complete'")
    assert browser.violations() == []
    browser.evaluate("document.querySelector('img').removeAttribute('alt')")
    (said,) = browser.violations()
    assert said.startswith("image-alt")


def test_an_unsafe_picture_is_blurred_until_it_has_the_focus(browser: Browser, page: str) -> None:
    browser.open(page)
    blur = "getComputedStyle(document.querySelector('.blurred img')).filter"
    assert browser.wait(blur) == "blur(14px)"
    browser.evaluate("document.querySelector('.blurred').focus()")
    assert browser.evaluate(blur) == "none"
