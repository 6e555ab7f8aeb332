"""The join of two blocks, compared with numpy in float64: every pair at or above the threshold, and no other."""

import numpy as np
import numpy.typing as npt
import pytest

import dataset.models.block_join as block_join
from dataset.models.block_join import join_blocks, join_tiles

Rows = npt.NDArray[np.float32]
THRESHOLD = 0.94


def families(seed: int, rows: int) -> Rows:
    """Return unit rows (rows, 48) of which many are near copies of each other, at cosines around .94."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(17, 48))
    made = centres[rng.integers(0, 17, rows)] + rng.uniform(0.05, 0.5, (rows, 1)) * rng.normal(size=(rows, 48))
    rows_made: Rows = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return rows_made


def wanted(left: Rows, right: Rows, threshold: float = THRESHOLD) -> tuple[list[int], list[int], list[float]]:
    cosines = (left.astype(np.float64) @ right.astype(np.float64).T).astype(np.float32)
    i, j = (cosines >= np.float32(threshold)).nonzero()
    return i.tolist(), j.tolist(), cosines[i, j].tolist()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_join, "TILE_ROWS", {"cpu": 41, "cuda": 41})
    monkeypatch.setattr(block_join, "EXACT_PAIRS", 100)


def test_pairs_of_two_blocks_are_those_of_float64() -> None:
    left, right = families(1, 150), families(2, 97)
    i, j, cosine = join_blocks(left, right, THRESHOLD, device="cpu")
    assert 100 < len(i) < len(left) * len(right) / 2
    assert [column.dtype.name for column in (i, j, cosine)] == ["int64", "int64", "float32"]
    assert (i.tolist(), j.tolist(), cosine.tolist()) == wanted(left, right)


def test_a_block_with_itself_gives_each_pair_once() -> None:
    rows = families(3, 150)
    i, j, _ = join_blocks(rows, None, THRESHOLD, device="cpu")
    every = [(a, b) for a, b, _ in zip(*wanted(rows, rows), strict=True) if a < b]
    assert [*zip(i.tolist(), j.tolist(), strict=True)] == every


def test_float16_rows_are_compared_by_their_exact_cosines() -> None:
    left, right = families(4, 90).astype(np.float16), families(5, 60).astype(np.float16)
    i, j, cosine = join_blocks(left, right, THRESHOLD, device="cpu")
    assert (i.tolist(), j.tolist(), cosine.tolist()) == wanted(left.astype(np.float32), right.astype(np.float32))


def test_a_pair_exactly_at_the_threshold_is_found_and_one_just_below_is_not() -> None:
    left = np.array([[1, 0]], np.float32)
    at = np.float32(THRESHOLD)
    below = np.nextafter(at, np.float32(0), dtype=np.float32)
    right = np.array([[at, 0], [below, 0]], np.float32)
    i, j, cosine = join_blocks(left, right, THRESHOLD, device="cpu")
    assert (i.tolist(), j.tolist(), cosine.tolist()) == ([0], [0], [at])


def test_errors_of_the_fast_product_lose_and_add_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, whose products are off by up to 2^-9."""
    left, right = families(6, 120), families(7, 80)
    plain = block_join._candidates

    def rough(rows: object, columns: object, threshold: float, *, above_diagonal: bool) -> object:
        return plain(rows, columns, threshold + 2**-9, above_diagonal=above_diagonal)  # type: ignore[arg-type]

    monkeypatch.setattr(block_join, "_candidates", rough)
    i, j, _ = join_blocks(left, right, THRESHOLD, device="cpu")
    assert (i.tolist(), j.tolist()) == wanted(left, right)[:2]


def test_tiles_come_one_by_one_and_empty_blocks_have_no_pairs() -> None:
    left = families(8, 100)
    assert len([*join_tiles(left, left, THRESHOLD, device="cpu")]) == 9
    assert len([*join_tiles(left, None, THRESHOLD, device="cpu")]) == 6
    i, j, cosine = join_blocks(left[:0], left, THRESHOLD, device="cpu")
    assert (len(i), len(j), len(cosine)) == (0, 0, 0)
