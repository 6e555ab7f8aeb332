"""The pages about served releases: statistics and near-duplicates, with links between them and the search page."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dataset.dedup.figures import gather
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import Release, open_release
from dataset.search import release_pages
from dataset.search.options import SiteOptions
from dataset.search.screen import Screen
from dataset.store.store import Store
from tests.dataset.search.tiny import Client, served, tiny_engine
from tests.planted import MODEL, planted, put_release

ROWS = 300


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    store = Store.open(str(tmp_path_factory.mktemp("pages")))
    made = put_release(store, "laion", [planted(ROWS, dimensions=48)], rows_per_file=ROWS)
    search(made, Options(model=MODEL, at=0.94, cells=4, super_cells=2))
    return open_release(store, "laion")


@pytest.fixture(scope="module")
def client(release: Release) -> Iterator[Client]:
    engine = tiny_engine(ROWS, name="laion", first_id=0)
    for number, row in enumerate(engine.table):
        row["punsafe"] = 0.9 if number % 2 else None
    options = SiteOptions(per_second=0, releases={"laion": lambda: release})
    with served(engine, tiny_engine(), options=options, screen=Screen(np.array([hidden_of(release)]))) as client:
        yield client


def hidden_of(release: Release) -> int:
    """Return the representative of the largest group, whose row is hidden."""
    return int(gather(release).largest[0].representative)


def test_pages_are_linked_with_each_other_and_with_the_search(client: Client) -> None:
    links = {"Statistics": "statistics?index=laion", "Near-duplicates": "duplicates?index=laion"}
    laion, tiny = client.ask("/api/indexes").json()["indexes"]
    assert (laion["pages"], tiny["pages"]) == (links, {})
    for path, current in (("/", "Search"), *((f"/{href}", name) for name, href in links.items())):
        answer = client.ask(path)
        page = answer.body.decode()
        assert answer.status == 200
        for name, href in {"Search": "./?index=laion", **links}.items():
            mark = ' aria-current="page"' if name == current else ""
            assert f'<a href="{href}"{mark}>{name}</a>' in page
    assert "<nav" not in client.ask("/?index=tiny").body.decode()
    assert "Statistics of 300 pairs" in client.ask("/statistics").body.decode()


def test_the_gallery_shows_pictures_from_their_hosts_without_hidden_rows(client: Client, release: Release) -> None:
    answer = client.ask("/duplicates?index=laion")
    page = answer.body.decode()
    groups = gather(release).largest
    first, second = groups[:2]
    assert f"term=1:id:{second.representative}" in page
    assert f'<img src="https://example.org/{second.representative}.jpg"' in page
    assert f"term=1:id:{first.representative}" not in page
    assert f"/{first.representative}.jpg" not in page
    rows = [one for group in groups[1:] for one in (group.representative, *(each.id for each in group.members))]
    assert page.count('class="blurred"') == sum(one % 2 for one in rows) > 0
    assert "img-src data: http: https:" in answer.headers["content-security-policy"]
    assert "data:image" not in page


def test_an_index_without_a_release_and_an_unknown_one_have_no_pages(client: Client) -> None:
    for path in ("/statistics?index=tiny", "/duplicates?index=tiny", "/duplicates?index=nix"):
        answer = client.ask(path)
        assert (answer.status, "index" in answer.json()["message"]) == (404, True)


def test_a_page_says_that_its_figures_are_being_read(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    is_open = threading.Event()
    monkeypatch.setattr(release_pages, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(release_pages, "_statistics", lambda *_: is_open.wait(20))
    monkeypatch.setattr(release_pages, "render_statistics", lambda title, figures, site: f"{title} {figures}")
    options = SiteOptions(per_second=0, releases={"tiny": lambda: release})
    with served(tiny_engine(), options=options) as client:
        answer = client.ask("/statistics")
        assert (answer.status, answer.headers["refresh"]) == (202, "3")
        assert "loads itself again" in answer.body.decode()
        is_open.set()
        while (answer := client.ask("/statistics")).status == 202:
            pass
        assert answer.body == b"laion 1.0.0 True"


def test_figures_are_read_again_when_near_duplicates_were_searched_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    release = put_release(store, "laion", [planted(ROWS, dimensions=48)], rows_per_file=ROWS)
    search(release, Options(model=MODEL, at=0.94, cells=4, super_cells=2))
    options = SiteOptions(per_second=0, releases={"laion": lambda: open_release(store, "laion")})
    with served(tiny_engine(ROWS, name="laion", first_id=0), options=options) as client:
        assert "Cosine at least 0.94." in client.ask("/statistics").body.decode()
        before = client.ask("/duplicates").body
        search(release, Options(model=MODEL, at=0.97, cells=4, super_cells=2), restart=True)
        assert "Cosine at least 0.97." in client.ask("/statistics").body.decode()
        assert client.ask("/duplicates").body != before


def test_a_larger_release_and_one_that_was_not_searched_have_no_gallery(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = replace(release, record=replace(release.record, version="2.0.0"))
    for opened, most in ((release, ROWS - 1), (later, ROWS)):
        monkeypatch.setattr(release_pages, "MOST_ROWS", most)
        pages = release_pages.ReleasePages({"laion": partial(replace, opened)})
        assert [*pages.links("laion")] == ["Statistics"]
