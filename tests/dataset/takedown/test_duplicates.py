"""Groups of near-duplicates that lose members are what a new search would find."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from dataset.dedup.options import Options
from dataset.dedup.quality import DEFAULT_ORDER, quality_keys
from dataset.dedup.run import search
from dataset.formats.embeddings import PairEmbeddings, write_embeddings
from dataset.formats.parts import PRIVATE_COLUMNS
from dataset.formats.releases import Release, open_release
from dataset.formats.side_tables import read_side_tables
from dataset.formats.takedowns import Entry
from dataset.side_tables.join import join_tables
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.verify import verify_takedowns
from tests.embeddings import MODEL
from tests.takedowns import PER_SHARD, make_crawl, make_release, sample

DIMENSIONS, AT = 64, 0.94
TIGHT, LOOSE, PAIR = (0, 25, 47, 58), (4, 30, 52), (7, 33)
"""Near each other; near their best row alone; two."""


def by_quality(seeds: tuple[int, ...]) -> list[int]:
    rows = pa.Table.from_pylist([{name: value for name, value in sample(seed).items() if name != "aesthetic"}
                                 for seed in seeds])  # fmt: skip
    return [seeds[at] for at in np.argsort(quality_keys(rows, DEFAULT_ORDER)).tolist()]


def made_vectors() -> npt.NDArray[np.float16]:
    """A row for each link: unit rows far from each other, those of the groups aside."""
    draw = np.random.default_rng(5)
    rows = np.linalg.qr(draw.normal(size=(DIMENSIONS, DIMENSIONS)))[0][: 3 * PER_SHARD].astype(np.float64)
    for group, cosine in ((TIGHT, 0.99), (LOOSE, 0.95), (PAIR, 0.97)):
        best, *others = by_quality(group)
        for one in others:
            rows[one] = cosine * rows[best] + np.sqrt(1 - cosine**2) * rows[one]
    return rows.astype(np.float16)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    store = make_crawl(tmp_path, 3)
    vectors = made_vectors()
    for shard in range(3):
        stem = f"crawl/parts/{shard + 1:010d}"
        part = store.read_table(f"{stem}.parquet").drop_columns([*PRIVATE_COLUMNS])
        some = vectors[shard * PER_SHARD : (shard + 1) * PER_SHARD]
        pairs = [PairEmbeddings(row, row) for row in some]
        write_embeddings(store, stem, pairs, part.replace_schema_metadata(None), MODEL)
    release = make_release(store)
    search(release, Options(model=MODEL["shoal.model"], at=AT))
    return release


def table_of(release: Release) -> dict[str, dict[str, Any]]:
    """The rows of the side table by URL, groups named by the URL of their representative."""
    store = release.store
    urls = {row["id"]: row["URL"] for file in release.record.files if file.kind == "data"
            for row in store.read_table(release.path(file.path), ["id", "URL"]).to_pylist()}  # fmt: skip
    files = read_side_tables(release)["duplicates"].files
    rows = [row for file in files for row in store.read_table(release.path(file.path)).to_pylist()]
    return {urls[row["id"]]: row | {"representative": urls[row["representative"]]} for row in rows}


def remove(release: Release, *seeds: int) -> Release:
    file_request(release.store, [Entry(kind="url", value=sample(seed)["URL"]) for seed in seeds], "privacy")
    apply_takedowns(release.store, "laion")
    return open_release(release.store, "laion")


def searched_anew(release: Release) -> dict[str, dict[str, Any]]:
    search(release, Options(model=MODEL["shoal.model"], at=AT), restart=True)
    return table_of(release)


def url(seed: int) -> str:
    return str(sample(seed)["URL"])


def close(left: dict[str, dict[str, Any]], right: dict[str, dict[str, Any]]) -> None:
    assert left.keys() == right.keys()
    for name, row in left.items():
        for column, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(right[name][column], abs=1e-6), (name, column)
            else:
                assert value == right[name][column], (name, column)


def test_of_a_group_whose_representative_was_removed_the_best_row_that_is_left_represents(release: Release) -> None:
    best, second, *others = by_quality(TIGHT)
    before = table_of(release)
    assert {before[url(seed)]["representative"] for seed in TIGHT} == {url(best)}
    after = table_of(live := remove(release, best))
    assert {after[url(seed)]["representative"] for seed in (second, *others)} == {url(second)}
    assert after[url(second)]["kind"] == "self"
    assert set(after[url(second)]["captions"]) == {sample(seed)["TEXT"] for seed in (second, *others)}
    assert before[url(second)]["captions"] is None
    assert verify_takedowns(live.store, "laion").is_clean
    close(after, searched_anew(live))


def test_members_that_were_only_near_the_removed_representative_are_no_longer_a_group(release: Release) -> None:
    best, *others = by_quality(LOOSE)
    after = table_of(live := remove(release, best))
    assert [(after[url(seed)]["group_size"], after[url(seed)]["representative"]) for seed in others] == [
        (1, url(seed)) for seed in others
    ]
    close(after, searched_anew(live))


def test_a_group_that_loses_a_member_counts_one_less_and_has_its_captions_no_more(release: Release) -> None:
    best, *_, last = by_quality(TIGHT)
    one, other = by_quality(PAIR)
    after = table_of(live := remove(release, last, other))
    assert after[url(best)]["group_size"] == len(TIGHT) - 1
    assert sample(last)["TEXT"] not in after[url(best)]["captions"]
    assert after[url(one)]["group_size"] == 1
    assert after[url(one)]["weight_inverse"] == 1
    close(after, searched_anew(live))


def test_rows_of_other_groups_stay_as_they_were(release: Release) -> None:
    store: Store = release.store
    before = table_of(release)
    after = table_of(remove(Release(store, release.folder, release.record), by_quality(TIGHT)[0]))
    assert {name: row for name, row in before.items() if name not in map(url, TIGHT)} == {
        name: row for name, row in after.items() if name not in map(url, TIGHT)
    }


def test_groups_that_a_search_found_before_and_wrote_after_an_apply_are_mended(release: Release) -> None:
    store = release.store
    files = read_side_tables(release)["duplicates"].files
    old = pa.concat_tables([store.read_table(release.path(file.path)) for file in files])
    best = by_quality(TIGHT)[0]
    live = remove(release, best)
    expected = table_of(live)
    store.write_table("late.parquet", old.replace_schema_metadata(None))
    source = TableSource.open(f"{store.uri}/late.parquet", JoinOn.ID, None)
    join_tables(live, "duplicates", source, said="late")
    found = verify_takedowns(store, "laion").leftovers
    assert [sentence for sentence in found if "that a removed row represents" in sentence]
    apply_takedowns(store, "laion", again=True)
    assert verify_takedowns(store, "laion").is_clean
    close(table_of(open_release(store, "laion")), expected)
