"""Widening of float16, compared with numpy's conversion."""

import numpy as np

from dataset.formats.halves import widen

ALL = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(-1, 8)


def test_every_float16_is_widened_as_numpy_does_it() -> None:
    with np.errstate(invalid="ignore"):
        wanted = ALL.astype(np.float32)
        np.testing.assert_array_equal(widen(ALL), wanted)
    finite = ALL[np.isfinite(ALL).all(axis=1)]
    assert widen(finite).tobytes() == finite.astype(np.float32).tobytes()  # signs of zeros, too
    assert widen(finite[:, 1:6]).tobytes() == finite[:, 1:6].astype(np.float32).tobytes()


def test_more_numbers_than_are_widened_at_once() -> None:
    rows = np.random.default_rng(1).normal(size=(300, 700)).astype(np.float16)
    rows[299, 699] = np.inf
    np.testing.assert_array_equal(widen(rows), rows.astype(np.float32))
    assert widen(rows[:0]).shape == (0, 700)


def test_float32_is_copied() -> None:
    rows = np.ones((2, 3), np.float32)
    widen(rows)[0, 0] = 5
    assert rows[0, 0] == 1
