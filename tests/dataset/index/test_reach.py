"""How far searches look: lists within a gap, the least that is enough, exact products, and codes that are not rows."""

from pathlib import Path

import numpy as np
import pytest

from dataset.formats.index_files import IndexRecord, Reach
from dataset.index.delete import delete_ids
from dataset.index.exact import inner_products
from dataset.index.lookup import Index, open_index
from dataset.index.measure import least
from dataset.index.segment_search import NO_GAP
from dataset.store.store import Store
from tests.dataset.index.made import Rows, build_folder, put_vectors

ROWS = 400


def test_products_of_float16_rows_are_those_of_numpy() -> None:
    draw = np.random.default_rng(1)
    queries = draw.normal(size=(3, 37)).astype(np.float32)
    rows = draw.normal(size=(50, 37)).astype(np.float16)
    assert inner_products(queries, rows) == pytest.approx(queries @ rows.astype(np.float32).T, abs=1e-4)
    assert inner_products(queries, rows[:0]).shape == (3, 0)


@pytest.mark.parametrize(("low", "high", "wanted"), [(0, 1, 1), (0, 400, 1), (8, 16, 13), (8, 16, 16), (95, 96, 96)])
def test_the_least_that_is_enough_is_found_in_few_steps(low: int, high: int, wanted: int) -> None:
    asked: list[int] = []
    assert least(low, high, lambda one: asked.append(one) or one >= wanted) == wanted  # type: ignore[func-returns-value]
    assert len(asked) <= 9


Built = tuple[Rows, Path, IndexRecord]


@pytest.fixture(scope="module")
def pq128(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("vectors")
    rows = put_vectors(folder, [ROWS], dimensions=8)
    return rows, *build_folder(folder, kind="pq128", lists=8)


def test_lists_beyond_a_gap_are_left_out_up_to_a_number(pq128: Built) -> None:
    rows, folder, _ = pq128
    index = open_index(folder)

    def lists(probes: int, gap: float) -> list[int]:
        found = index.lists_within(rows[:20], Reach(probes=probes, gap=gap, reranked=1))
        return [int(one) for one in found]

    assert lists(1, 0.0) == lists(1, NO_GAP)
    assert lists(8, NO_GAP) == [8] * 20
    few, more = lists(8, 0.2), lists(8, 0.6)
    assert all(1 <= one <= other <= 8 for one, other in zip(few, more, strict=True))
    assert sum(few) < sum(more) < 160
    assert lists(3, 0.6) == [min(one, max(3, fewest)) for one, fewest in zip(more, lists(1, 0.0), strict=True)]


def test_pq128_finds_what_all_rows_have_and_forgets_removed_rows(pq128: Built) -> None:
    rows, folder, record = pq128
    assert record.kind == "pq128"
    assert record.near.reranked == record.far.reranked >= 10
    index = Index(folder)
    queries = np.random.default_rng(9).normal(size=(20, 8)).astype(np.float32)
    nearest = np.argsort(-(queries @ rows.T), axis=1)[:, :10]
    found = index.search(queries, 10)
    assert np.mean([np.isin(hits.ids, right).mean() for hits, right in zip(found, nearest, strict=True)]) >= 0.9
    length = np.linalg.norm(queries[0])
    assert found[0].similarities == pytest.approx(rows[found[0].ids] @ queries[0] / length, abs=2e-3)
    gone = found[0].ids[:3]
    delete_ids(Store.open(str(folder)), "", gone)
    assert not np.isin(index.search(queries[:1], ROWS)[0].ids, gone).any()
    assert index.record.rows == ROWS - 3
