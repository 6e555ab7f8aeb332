"""The demo's watermark detector: it is small, and tells marks from their absence on pictures like the held-out ones."""

import json

import numpy as np
import pytest
import torch

from dataset.recipe.tags import Tag
from dataset.tags.heads import read_head_file
from dataset.tags.picture_heads import PictureHead, load_picture_head
from tests.demo.marked_pictures import SIDE, draw_held_out, draw_training
from tests.demo.measure_watermark import DETECTOR, MEASURED

MAX_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def head() -> PictureHead:
    return load_picture_head(read_head_file(DETECTOR), "cpu")


def test_the_detector_is_small_and_its_card_lies_beside_it(head: PictureHead) -> None:
    assert DETECTOR.stat().st_size <= MAX_BYTES
    assert (head.tag, head.side) == (Tag.PWATERMARK, SIDE)
    said = json.loads(MEASURED.read_text(encoding="utf-8"))
    assert said["clean"] >= 5_000
    assert said["auc"] > 0.99
    assert min(said["precision"]["share"], said["recall"]["share"]) > 0.9
    assert "Accuracy at real prevalence" in (DETECTOR.parent / "README.md").read_text(encoding="utf-8")


def test_the_detector_finds_marks_of_another_style_on_other_backgrounds(head: PictureHead) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        scores = {marked: head.score(draw_held_out(50, 7, 1, marked=marked).squares) for marked in (False, True)}
    finally:
        torch.set_num_threads(threads)
    assert np.mean(scores[True] >= 0.5) > 0.85
    assert np.mean(scores[False] >= 0.5) < 0.05


def test_training_pictures_are_pairs_and_the_same_for_a_seed() -> None:
    drawn = draw_training(20, 3, 1)
    again = draw_training(20, 3, 1)
    assert drawn.labels.tolist() == [1, 0] * 10
    assert not (drawn.lettered & (drawn.labels == 1)).any()
    assert np.array_equal(drawn.squares, again.squares)
