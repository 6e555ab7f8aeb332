"""A received picture's size is read from its header, and no header can make that slow, use much memory or crash."""

import io
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dataset.pictures.headers import FORMATS, image_format, keep_received, read_size
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.image_rules import ImageRules, ResizeMode

RULES = ImageRules(resize_mode=ResizeMode.NO, reencode=False, min_bytes=0)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


WIDE = Image.effect_noise((321, 123), 60).convert("RGB")
SMALL = Image.new("RGB", (40, 30), "red")

SEEDS = {
    "jpeg": saved(WIDE, "JPEG"),
    "jpeg, progressive": saved(WIDE, "JPEG", progressive=True),
    "jpeg, grey": saved(WIDE.convert("L"), "JPEG"),
    "jpeg, CMYK": saved(WIDE.convert("CMYK"), "JPEG"),
    "jpeg, EXIF and a long profile": saved(WIDE, "JPEG", exif=_exif(), icc_profile=b"p" * 200_000),
    "png": saved(WIDE, "PNG"),
    "png, interlaced palette": saved(WIDE.convert("P"), "PNG"),
    "gif": saved(WIDE, "GIF"),
    "gif, animated with a comment": saved(WIDE, "GIF", save_all=True, append_images=[SMALL], comment=b"c" * 900),
    "webp": saved(WIDE, "WEBP"),
    "webp, lossless": saved(WIDE, "WEBP", lossless=True),
    "webp, transparent": saved(WIDE.convert("RGBA"), "WEBP", lossless=True),
    "webp, animated": saved(WIDE, "WEBP", save_all=True, append_images=[WIDE.rotate(5)]),
    "webp, EXIF": saved(WIDE, "WEBP", exif=_exif()),
    "avif": saved(WIDE, "AVIF"),
    "avif, turned": saved(WIDE, "AVIF", exif=_exif()),
    "avif, animated": saved(WIDE, "AVIF", save_all=True, append_images=[WIDE.rotate(5)]),
}


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_a_size_is_the_one_that_pillow_finds(seed: bytes) -> None:
    kept = keep_received(seed, RULES)
    assert isinstance(kept, Picture)
    with Image.open(io.BytesIO(seed)) as image:
        assert (kept.width, kept.height) == image.size == (321, 123)
        assert ("JPEG" if image.format == "MPO" else image.format) in FORMATS
        assert kept.extension == "jpg"
    assert kept.data is seed


def test_a_gifs_first_frame_may_stand_out_of_its_screen() -> None:
    data = bytearray(saved(Image.new("P", (50, 40)), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 90)
    assert read_size(bytes(data), "GIF") == (50, 90)


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_a_header_that_is_cut_off_is_undecodable(seed: bytes) -> None:
    cut = seed[:40]
    if read_size(cut, str(image_format(cut))) is None:
        assert keep_received(cut, RULES) is Outcome.UNDECODABLE
    assert keep_received(seed[:14], RULES) is Outcome.UNDECODABLE


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("JPEG", b"\xff\xd8\xff" + b"\xff" * 5_000_000),
        ("JPEG", b"\xff\xd8\xff\xe0" + b"\0\2\xff\xe0" * 1_000_000),
        ("JPEG", b"\xff\xd8\xff\xe0\0\0" + b"\0\0\xff\0" * 1_000_000),
        ("GIF", b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe" + b"\1" * 5_000_000),
        ("GIF", b"GIF89a\1\0\1\0\0\0\0" + b"\0" * 5_000_000),
        ("AVIF", b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\x08free" * 600_000),
        ("AVIF", b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\x01meta" + b"\xff" * 5_000_000),
        ("AVIF", b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\0meta" + b"\0" * 5_000_000),
    ],
)
def test_a_header_without_an_end_is_left_soon(kind: str, data: bytes) -> None:
    assert image_format(data) == kind
    began = time.process_time()
    assert read_size(data, kind) is None
    assert time.process_time() - began < 0.5


def test_a_picture_without_pixels_is_refused() -> None:
    data = SEEDS["png"][:16] + bytes(8) + SEEDS["png"][24:]
    assert keep_received(data, RULES) is Outcome.UNDECODABLE


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF89a", b"RIFF    WEBPVP8", b"    ftypavif"]
    ),
    st.binary(),
)
def test_any_bytes_are_a_picture_or_an_outcome(start: bytes, rest: bytes) -> None:
    assert isinstance(keep_received(start + rest, RULES), Picture | Outcome)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SEEDS)), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6))
def test_a_damaged_header_is_a_picture_or_an_outcome(name: str, damages: list[tuple[int, int]]) -> None:
    data = bytearray(SEEDS[name])
    for place, value in damages:
        data[place % len(data)] = value
    assert isinstance(keep_received(bytes(data), RULES), Picture | Outcome)
