"""The search page by keys alone, when going back, on a phone, and against the accessibility guidelines."""

from pathlib import Path

import pytest

from dataset.search.page_routes import PAGE
from tests.dataset.search.conftest import FIRST_ID, RESULTS, Shown

SHIFTED = """new Promise((resolve) => {
  const seen = new PerformanceObserver((found) => resolve(found.getEntries().map((one) => [one.value,
    ...one.sources.map(({ node }) => node?.outerHTML?.slice(0, 200) ?? node?.data)])));
  seen.observe({ type: 'layout-shift', buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve([])));
})"""


def test_the_results_are_one_tab_stop_that_follows_focus_and_view(shown: Shown) -> None:
    page = shown.browser
    shown.open("?index=many&duplicates=1&term=1:id:15")
    page.wait(f"{RESULTS} >= 60")
    stops = "[...document.querySelectorAll('#results button')].filter((one) => one.tabIndex === 0)"
    assert page.evaluate(f"{stops}.map((one) => one.parentNode.ariaPosInSet)") == ["1"]
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert page.evaluate(f"{stops}.map((one) => one === document.activeElement)") == [True]
    ring = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(ring) == "solid"
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
    shown.click("#terms li.minus button")
    page.wait("document.querySelectorAll('#terms li:not(.minus)').length === 2")
    shown.click("#terms li button:last-child")
    page.wait("document.querySelectorAll('#terms li').length === 1")


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
        shown.click("[data-export=csv]")
        page.wait("document.querySelector('#export-said a')")
        assert page.violations() == []
        page.press("Escape")
        shown.click("button.result")
        page.wait("document.querySelectorAll('#columns tr').length >= 7")
        shown.click("[data-act=report]")
        shown.click("#trace summary")
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
