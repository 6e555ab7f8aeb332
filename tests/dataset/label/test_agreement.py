"""Agreement and prevalence against published examples and known intervals."""

import pytest

from dataset.label.agreement import cohen_kappa, krippendorff_alpha
from dataset.label.prevalence import estimate
from dataset.tags.wilson import wilson


def units(*observers: str) -> list[dict[str, str]]:
    """Return the labels of each unit by observer; '.' is a missing one."""
    columns = zip(*(row.split() for row in observers), strict=True)
    return [{str(who): label for who, label in enumerate(labels) if label != "."} for labels in columns]


def test_kappa_is_that_of_a_published_table() -> None:
    # A. Viera, J. Garrett, Understanding interobserver agreement: the kappa statistic, 2005: 15, 5, 10, 70 give 0.57
    pairs = [("yes", "yes")] * 15 + [("yes", "no")] * 5 + [("no", "yes")] * 10 + [("no", "no")] * 70
    assert cohen_kappa(pairs) == pytest.approx(0.57, abs=0.005)
    assert cohen_kappa([("a", "a"), ("b", "b")]) == 1
    assert cohen_kappa([("a", "b"), ("b", "a")]) == -1
    assert cohen_kappa([("a", "a")] * 3) is None
    assert cohen_kappa([]) is None


@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        # K. Krippendorff, Computing Krippendorff's alpha-reliability, 2011, sections A to C
        (("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"), 0.095),
        (("a a b b d c c c e d d a", "b a b b b c c c e d d d"), 0.692),
        (("1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .",
          "1 2 3 3 2 4 4 1 2 5 1 ."), 0.743),
    ],
)  # fmt: skip
def test_alpha_is_that_of_the_published_examples(observers: tuple[str, ...], alpha: float) -> None:
    assert krippendorff_alpha(units(*observers)) == pytest.approx(alpha, abs=0.0005)


def test_alpha_needs_two_labels_that_differ_somewhere() -> None:
    assert krippendorff_alpha(units("a b .", ". . c")) is None
    assert krippendorff_alpha(units("a a", "a a")) is None
    assert krippendorff_alpha(units("a b", "a b")) == 1


def test_a_uniform_draw_gives_wilsons_interval_and_missing_strata_widen_it() -> None:
    found = estimate([1_000], {0: (100, 6)})
    assert (found.share, found.answers, found.positives) == (0.06, 100, 6)
    assert (found.low, found.high) == pytest.approx(wilson(6, 100))
    half = estimate([1_000, 1_000], {0: (100, 6)})
    assert (half.low, half.high) == pytest.approx((found.low / 2, found.high / 2 + 0.5))
    nothing = estimate([1_000], {})
    assert (nothing.share, nothing.low, nothing.high) == (None, 0, 1)


def test_strata_are_weighted_with_their_rows() -> None:
    found = estimate([90_000, 8_000, 2_000], {0: (100, 1), 1: (100, 30), 2: (100, 90)})
    assert found.share == pytest.approx(0.9 * 0.01 + 0.08 * 0.3 + 0.02 * 0.9)
    narrow = found.high - found.low
    simple = wilson(15, 300)
    assert narrow < simple[1] - simple[0]
    unseen = estimate([90_000, 8_000, 2_000], {0: (100, 0), 1: (100, 30), 2: (100, 90)})
    assert unseen.high > 0.055  # no positive among 100 of the largest stratum does not mean that there is none
