"""The leader join on arrays, compared with a greedy search over all pairs."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset.dedup import candidates
from dataset.dedup.candidates import Rows, near_pairs, rest_of
from dataset.dedup.cells import cell_count, train_cells, visits
from dataset.dedup.leader_join import EDGE, Judge, Places, Records, nearest_leaders, pairs_of_rest, sweep
from dataset.dedup.projection import ROUNDING, encode, places_from, stable_product, train_projection, unit_rows
from dataset.dedup.rescore import cosine_steps, to_steps
from tests.planted import planted

AT = 0.94
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def near_rows(seed: int, groups: int, members: int, dimensions: int = 24) -> Floats:
    """Return rows in groups around .95, so that many pairs lie on either side of the threshold."""
    draw = np.random.default_rng(seed)
    centres = unit_rows(draw.normal(size=(groups, dimensions)))
    noise = unit_rows(draw.normal(size=(groups * members, dimensions)))
    return unit_rows(np.repeat(centres, members, axis=0) + draw.uniform(0.05, 0.35, (len(noise), 1)) * noise)


def rows_of(vectors: Floats, quality: Integers) -> Rows:
    return Rows(vectors, np.arange(len(vectors)), quality.astype(np.uint64), np.arange(len(vectors)))


def judge_of(left: Floats, right: Floats) -> Judge:
    def judge(a: Integers, b: Integers) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        cosines = cosine_steps(left[a], right[b])
        return cosines, cosines >= to_steps(AT)

    return judge


def greedy(vectors: Floats, quality: Integers) -> set[int]:
    pairs = cosine_steps(np.repeat(vectors, len(vectors), axis=0), np.tile(vectors, (len(vectors), 1)))
    near = pairs.reshape(len(vectors), -1) >= to_steps(AT)
    covered, kept = np.zeros(len(vectors), bool), set()
    for row in np.lexsort((np.arange(len(vectors)), quality)).tolist():
        if not covered[row]:
            kept.add(row)
            covered |= near[row]
    return kept


def search_in_rounds(
    vectors: Floats, quality: Integers, borders: list[int], guard_pairs: int
) -> tuple[set[int], dict[int, int], int]:
    """Search in one cell, in rounds by quality; return who is kept, who represents whom, and the pairs."""
    order = np.lexsort((np.arange(len(vectors)), quality))
    kept, of, pairs = set[int](), dict[int, int](), 0
    orphans = np.empty(0, np.int64)
    for round_rows in [*np.split(order, borders), np.empty(0, np.int64)]:
        new = np.sort(np.concatenate([round_rows, orphans]))
        old = np.array(sorted(kept), np.int64)
        a, b = rows_of(vectors[new], quality[new]), rows_of(vectors[old], quality[old])
        one = [Places.of(np.zeros(len(rows), np.int64), np.arange(len(rows))) for rows in (new, old)]
        none = Places.of(np.empty(0, np.int64), np.empty(0, np.int64))
        found = nearest_leaders((a, one[0], none), (b, one[1], none), AT - 1e-3, judge_of(vectors[new], vectors[old]))
        of |= dict(zip(new[found["row"]].tolist(), old[found["leader"]].tolist(), strict=True))
        left = np.setdiff1d(new, list(of))
        rest = Rows(vectors[left], left, quality[left].astype(np.uint64), left)
        home = Places.of(np.zeros(len(left), np.int64), np.arange(len(left)))
        edges, guarded = pairs_of_rest(
            rest, home, none, AT - 1e-3, judge_of(vectors[left], vectors[left]), guard_pairs=guard_pairs
        )
        covers, orphans = sweep(edges, guarded)
        pairs += len(edges)
        of |= dict(zip(covers["row"].tolist(), covers["leader"].tolist(), strict=True))
        kept |= set(left.tolist()) - set(covers["row"].tolist()) - set(orphans.tolist())
    return kept, of, pairs


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0, 40, 10**9]), st.integers(2, 30))
def test_rounds_give_the_greedy_result_with_and_without_the_guard(seed: int, guard_pairs: int, members: int) -> None:
    vectors = near_rows(seed, 6, members)
    quality = np.random.default_rng(seed).integers(0, 50, len(vectors))  # with equal values
    kept, of, _ = search_in_rounds(vectors, quality, [len(vectors) // 4, len(vectors) // 2], guard_pairs)
    assert kept == greedy(vectors, quality)
    assert kept.isdisjoint(of)
    assert kept | set(of) == set(range(len(vectors)))
    rows, leaders = np.array([*of], np.int64), np.array([*of.values()], np.int64)
    assert set(leaders.tolist()) <= kept
    assert (cosine_steps(vectors[rows], vectors[leaders]) >= to_steps(AT)).all()


def test_guard_lists_a_pair_a_member_of_a_group_that_comes_first() -> None:
    draw = np.random.default_rng(1)
    vectors = unit_rows(unit_rows(draw.normal(size=(1, 24))) + draw.normal(0, 0.01, (600, 24)))
    quality = np.arange(600)
    *_, pairs = search_in_rounds(vectors, quality, [], 10**9)
    assert pairs == 600 * 599 // 2
    kept, _, guarded_pairs = search_in_rounds(vectors, quality, [], 1_000)
    assert kept == {0}
    assert guarded_pairs < 3 * 600


def test_candidates_that_are_no_near_duplicates_do_not_call_the_guard() -> None:
    draw = np.random.default_rng(1)
    alike = unit_rows(unit_rows(draw.normal(size=(1, 24))) + 0.3 * unit_rows(draw.normal(size=(600, 24))))
    quality = np.arange(600)
    rows = rows_of(alike, quality)
    none = Places.of(np.empty(0, np.int64), np.empty(0, np.int64))
    home = Places.of(np.zeros(600, np.int64), np.arange(600))
    judge, judged = judge_of(alike, alike), []

    def counting(a: Integers, b: Integers) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        judged.append(len(a))
        return judge(a, b)

    wanted, _ = pairs_of_rest(rows, home, none, 0.8, judge, guard_pairs=10**9)
    assert 0 < len(wanted) < 60_000
    edges, guarded = pairs_of_rest(rows, home, none, 0.8, counting, guard_pairs=len(wanted))
    assert sum(judged) > 2 * len(wanted)
    assert np.sort(edges, order=["better", "worse"]).tolist() == wanted.tolist()
    assert not len(guarded)
    _, guarded = pairs_of_rest(rows, home, none, 0.8, judge, guard_pairs=len(wanted) - 1)
    assert len(guarded)


def test_nearest_leader_is_found_without_reading_all_candidates() -> None:
    new, old = near_rows(3, 4, 30), near_rows(3, 4, 60)
    cosines = cosine_steps(np.repeat(new, len(old), axis=0), np.tile(old, (len(new), 1))).reshape(len(new), -1)
    quality = np.zeros(len(old), np.int64)
    places = [Places.of(np.zeros(len(rows), np.int64), np.arange(len(rows))) for rows in (new, old)]
    none = Places.of(np.empty(0, np.int64), np.empty(0, np.int64))
    judge, read = judge_of(new, old), 0

    def counting(a: Integers, b: Integers) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
        nonlocal read
        read += len(a)
        return judge(a, b)

    sides = (rows_of(new, quality[: len(new)]), places[0], none), (rows_of(old, quality), places[1], none)
    found = nearest_leaders(*sides, AT - 1e-3, counting)
    near = cosines.max(axis=1) >= to_steps(AT)
    assert found["row"].tolist() == np.flatnonzero(near).tolist()
    assert found["leader"].tolist() == cosines.argmax(axis=1)[near].tolist()
    assert read < (cosines >= to_steps(AT)).sum() / 2


def edge(better: int, worse: int, cosine: int = 9_500) -> Records:
    return np.array([(better, worse, cosine, better, better, worse, worse)], EDGE)


def test_row_whose_leader_is_covered_elsewhere_is_an_orphan() -> None:
    covers, orphans = sweep(np.concatenate([edge(1, 2), edge(2, 3)]), np.array([3]))
    assert covers["row"].tolist() == [2]
    assert orphans.tolist() == [3]
    covers, orphans = sweep(np.concatenate([edge(1, 2), edge(2, 3), edge(1, 3, 9_410)]), np.array([3]))
    assert covers.tolist() == [(2, 1, 9_500), (3, 1, 9_410)]
    assert orphans.tolist() == []


def test_row_goes_to_the_most_similar_leader() -> None:
    covers, _ = sweep(np.concatenate([edge(1, 5, 9_400), edge(2, 5, 9_700), edge(3, 5, 9_700)]), np.empty(0, np.int64))
    assert covers.tolist() == [(5, 2, 9_700)]


@pytest.mark.parametrize("dimensions", [48, 256])
def test_product_of_codes_is_never_below_the_cosine(dimensions: int) -> None:
    vectors = planted(800, dimensions=dimensions)
    codes = encode(vectors, train_projection(vectors[:400])).astype(np.float32)
    rows = unit_rows(vectors)
    assert ((rows @ rows.T) - codes @ codes.T).max() < ROUNDING
    assert codes.shape[1] == min(dimensions + 1, 128)


@pytest.mark.parametrize("lowest", [0.5, 0.94])
@pytest.mark.parametrize("with_rest", [False, True])
def test_short_codes_lose_no_pair(lowest: float, with_rest: bool) -> None:
    halves = encode(planted(900), train_projection(planted(900)))
    codes, numbers = halves.astype(np.float32), np.arange(900)
    rows = Rows(halves, numbers, np.zeros(900, np.uint64), numbers, rest_of(halves) if with_rest else None)
    a, b = np.arange(300), np.arange(250, 900)
    left, right, of = near_pairs(rows, a, rows, b, lowest)
    found = set(zip(left.tolist(), right.tolist(), strict=True))
    products = codes[a] @ codes[b].T
    np.testing.assert_allclose(of, products[left, right], atol=1e-5)
    assert set(zip(*np.nonzero(products >= lowest + 1e-5), strict=True)) <= found
    assert found <= set(zip(*np.nonzero(products >= lowest - 1e-5), strict=True))


def test_product_of_a_row_does_not_depend_on_its_neighbours() -> None:
    draw = np.random.default_rng(2)
    for dimensions, columns in ((768, 127), (128, 37), (128, 3), (17, 5)):
        rows = draw.normal(size=(1_500, dimensions)).astype(np.float32)
        other = draw.normal(size=(dimensions, columns)).astype(np.float32)
        whole = stable_product(rows, other)
        for count in (1, 2, 17, 333, 1_025):
            chosen = draw.permutation(1_500)[:count]
            assert (stable_product(rows[chosen], other) == whole[chosen]).all()


def test_visits_follow_the_gap() -> None:
    codes = encode(planted(3_000, dimensions=64), np.eye(64, dtype=np.float32)).astype(np.float32)
    cells = train_cells(codes, cell_count(3_000) * 4, 4, 0.05)
    home, rows, visited = visits(codes, cells, 0.05)
    distance = ((codes[:, None, :] - cells.below[None]) ** 2).sum(axis=2) if len(cells.below) < 200 else None
    assert distance is not None
    nearest = distance.min(axis=1)
    assert (distance[np.arange(3_000), home] <= nearest + 1e-5).mean() > 0.97  # the upper cells hide few
    assert (home[rows] != visited).all()
    assert (distance[rows, visited] - distance[rows, home[rows]] <= 0.05 + 1e-5).all()
    wanted = (distance - distance[np.arange(3_000), home][:, None] <= 0.05 - 1e-5).sum() - 3_000
    assert len(rows) > 0.94 * wanted
    assert cells.super_cell_of(home).max() == 3


def test_rows_of_a_large_group_visit_few_cells() -> None:
    vectors = planted(3_000, dimensions=64)
    draw = np.random.default_rng(5)
    vectors[:1_000] = unit_rows(vectors[:1].astype(np.float32) + draw.normal(0, 0.15 / 8, (1_000, 64)))
    codes = encode(vectors, np.eye(64, dtype=np.float32)).astype(np.float32)
    cells = train_cells(codes, 128, 4, 0.06)
    _, rows, _ = visits(codes, cells, 0.06)
    assert (rows < 1_000).sum() < 10 * 1_000  # in each of the group's 40 cells, it would be 40 a row


def test_products_of_large_cells_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(near_rows(1, 5, 60), np.zeros(300, np.int64))
    a, b = np.arange(170), np.arange(100, 300)
    whole = near_pairs(rows, a, rows, b, AT)
    monkeypatch.setattr(candidates, "_PRODUCTS_AT_ONCE", 0)
    pieces = near_pairs(rows, a, rows, b, AT)
    assert [one.tolist() for one in pieces[:2]] == [one.tolist() for one in whole[:2]]
    assert len(whole[0])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 7)])
def test_places_of_products_are_those_of_nonzero(shape: tuple[int, int]) -> None:
    products = np.random.default_rng(2).random(shape).astype(np.float32)
    found, wanted = places_from(products, 0.5), np.nonzero(products >= 0.5)
    assert [one.tolist() for one in found] == [one.tolist() for one in wanted]


def test_guard_sees_a_large_group_before_its_pairs_fill_the_memory() -> None:
    count = 8_192
    rows = rows_of(unit_rows(np.tile(np.arange(1.0, 9.0, dtype=np.float32), (count, 1))), np.arange(count))
    places = Places.of(np.zeros(count, np.int64), np.arange(count))
    none = Places.of(np.empty(0, np.int64), np.empty(0, np.int64))
    judge = judge_of(rows.codes, rows.codes)
    tracemalloc.start()
    edges, guarded = pairs_of_rest(rows, places, none, AT - 1e-3, judge)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(edges) == len(guarded) == count - 1
    assert peak < 64 << 20  # all pairs of 4,096 of the rows with all would take 512 MB
