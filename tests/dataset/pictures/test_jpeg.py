"""The fast path for JPEGs gives the same picture as the slow path, or leaves the picture to the slow path."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dataset.pictures.jpeg import encode_jpeg, read_colour_size, shrink_jpeg

FloatImage = npt.NDArray[np.float64]


def photograph(width: int, height: int) -> Image.Image:
    """Smooth shapes under a fine grain, which aliases where sampling is careless."""
    draw = np.random.default_rng(3)
    shapes = Image.fromarray(draw.integers(0, 255, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    grain = draw.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(shapes) + grain, 0, 255).astype(np.uint8))


def saved(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(300, 290), (500, 333), (800, 600), (1_600, 1_067), (2_400, 400)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_picture_is_near_to_the_one_fully_decoded_and_well_resampled(
    size: tuple[int, int], progressive: bool
) -> None:
    image = photograph(*size)
    target = (round(size[0] * 256 / min(size)), round(size[1] * 256 / min(size)))
    pixels = shrink_jpeg(saved(image, progressive=progressive), size, target)
    assert pixels is not None
    assert pixels.shape == (target[1], target[0], 3)
    wanted = np.asarray(image.resize(target, Image.Resampling.LANCZOS), dtype=np.float64)
    assert np.abs(pixels - wanted).mean() < 2.5
    mean: FloatImage = (pixels - wanted).mean(axis=(0, 1))
    assert np.abs(mean).max() < 0.5


def test_the_thinnest_picture_has_a_pixel_left() -> None:
    pixels = shrink_jpeg(saved(photograph(2_000, 8)), (2_000, 8), (256, 1))
    assert pixels is not None
    assert pixels.shape == (1, 256, 3)


def test_a_picture_that_is_cut_off_is_left_to_the_long_way() -> None:
    data = saved(photograph(400, 300))
    assert shrink_jpeg(data[: len(data) // 2], (400, 300), (341, 256)) is None


def test_what_is_encoded_is_a_plain_jpeg_of_the_same_size() -> None:
    pixels = np.asarray(photograph(65, 43))
    assert read_colour_size(encode_jpeg(pixels, 95)) == (65, 43)
    assert read_colour_size(encode_jpeg(pixels, 0)) == (65, 43)


def test_only_a_jpeg_in_three_colours_takes_the_fast_path() -> None:
    image = photograph(40, 30)
    assert read_colour_size(saved(image)) == (40, 30)
    assert read_colour_size(saved(image, icc_profile=b"any")) == (40, 30)
    assert read_colour_size(saved(image.convert("L"))) is None
    assert read_colour_size(saved(image.convert("CMYK"))) is None
    assert read_colour_size(b"\xff\xd8\xff") is None
    assert read_colour_size(b"") is None
