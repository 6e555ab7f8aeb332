"""A worker that comes back after a takedown, with a unit that was begun before, brings no row back."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.dedup.work import Work, work_folder
from dataset.errors import DatasetError
from dataset.formats.index_files import read_index_record
from dataset.formats.releases import Release, open_release
from dataset.formats.side_tables import read_side_tables
from dataset.formats.takedowns import Entry
from dataset.index.jobs import build, run_step
from dataset.index.lookup import open_index
from dataset.index.plan import IndexOptions, work_on_release
from dataset.store.store import Store
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.stale import stale_files
from dataset.takedown.verify import verify_takedowns
from tests.embeddings import MODEL, vector
from tests.takedowns import make_crawl, make_release, make_tables, sample

INDEX = "releases/laion/index/ViT-L-14/image"
OPTIONS = IndexOptions(model=MODEL["shoal.model"], kind="sq16", lists=4, held_out=8)
DEDUP = Options(model=MODEL["shoal.model"], at=0.94)
GONE = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_tables(make_release(make_crawl(folder, 3), index="sq16"))
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made, tmp_path / "store")
    return Store.open(str(tmp_path / "store"))


def remove_one(store: Store) -> None:
    file_request(store, [Entry(kind="url", value=sample(GONE)["URL"])], "privacy")
    assert apply_takedowns(store, "laion") is not None


def is_found(store: Store) -> bool:
    """Whether a search finds the picture of the removed row, by its own vector."""
    query = vector("image", int(sample(GONE)["key"])).astype(np.float32)[None]
    (hits,) = open_index(Path(store.uri) / INDEX).search(query, 1)
    return bool(hits.similarities[0] > 0.999)


def write_again(store: Store, before: dict[str, bytes]) -> set[str]:
    """Write every file that a unit of an earlier build wrote and that is not there any more."""
    gone = {path for path in before if not store.exists(path)}
    for path in gone:
        store.put(path, before[path])
    return gone


def test_files_of_an_index_that_are_written_again_are_not_read_and_are_reported(store: Store) -> None:
    before = {path: store.read(path) for path in store.list(INDEX)}
    assert is_found(store)
    remove_one(store)
    late = write_again(store, before)
    roles = {path.rpartition("/")[2].partition("-")[0] for path in late}
    assert roles == {"lists", "numbers", "texts", "bits", "facets", "domains"}
    assert not is_found(store)
    found = verify_takedowns(store, "laion").leftovers
    assert {sentence.split(" ", 1)[0] for sentence in found} == late
    assert apply_takedowns(store, "laion", again=True) is not None
    assert verify_takedowns(store, "laion").is_clean
    assert not late & set(store.list(INDEX))


@pytest.mark.parametrize("name", ["duplicates", "tags"])
def test_files_of_a_side_table_that_are_written_again_are_not_read_and_are_reported(store: Store, name: str) -> None:
    folder = f"releases/laion/{name}"
    before = {path: store.read(path) for path in store.list(folder)}
    remove_one(store)
    late = write_again(store, before)
    assert late
    table = read_side_tables(open_release(store, "laion"))[name]
    assert not late & {f"releases/laion/{file.path}" for file in table.files}
    assert {sentence.split(" ", 1)[0] for sentence in verify_takedowns(store, "laion").leftovers} == late


def test_working_files_of_an_older_version_are_deleted_and_no_later_build_reads_them(store: Store) -> None:
    release = open_release(store, "laion")
    work = work_on_release(release, OPTIONS, anew=True)
    run_step(work, "train", 0, scratch=Path(store.uri))
    run_step(work, "add", 0, scratch=Path(store.uri))
    begun = {path: store.read(path) for path in store.list(work.work)}
    remove_one(store)
    assert not store.list(work.work)
    assert not store.list(work_folder(release, DEDUP.model))
    late = write_again(store, begun)
    live = open_release(store, "laion")
    rebuilt = build(partial(work_on_release, live, OPTIONS), restart=True)
    assert (rebuilt.version, rebuilt.rows) == ("2.0.0", 59)
    assert not is_found(store)
    assert set(stale_files(live)) == late


def test_a_unit_that_goes_on_after_a_takedown_publishes_nothing(store: Store) -> None:
    work = work_on_release(open_release(store, "laion"), replace(OPTIONS, build="queue-7"))
    for step in work.plan.steps[:-1]:
        for unit in range(step.units):
            run_step(work, step.name, unit, scratch=Path(store.uri))
    kept = {path: store.read(path) for path in store.list()}
    remove_one(store)
    record = read_index_record(store, INDEX)
    write_again(store, kept)
    with pytest.raises(DatasetError, match="start again"):
        run_step(work, "finish", 0, scratch=Path(store.uri))
    assert read_index_record(store, INDEX) == record


def test_a_search_for_near_duplicates_begins_anew_after_a_takedown(store: Store) -> None:
    late = {path: store.read(path) for path in store.list("dedup")}
    remove_one(store)
    write_again(store, late)
    live: Release = open_release(store, "laion")
    assert Work(live, DEDUP).plan.new_from == 0
    search(live, DEDUP)
    table = read_side_tables(live)["duplicates"]
    assert (table.rows, table.version) == (59, "2.0.0")
    assert all("/2-v2/" in file.path for file in table.files)
