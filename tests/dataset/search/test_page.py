"""The search page in a headless browser, as a person searches: type, scroll, filter, drop a picture."""

import base64

from dataset.index.filters import Condition, Filter, parse_filter
from tests.dataset.search.conftest import FIRST_ID, RESULTS, SAID, Shown, picture

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
    for at, event in ((0.3, "input"), (0.2, "change")):
        slider = "document.querySelector('#threshold')"
        page.evaluate(f"{slider}.value = {at}; {slider}.dispatchEvent(new Event('{event}', {{bubbles: true}}))")
        page.wait(f"{count}.includes('rows at {at} or more')")
        assert ("least=" in page.evaluate("location.search")) == (event == "change")


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
