"""The demo's checks of tags fail if a tag is missing or finds nothing."""

from typing import Any

import numpy as np
import pytest

from tests.demo.marks import HELD_OUT, TRAINED, is_marked, lettered, truth_in, truth_of, watermarked
from tests.demo.pictures import Colour, Position, Scene, Shape, Texture, render
from tests.demo.tag_checks import check_tags, counted, measured_rows

GOOD = counted([0.9] * 10 + [0.1] * 30, [True] * 10 + [False] * 30)
BLIND = counted([0.1] * 40, [True] * 10 + [False] * 30)
HALF_TAGGED = counted([0.9] * 10 + [0.1] * 20 + [None] * 10, [True] * 10 + [False] * 30)


def refused(**found: object) -> set[str]:
    return {check.question for check in check_tags(found) if not check.holds}  # type: ignore[arg-type]


def test_good_tags_pass_and_blind_ones_do_not() -> None:
    assert refused(pwatermark=GOOD, punsafe=GOOD) == set()
    assert refused(pwatermark=BLIND, punsafe=GOOD) == {"pwatermark finds watermarks"}
    assert refused(pwatermark=GOOD, punsafe=BLIND) == {"punsafe finds the planted concept"}


def test_a_sample_without_a_tag_is_missed() -> None:
    assert refused(pwatermark=GOOD, punsafe=HALF_TAGGED) == {"every kept sample is tagged"}


def test_the_check_fails_if_no_sample_is_kept() -> None:
    empty = counted([], [])
    assert refused(pwatermark=empty, punsafe=empty) == {
        "pwatermark finds watermarks",
        "punsafe finds the planted concept",
    }


def test_the_report_says_what_was_measured() -> None:
    trained = {"pwatermark": {"auc": 0.9}, "punsafe": {"auc": 1.0}, "recall_at_1": 0.67, "pictures": 1_400}
    rows = measured_rows({"pwatermark": GOOD, "punsafe": BLIND}, trained)
    assert rows[0].value == "precision 100.0 %, recall 100.0 %"
    assert rows[-1].value == "67.0 %"


def test_the_truth_is_read_from_the_url_and_agrees_with_the_picture() -> None:
    scene = Scene(Shape.STAR, Colour.PURPLE, 2, Position.CENTRE, Texture.PLAIN)
    assert truth_in("http://127.1.1.1:80/media/2023/purple-star-00012.jpg") == truth_of(scene, is_marked(12))
    assert truth_in("http://127.1.1.1:80/a/red-star-00011.jpg") == truth_of(
        Scene(Shape.STAR, Colour.RED, 2, Position.CENTRE, Texture.PLAIN), is_marked(11)
    )
    assert truth_in("http://127.1.1.1:80/a/purple-star-00012x.jpg") == truth_of(scene, False)
    assert truth_in("data:image/gif;base64,AA") is None


def test_the_styles_of_marks_share_no_word_typeface_place_opacity_or_angle() -> None:
    for name in ("words", "typefaces", "places"):
        assert not set(getattr(TRAINED, name)) & set(getattr(HELD_OUT, name))
    for name in ("opacities", "angles"):
        for low, high in getattr(TRAINED, name):
            assert all(high <= other[0] or other[1] <= low for other in getattr(HELD_OUT, name))


@pytest.mark.parametrize("draw", [watermarked, lettered])
def test_marks_and_lettering_change_a_part_of_the_picture(draw: Any) -> None:
    picture = render(Scene(Shape.STAR, Colour.RED, 2, Position.CENTRE, Texture.PLAIN), (240, 180))
    for seed in range(12):
        drawn = draw(picture, HELD_OUT, np.random.default_rng(seed))
        assert drawn.tobytes() == draw(picture, HELD_OUT, np.random.default_rng(seed)).tobytes()
        changed = (np.asarray(drawn) != np.asarray(picture)).any(axis=2)
        assert 0.005 < changed.mean() < 0.5
