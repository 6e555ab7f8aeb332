"""PDQ and dHash: the published values for PDQ, an exact definition for dHash, and what both survive."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from dataset.pictures.fingerprints import Fingerprint, dhash_of, fingerprint
from dataset.pictures.jpeg import Pixels
from dataset.pictures.pdq import pdq_of
from dataset.safety.hash_lists import MAX_DISTANCE


def waves(width: int, height: int) -> Pixels:
    """Paint forty waves of low frequencies, each with a colour of its own."""
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    colours = np.zeros((height, width, 3))
    for k in range(40):
        across, down = 7 * k % 23 + 1, 11 * k % 19 + 1
        wave = np.cos(2 * np.pi * (across * x + down * y) + 0.7 * k * k) / np.hypot(across, down)
        colours += wave[..., None] * np.cos([k, 2.0 * k, 3.0 * k])
    painted: Pixels = np.clip(np.rint(colours / colours.std() * 55 + 128), 0, 255).astype(np.uint8)
    return painted


def distance(one: str | None, other: str | None) -> int:
    assert one is not None
    assert other is not None
    return (int(one, 16) ^ int(other, 16)).bit_count()


@pytest.mark.parametrize(
    ("size", "published"),  # by pdqhash 0.2.8, of the picture brought to 512 pixels by OpenCV
    [
        ((512, 384), "00ffbb86522ca781f7c1a781002ae381ff55e285c20f9799d522924bebd69fdc"),
        ((300, 512), "08ddab86522ca781eac3a38120a2e381dddde285ca2f9f99f52a9a49c7d697dc"),
        ((512, 77), "a055aae67a9ca2a1fa5422a1427fe4a159ffe381402f97b97d22826979a3975e"),
        ((512, 512), "00f7bb86522ca781f741a7810022e381df55e285c20f9f9bd522924bffd69fdc"),
        ((256, 341), "28f7bb86522ca781e2c1a781002ae381ff55e285c20f9799d522924bffd69fdc"),
        ((1200, 900), "00f7bb86522ca781f7d1a78100aae3817f55e285c20f979bd522924babd69fdc"),
    ],
)
def test_a_pdq_is_that_of_the_reference(size: tuple[int, int], published: str) -> None:
    assert distance(pdq_of(waves(*size)), published) <= 2  # sums of floats differ between processors


def test_a_picture_without_detail_has_no_pdq() -> None:
    assert pdq_of(np.full((100, 100, 3), 128, np.uint8)) is None
    assert pdq_of(waves(2_000, 9)) is None  # four pixels high at 512


def test_dhash_says_where_a_cell_is_brighter_than_its_left_neighbour() -> None:
    cells = np.zeros((8, 9, 3), np.uint8)
    cells[0, 1:] = 10  # the first comparison of all
    cells[7, 8] = 10  # the last one
    assert dhash_of(cells) == -(2**63) + 1
    assert dhash_of(cells.repeat(16, axis=0).repeat(24, axis=1)) == -(2**63) + 1


def test_dhash_of_a_flat_or_darkening_picture_is_nought_and_of_a_brightening_one_minus_one() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)
    assert dhash_of(np.full((300, 200, 3), 255, np.uint8)) == 0
    assert dhash_of(np.ascontiguousarray(ramp[:, ::-1])) == 0
    assert dhash_of(ramp) == -1


def test_dhash_weighs_colours_as_eyes_do() -> None:
    halves = np.zeros((80, 90, 3), np.uint8)
    halves[:, :40], halves[:, 40:] = (0, 0, 255), (0, 100, 0)  # blue is darker than a darker green
    assert dhash_of(halves) > 0


def test_a_re_encoded_picture_nearly_keeps_its_fingerprint() -> None:
    before = waves(640, 480)
    sent = io.BytesIO()
    Image.fromarray(before).resize((341, 256), Image.Resampling.BICUBIC).save(sent, "JPEG", quality=80)
    one, other = fingerprint(before), fingerprint(np.asarray(Image.open(sent)))
    assert one.pdq is not None
    assert other.pdq is not None
    assert distance(one.pdq.hex(), other.pdq.hex()) <= MAX_DISTANCE
    assert ((one.dhash ^ other.dhash) & (2**64 - 1)).bit_count() <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000), (5_000, 1), (3, 2), (9, 8)])
def test_any_shape_has_a_fingerprint(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    found = fingerprint(noise)
    assert -(2**63) <= found.dhash < 2**63
    assert found == fingerprint(noise.copy()) == Fingerprint(found.pdq, dhash_of(noise))


def test_enlarging_by_a_matrix_is_enlarging_by_opencv() -> None:
    small = waves(200, 150)
    large = cv2.resize(small, (512, 384), interpolation=cv2.INTER_CUBIC)
    assert distance(pdq_of(small), pdq_of(large.astype(np.uint8))) <= 4  # which rounds, and this does not


@pytest.mark.parametrize("found", [Fingerprint(b"\xff" * 32, -1), Fingerprint(None, -(2**63)), Fingerprint(None, 0)])
def test_a_fingerprint_comes_back_as_a_decoder_says_it(found: Fingerprint) -> None:
    assert Fingerprint.from_bytes(found.to_bytes()) == found
