"""The demo's pictures and captions have the properties on which the mini crawl and the model rely."""

import io
from itertools import pairwise, product

import gcld3
import numpy as np
import pytest

from tests.demo.lessons import SCENES
from tests.demo.pictures import LANGUAGES, MISMATCH, caption, different, mismatched_scene, random_scene, render

MIN_RECEIVED_BYTES = 5_000


@pytest.mark.parametrize("size", [(120, 120), (256, 256), (120, 300), (2_400, 1_200)])
def test_a_picture_is_above_the_5000_bytes_under_which_it_would_be_dropped(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        sent = io.BytesIO()
        image = render(random_scene(rng), size, rng)
        image.save(sent, "JPEG", quality=85)
        assert image.size == size
        assert sent.tell() > MIN_RECEIVED_BYTES


def test_the_same_generator_gives_the_same_picture() -> None:
    first, second = (render(SCENES[77], (200, 150), np.random.default_rng(9)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_every_caption_is_told_to_be_of_its_language() -> None:
    cld3 = gcld3.NNetLanguageIdentifier(0, 1000)
    for scene, language, variant in product(SCENES[::23], LANGUAGES, range(2)):
        told = cld3.FindLanguage(caption(scene, language, variant))
        assert (told.language, told.is_reliable) == (language, True), caption(scene, language, variant)


def test_no_two_scenes_share_a_caption() -> None:
    for language, variant in product(LANGUAGES, range(2)):
        assert len({caption(scene, language, variant) for scene in SCENES}) == len(SCENES)


def test_scenes_differ_by_their_attributes() -> None:
    assert different(SCENES[0], SCENES[0]) == 0
    assert different(SCENES[0], SCENES[-1]) == 5
    assert {different(scene, following) for scene, following in pairwise(SCENES[:5])} == {1}
    rng = np.random.default_rng(2)
    assert all(different(scene, mismatched_scene(scene, rng)) >= MISMATCH for scene in SCENES[:50])
