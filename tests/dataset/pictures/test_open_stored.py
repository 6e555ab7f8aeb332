"""Stored pictures: any bytes are opened or refused, and every format that a shard keeps can be opened."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dataset.pictures.decode import DECODABLE
from dataset.pictures.open_stored import open_stored


@pytest.mark.parametrize("form", sorted(DECODABLE))
def test_every_format_that_a_shard_keeps_as_received_opens(form: str) -> None:
    whole = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).save(whole, form)
    picture = open_stored(whole.getvalue())
    assert picture is not None
    assert (picture.mode, picture.size) == ("RGB", (40, 30))


@given(data=st.data(), form=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_any_bytes_are_a_picture_or_none(data: st.DataObject, form: str) -> None:
    whole = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).save(whole, form)
    damaged_bytes = bytearray(whole.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(damaged_bytes) - 1), max_size=8)):
        damaged_bytes[place] ^= data.draw(st.integers(1, 255))
    picture = open_stored(bytes(damaged_bytes[: data.draw(st.integers(0, len(damaged_bytes)))]))
    assert picture is None or picture.mode == "RGB"


def test_a_picture_kept_as_received_is_shown_upright_and_on_white() -> None:
    sideways, clear = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30), "red").save(sideways, "JPEG", exif=exif)
    Image.new("RGBA", (4, 3), (0, 0, 0, 0)).save(clear, "PNG")
    upright, white = open_stored(sideways.getvalue()), open_stored(clear.getvalue())
    assert upright is not None
    assert upright.size == (30, 40)
    assert white is not None
    assert white.getpixel((0, 0)) == (255, 255, 255)
