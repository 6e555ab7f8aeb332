"""Verify finds a leftover in every kind of file, and says what it cannot prove."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.formats.takedowns import Entry
from dataset.main import app
from dataset.store.store import Store
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.verify import Verified, verify_takedowns
from tests.manifests import TRACKER
from tests.takedowns import PER_SHARD, make_crawl, make_release, make_tables, sample

RECORDS = ("release.json", "index.json", "side_tables.json", "SHA256SUMS")


class Applied:
    """A store after an apply; `old` has the bytes of each file before it, under the names that they had and have."""

    def __init__(self, folder: Path) -> None:
        self.store = make_crawl(folder, 3)
        make_tables(make_release(self.store, index="rabitq"))
        before = {path: self.store.read(path) for path in self.store.list()}
        named = [sample(0), sample(PER_SHARD)]
        file_request(self.store, [Entry(kind="md5", value=row["md5"]) for row in named], "privacy")
        apply_takedowns(self.store, "laion")
        now = {path: self.store.read(path) for path in self.store.list()}
        self.old = {path: data for path, data in before.items() if now.get(path) != data}
        for path in set(now).difference(before):
            earlier = path.replace("-v2/", "-v1/")
            self.old |= {path: before[earlier]} if earlier in before else {}
        self.new = {path: now.get(path) for path in self.old}

    def put_back(self, path: str) -> None:
        """Leave a file as it is after the apply."""
        data = self.new[path]
        self.store.delete(path) if data is None else self.store.put(path, data)

    def verify(self, *, everything: bool = False) -> Verified:
        return verify_takedowns(self.store, "laion", everything=everything)

    def leftovers_with(self, paths: list[str]) -> set[str]:
        """Return which files are reported when these have their old bytes again."""
        for path in paths:
            self.store.put(path, self.old[path])
        found = {sentence.split(" ", 1)[0] for sentence in self.verify().leftovers}
        for path in paths:
            self.put_back(path)
        return found


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Applied:
    return Applied(tmp_path_factory.mktemp("store"))


def test_after_an_apply_nothing_is_left(applied: Applied) -> None:
    found = applied.verify()
    assert found.leftovers == []
    assert (found.rows, found.version) == (2, "2.0.0")
    assert applied.verify(everything=True).leftovers == []


def test_a_leftover_in_each_kind_of_file_is_found(applied: Applied) -> None:
    planted = [path for path in applied.old if not path.endswith(RECORDS)]
    kinds = {"data/", "extended/", "variants/", "source/", "stats/hosts/", "stats/counts/", "captions/", "img_emb/",
             "text_emb/", "metadata/", "shards/0.tar", "shards/0.parquet", "packs/", ".scores.parquet", "01.tar",
             "hosts.parquet", "README.md", "embeddings/second", "croissant.json",
             "v1/lists-", "v1/rows-", "v1/numbers-", "v1/texts-", "v1/bits-", "v1/facets-", "v1/domains-",
             "v2/lists-", "v2/rows-", "v2/numbers-", "v2/texts-", "v2/bits-", "v2/facets-", "v2/domains-",
             "captions/1-v1/", "captions/1-v2/", "duplicates/1-v1/", "duplicates/1-v2/", "tags/1-v1/", "tags/1-v2/",
             "indexing/laion/v1/", "dedup/laion/v1/"}  # fmt: skip
    assert [kind for kind in kinds if not any(kind in path for path in planted)] == []
    vectors = [path for path in planted if path.endswith(".npy")]
    others = [path for path in planted if not path.endswith(".npy")]
    assert set(vectors) - applied.leftovers_with(vectors) == set()
    assert set(others) - applied.leftovers_with(others) == set()


def test_a_file_that_is_damaged_is_not_taken_for_clean(applied: Applied) -> None:
    path = "crawl/parts/0000000001.parquet"
    applied.store.put(path, b"PAR1 and nothing else")
    assert [sentence for sentence in applied.verify().leftovers if sentence.startswith(path)]
    applied.put_back(path)


def test_a_copy_in_a_part_that_no_row_of_the_release_came_from_is_found_by_reading_everything(
    applied: Applied,
) -> None:
    path = "crawl/parts/0000000003.parquet"
    table = applied.store.read_table(path)
    row = pa.Table.from_pylist([sample(0) | {"shard": "x"}], schema=table.schema)
    data = applied.store.read(path)
    applied.store.write_table(path, pa.concat_tables([table, row]))
    assert applied.verify().leftovers == []
    (said,) = applied.verify(everything=True).leftovers
    assert said.startswith(f"{path} has 1 rows that a deny list names")
    applied.store.put(path, data)


def test_links_that_were_never_published_leave_their_crawl_by_reading_everything(tmp_path: Path) -> None:
    store = make_crawl(tmp_path, 3)
    keep = store.read("crawl/parts/0000000003.parquet")
    gone = store.read_table("crawl/parts/0000000003.parquet")
    store.write_table("crawl/parts/0000000003.parquet", gone.slice(0, 0), {"shoal.removed": str(len(gone))})
    make_release(store)
    store.put("crawl/parts/0000000003.parquet", keep)  # it came later than the release
    row = sample(2 * PER_SHARD)
    file_request(store, [Entry(kind="url", value=row["URL"])], "privacy")
    assert (done := apply_takedowns(store, "laion")) is not None
    assert done.removed == {}
    before = [sentence.split(" ", 1)[0] for sentence in verify_takedowns(store, "laion", everything=True).leftovers]
    assert before == ["crawl/packs/2.0.parquet", "crawl/shards/2.parquet", "crawl/parts/0000000003.parquet",
                      "crawl/embeddings/second/2.embeddings/metadata/metadata_0.parquet"]  # fmt: skip
    assert (done := apply_takedowns(store, "laion", again=True, everything=True)) is not None
    assert (done.removed, done.version) == ({}, "1.0.0")
    assert verify_takedowns(store, "laion", everything=True).leftovers == []
    pack = store.read_table("crawl/packs/2.0.parquet")
    assert (pack["url"][0].as_py(), pack["url"][1].as_py()) == ("", sample(2 * PER_SHARD + 1)["URL"])
    assert row["key"] not in store.read_table("crawl/parts/0000000003.parquet")["key"].to_pylist()


def test_what_cannot_be_proven_is_open_until_it_is_done(applied: Applied) -> None:
    def says(words: str) -> bool:
        return any(words in sentence for sentence in applied.verify().open)

    store = applied.store
    assert says("tracker takedown")
    store.put(f"takedowns/waiting/{TRACKER}.json", json.dumps({"deny": store.list("deny"), "held": 0}).encode())
    assert not says("tracker takedown")
    store.put("publishing/laion/runs/000000.rows", b"rows")
    assert says("finish it, or begin it anew with --restart")
    store.delete("publishing/laion/runs/000000.rows")
    request = file_request(store, [Entry(kind="hash", value="1")], "privacy")
    assert says("1 deny lists are not applied")
    store.delete(request.deny)
    assert says("Copies that no record names")


def test_the_command_fails_when_something_is_left(applied: Applied) -> None:
    arguments = ["takedown", "verify", "laion", "--store", applied.store.uri]
    clean = CliRunner().invoke(app, arguments)
    assert clean.exit_code == 0, clean.output
    assert "nothing is left" in clean.stdout
    path = next(path for path in applied.old if "/data/" in path)
    applied.store.put(path, applied.old[path])
    left = CliRunner().invoke(app, [*arguments, "--json"])
    applied.put_back(path)
    assert left.exit_code == 1
    (said,) = json.loads(left.stdout)["releases"]
    assert said["clean"] is False


def test_a_release_without_takedowns_is_clean(tmp_path: Path) -> None:
    store: Store = make_crawl(tmp_path, 1)
    make_release(store)
    assert verify_takedowns(store, "laion").is_clean
