"""Groups of near-duplicates: an index takes them from the release's side table, and collapses results by them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataset.formats.releases import Release
from dataset.index.delete import delete_ids
from dataset.index.groups import Groups, make_records, order_members
from dataset.index.lookup import Index, open_index
from dataset.index.refresh import refresh
from dataset.search.indexes import SearchedIndex
from dataset.side_tables.join import join_tables
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from tests.dataset.index.made import build_index, made_release, rows_by_id, vectors_by_id
from tests.dataset.index.test_delete import checksums_hold
from tests.dataset.search.tiny import served

FOLDER = "index/ViT-L-14/image"
ROWS = 200


def put_groups(release: Release, size: int) -> None:
    """Write a side table in which each `size` rows in turn are a group, represented by its first; the last rows have
    none.
    """
    ids, _ = vectors_by_id(release)
    ids = ids[: len(ids) - len(ids) // 10]
    first = ids[np.arange(len(ids)) // size * size]
    sizes = np.bincount(np.arange(len(ids)) // size)[np.arange(len(ids)) // size]
    release.store.write_table("groups.parquet", pa.table({"id": ids, "representative": first, "group_size": sizes}))
    source = TableSource.open(f"{release.store.uri}/groups.parquet", JoinOn.ID, None)
    join_tables(release, "duplicates", source, said="near-duplicates")


def groups_hold(index: Index, release: Release, size: int, gone: frozenset[int] = frozenset()) -> None:
    """Compare what the index says of every group with the table."""
    ids, vectors = vectors_by_id(release)
    grouped = ids[: len(ids) - len(ids) // 10]
    groups = [grouped[at : at + size].tolist() for at in range(0, len(grouped), size)]
    groups += [[one] for one in ids[len(grouped) :].tolist()]
    left = [[one for one in group if one not in gone] for group in groups]
    of = {one: group for group in left for one in group}
    (hits,) = index.search(vectors[:1], ROWS, collapse=True)
    expected: list[int] = []
    (every,) = index.search(vectors[:1], ROWS)
    for one in every.ids.tolist():
        if not any(one in of[other] for other in expected):
            expected.append(one)
    assert hits.ids.tolist() == expected
    assert hits.left_out.tolist() == [len(of[one]) - 1 for one in expected]
    for group in left:
        for one in group[:2]:
            found = index.group(one)
            assert found is not None
            assert (found.size, sorted(found.ids.tolist())) == (len(group), group)
    sizes = [(row or {}).get("group_size") for row in index.rows(list(of), ["group_size"])]
    assert sizes == [len(group) for group in of.values()]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return made_release(tmp_path_factory.mktemp("store"), ROWS)


def test_a_build_takes_groups_from_the_side_table_and_a_refresh_brings_new_ones(
    release: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_groups(release, 7)
    monkeypatch.setattr("dataset.index.plan.RANGE_ROWS", 70)
    folder, record = build_index(release, kind="sq16", lists=8, restart=True)
    assert len(record.segments[0].ranges) == 3
    index = open_index(folder)
    assert index.facets()["representative"] == 26 + 20
    groups_hold(index, release, 7)
    checksums_hold(folder, record)
    put_groups(release, 5)
    record = refresh(Store.open(str(folder)), "", release, folder.parent / "scratch")
    groups_hold(index, release, 5)
    checksums_hold(folder, record)
    assert {str(path.relative_to(folder)) for path in folder.rglob("groups-*")} == {
        one.files["groups"].path for one in record.segments[0].ranges
    }
    assert index.facets()["representative"] == 36 + 20


def test_a_removed_row_is_in_no_group_and_a_killed_removal_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = made_release(tmp_path, ROWS)
    put_groups(release, 5)
    monkeypatch.setattr("dataset.index.plan.RANGE_ROWS", 70)
    folder, _ = build_index(release, kind="sq16", lists=8)
    index = open_index(folder)
    ids, _ = vectors_by_id(release)
    gone = frozenset([*ids[:3].tolist(), *ids[10:15].tolist(), int(ids[-1])])
    with monkeypatch.context() as patch:
        patch.setattr("dataset.index.delete._Removal._blank", None)
        with pytest.raises(TypeError):
            delete_ids(release.store, release.path(FOLDER), sorted(gone))
    delete_ids(release.store, release.path(FOLDER), [])
    groups_hold(index, release, 5, gone)
    assert index.group(int(ids[0])) is None
    checksums_hold(folder, index.record)


def test_a_group_is_expanded_over_http_with_the_rows_that_a_filter_admits(release: Release, tmp_path: Path) -> None:
    put_groups(release, 10)
    folder, _ = build_index(release, kind="flat", restart=True)
    engine = SearchedIndex("laion", {"image": open_index(folder)})
    ids, vectors = vectors_by_id(release)
    rows = rows_by_id(release)
    with served(engine) as client:  # type: ignore[arg-type]
        path = f"/api/rows/{ids[3]}/near-duplicates"
        found = client.ask(path, {"safe": False}).json()
        assert (found["group_size"], found["exact"]) == (10, True)
        group = [one for one in ids[:10].tolist() if one != ids[3]]
        near = dict(zip(ids.tolist(), (vectors @ vectors[3]).tolist(), strict=True))
        assert [one["id"] for one in found["results"]] == sorted(group, key=lambda one: -near[one])
        assert found["results"][0]["row"]["url"] == rows[found["results"][0]["id"]]["URL"]
        safe = client.ask(path, {}).json()
        assert safe["group_size"] == 10
        admitted = [one for one in group if (rows[one]["punsafe"] or 1) < 0.45]
        assert 0 < len(admitted) < 9
        assert sorted(one["id"] for one in safe["results"]) == admitted
        assert len(client.ask(path, {"safe": False, "limit": 2, "columns": []}).json()["results"]) == 2
        assert client.ask("/api/rows/99999999/near-duplicates", {}).status == 404
        wrong = client.ask(path, {"page": 2})
        assert (wrong.status, wrong.json()["field"]) == (400, "page")
        page = client.ask("/api/search", {"terms": [{"id": int(ids[3])}], "collapse": True, "limit": 3}).json()
        assert {one["group_size"] - one["near_duplicates"] for one in page["results"]} == {1}
        assert "group_size" not in page["results"][0]["row"]
        seen: list[int] = []
        cursor = None
        while True:
            asked = {"terms": [{"id": int(ids[3])}], "collapse": True, "limit": 9, "safe": False, "cursor": cursor}
            page = client.ask("/api/search", asked).json()
            seen += [one["id"] for one in page["results"]]
            if (cursor := page["cursor"]) is None:
                break
        assert len(seen) == 18 + 20
        assert client.ask("/api/indexes").json()["indexes"][0]["has_groups"]


def test_a_groups_rows_are_found_by_bisection() -> None:
    ids = np.arange(100, 112)
    sizes = np.array([1, 2, 2, 1, 3, 1, 3, 1, 3, 1, 0, 1])
    representatives = np.array([0, 5, 5, 0, 101, 0, 101, 0, 101, 0, 77, 0])
    records = make_records(ids, representatives, sizes)
    groups = Groups(records, order_members(ids, records))
    assert [groups.members(one).tolist() for one in (0, 5, 77, 100, 101, 110, 2**62)] == [
        [], [1, 2], [], [], [4, 6, 8], [], []
    ]  # fmt: skip
    assert records["representative"][10] == 110
