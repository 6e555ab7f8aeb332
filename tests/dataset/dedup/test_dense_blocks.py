"""Pairs of rows that are in many pairs, decided by products of blocks."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dataset.dedup import dense_blocks
from dataset.dedup.dense_blocks import may_reach
from dataset.dedup.projection import unit_rows
from dataset.dedup.rescore import FloatRows, Names, Rescorer, cosine_steps
from dataset.formats.npy import write_header
from dataset.store.store import Store

AT = 9_400
Halves = npt.NDArray[np.float16]
Integers = npt.NDArray[np.int64]


def alike(rows: int, seed: int = 0) -> Halves:
    """Return rows in one neighbourhood, at cosines of .9 to .96 to each other, and as many others."""
    draw = np.random.default_rng(seed)
    centre = unit_rows(draw.normal(size=(1, 64)))
    noise = unit_rows(draw.normal(size=(rows, 64)))
    near = unit_rows(centre + draw.uniform(0.15, 0.4, (rows, 1)) * noise)
    return np.concatenate([near, unit_rows(draw.normal(size=(rows, 64)))]).astype(np.float16)


def all_pairs(rows: int) -> tuple[Integers, Integers]:
    a, b = np.nonzero(np.triu(np.ones((rows, rows), bool), 1))
    return a.astype(np.int64), b.astype(np.int64)


def test_no_pair_that_reaches_the_cosine_is_given_up_and_few_others_are_left() -> None:
    rows = alike(700)
    a, b = all_pairs(700)
    a, b = np.append(a, np.arange(700)), np.append(b, np.arange(700, 1400))  # the last are in no block
    cosines = cosine_steps(rows[a], rows[b])
    may = may_reach((AT - 0.5) * 1e-4, a, b, rows.__getitem__, rows.__getitem__)
    near = cosines >= AT
    assert near.any()
    assert may[near].all()
    assert may[-700:].all()
    assert (may & ~near)[:-700].mean() < 0.001
    assert near[:-700].mean() < 0.8


def test_numbers_of_rows_may_be_far_apart() -> None:
    rows = alike(700)
    a, b = all_pairs(700)
    dense = may_reach((AT - 0.5) * 1e-4, a, b, rows.__getitem__, rows.__getitem__)
    far = may_reach((AT - 0.5) * 1e-4, a, b * 10**9, rows.__getitem__, lambda at: rows[at // 10**9])
    assert (far == dense).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
def test_rows_need_not_be_of_unit_length(scale: float) -> None:
    rows = (alike(512)[:512].astype(np.float32) * scale).astype(np.float16)
    a, b = all_pairs(512)
    cosines = cosine_steps(rows[a], rows[b])
    may = may_reach((AT - 0.5) * 1e-4, a, b, rows.__getitem__, rows.__getitem__)
    assert may[cosines >= AT].all()
    assert may[cosines < AT - 1].mean() < 0.01


def test_blocks_that_are_given_up_from_memory_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = alike(700)
    a, b = all_pairs(700)
    whole = may_reach((AT - 0.5) * 1e-4, a, b, rows.__getitem__, rows.__getitem__)
    monkeypatch.setattr(dense_blocks, "_KEPT_BLOCKS", 1)
    monkeypatch.setattr(dense_blocks, "_BLOCK", 64)
    monkeypatch.setattr(dense_blocks, "_LEAST_PAIRS", 100)
    again = may_reach((AT - 0.5) * 1e-4, a, b, rows.__getitem__, rows.__getitem__)
    assert (whole != again).mean() < 0.01
    assert not whole.all()
    assert not again.all()


@pytest.mark.parametrize("is_mapped", [True, False])
def test_cosines_from_a_threshold_are_the_exact_ones(is_mapped: bool, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    rows = alike(400)
    for file, some in enumerate(np.split(rows, 4)):
        with store.write(f"rows_{file}.npy") as written:
            write_header(written, *some.shape)
            written.write(some.tobytes())
    files = FloatRows(store, [f"rows_{file}.npy" for file in range(4)], np.arange(4) * 200)
    files.is_mapped = is_mapped  # if not, as in an object store, each row is read once
    rescorer = Rescorer([files])
    shuffled = np.random.default_rng(1).permutation(800)
    names = Names(np.zeros(800, np.int64), shuffled)
    a, b = all_pairs(800)
    exact = cosine_steps(rows[shuffled[a]], rows[shuffled[b]])
    found = rescorer.cosines_from(AT, names, a, names, b)
    near = exact >= AT
    assert (found[near] == exact[near]).all()
    assert (found[~near] < AT).all()
    assert (found[~near] != exact[~near]).any()
