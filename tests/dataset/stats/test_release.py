"""Statistics of a release: counts are saved with it, and only changed files are counted again."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataset import main
from dataset.formats.releases import Release, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.stats.domains import most_frequent_domains
from dataset.stats.gather import Gathered, gather
from dataset.stats.units import SAVED_FOLDER, units_of_folder, units_of_release
from dataset.store.store import Store
from tests.parts import MadeStore, in_parts, make_pair


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    made = MadeStore(Store.open(str(tmp_path / "store")))
    pairs = [make_pair(seed, subset=subset) for seed, subset in enumerate(["en", "multi", "nolang"] * 60)]
    made.put_run("first", in_parts([pair for pair in pairs if pair["subset"] == "en"]))
    made.put_run("second", in_parts([pair for pair in pairs if pair["subset"] != "en"]))
    return made


def publish_run(made: MadeStore, run: str, batch: str) -> Release:
    publish(made.store, Request(name="laion", inputs=[InputName(".", run)], batch=batch))
    return open_release(made.store, "laion")


def gather_release(release: Release, save: bool = True) -> Gathered:
    return gather(release.store, units_of_release(release), save=save)


def test_the_counts_are_those_of_the_releases_rows(made: MadeStore) -> None:
    release = publish_run(made, "second", "a")
    gathered = gather_release(release)
    assert {subset: gathered.counts[subset].rows for subset in ("multi", "nolang")} == {"multi": 60, "nolang": 60}
    data = Store.open(f"{release.store.uri}/releases/laion/data", writable=False)
    assert gather(data, units_of_folder(data)).counts["all"] == gathered.counts["all"]


def saved(release: Release) -> list[str]:
    return release.store.list(f"releases/laion/{SAVED_FOLDER}")


def test_publish_saves_the_counts_of_each_file(made: MadeStore) -> None:
    release = publish_run(made, "first", "a")
    assert saved(release) == [f"releases/laion/{SAVED_FOLDER}/en/a/train-00000-of-00001.counts"]
    assert gather_release(release).units_counted == 0


def test_only_files_without_saved_counts_are_counted(made: MadeStore) -> None:
    publish_run(made, "second", "a")
    release = publish_run(made, "first", "b")
    before = gather_release(release)
    release.store.delete(saved(release)[0])
    after = gather_release(release)
    assert (after.units, after.units_counted) == (3, 1)
    assert after.counts["all"] == before.counts["all"]
    assert len(saved(release)) == 3


def test_a_release_is_named_by_name_or_by_path(made: MadeStore) -> None:
    publish_run(made, "first", "a")
    uri = made.store.uri
    for source in (["laion", "--store", uri], [f"{uri}/releases/laion"]):
        result = CliRunner().invoke(main.app, ["stats", *source, "--json"])
        assert result.exit_code == 0, result.exception
        found = json.loads(result.stdout)
        assert (found["source"], found["rows"]) == ("laion 1.0.0", 60)


def test_a_run_is_counted_by_its_parts(made: MadeStore) -> None:
    result = CliRunner().invoke(main.app, ["stats", "--store", made.store.uri, "--run", "first"])
    assert "60 |" in result.stdout or result.exception is not None


def test_the_domains_are_those_that_were_published(made: MadeStore) -> None:
    release = publish_run(made, "first", "a")
    hosts = release.store.read_table("releases/laion/hosts.parquet").to_pylist()
    found = most_frequent_domains(release)
    expected = sorted((-row["rows"], row["domain"]) for row in hosts)[:100]
    assert [(-domain.rows, domain.name) for domain in found] == expected
    assert sum(domain.rows for domain in found) == 60
    assert all(domain.mean_punsafe is not None and 0 <= domain.mean_punsafe <= 1 for domain in found)
