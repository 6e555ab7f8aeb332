"""The demo's checks of its release detect faults of a release."""

from pathlib import Path

import pytest

from dataset.formats.releases import Release, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.demo.release_checks import check_release
from tests.parts import MadeStore, in_parts, make_pair


@pytest.fixture
def release(tmp_path: Path) -> Release:
    made = MadeStore(Store.open(str(tmp_path / "store")))
    made.put_run("demo", in_parts([make_pair(seed % 1_100) for seed in range(1_200)]))
    publish(made.store, Request(name="demo", inputs=[InputName(".", "demo")], batch="2026-11-26"))
    (tmp_path / "statistics.html").write_text("<p>Statistics of 1,100 pairs</p>")
    return open_release(made.store, "demo")


def refused(release: Release, tmp_path: Path) -> list[str]:
    store = release.store
    checks = check_release(store, store.read_table("manifest.parquet"), release, tmp_path / "statistics.html")
    return [check.question for check in checks if not check.holds]


def test_a_sound_release_passes(release: Release, tmp_path: Path) -> None:
    assert refused(release, tmp_path) == []


def test_a_pair_that_is_not_in_the_release_is_seen(release: Release, tmp_path: Path) -> None:
    MadeStore(release.store).put_run("demo", [[make_pair(5_000)]])
    assert "the release has every kept pair once" in refused(release, tmp_path)


def test_a_file_that_was_damaged_is_seen(release: Release, tmp_path: Path) -> None:
    release.store.put(release.path("plots/sizes.svg"), b"<svg/>")
    assert refused(release, tmp_path) == ["its files have their checksums"]


def test_a_page_of_other_numbers_is_seen(release: Release, tmp_path: Path) -> None:
    (tmp_path / "statistics.html").write_text("<p>Statistics of 1,099 pairs</p>")
    assert refused(release, tmp_path) == ["card and statistics page tell its pairs"]
