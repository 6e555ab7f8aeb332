"""A picture comes out as browsers show it, whatever its mode, its orientation and its profile."""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from dataset.pictures.metadata import read_orientation
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import EncodeFormat, ImageRules, ResizeMode
from tests.dataset.pictures.odd_files import exif, icc_profile, png, png_chunk, saved, with_exif, with_profile

LOSSLESS = ImageRules(min_bytes=0, resize_mode=ResizeMode.NO, encode_format=EncodeFormat.PNG)
Shown = npt.NDArray[np.int16]


def shown(data: bytes) -> Shown:
    """Return the pixels that come out, (H, W, 3)."""
    kept = prepare(data, LOSSLESS)
    assert isinstance(kept, Picture), kept
    pixels = np.asarray(Image.open(io.BytesIO(kept.data)), np.int16)
    assert pixels.shape[:2] == (kept.original_height, kept.original_width)
    return pixels


def decoded(data: bytes) -> Shown:
    """Return the pixels by OpenCV, (H, W, 3): libpng's, libjpeg's or libwebp's, on white, as they lie, 8 bits."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    wide = pixels.astype(np.float64) / (257 if pixels.dtype == np.uint16 else 1)
    if wide.ndim == 2:
        wide = wide[:, :, None].repeat(3, axis=2)
    if wide.shape[2] == 4:
        alpha = wide[:, :, 3:] / 255
        wide = wide[:, :, :3] * alpha + 255 * (1 - alpha)
    return np.round(wide[:, :, ::-1]).astype(np.int16)


def differ(one: Shown, other: Shown) -> int:
    assert one.shape == other.shape
    return int(np.abs(one - other).max())


def gradient(mode: str) -> Image.Image:
    """Return a picture that is not square, and of which no turn is another."""
    high, wide = np.mgrid[0:40, 0:60]
    pixels = np.stack([4 * wide, 6 * high, 255 - 3 * wide, 55 + 5 * high], axis=-1).astype(np.uint8)
    whole = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray((wide * 1_000 + high * 100).astype(np.uint16))
    if mode == "P":
        return whole.convert("RGB").quantize(64)
    if mode == "CMYK":
        return Image.fromarray(pixels, "CMYK")
    return whole.convert(mode)


MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "I;16", "LA", "P", "RGB", "RGBA"],
    "WEBP": ["RGB", "RGBA"],
}
CASES = [(kind, mode) for kind, modes in MODES.items() for mode in modes]
LEFT_OF_UPRIGHT = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
"""Quarters, counter-clockwise, by which the stored picture is turned for each orientation (after a mirror in four)."""


def encoded(kind: str, mode: str) -> bytes:
    return saved(gradient(mode), kind, quality=95, subsampling=0, lossless=True, exact=True)


def as_it_lies(data: bytes, mode: str) -> Shown:
    """Return what a browser shows of a picture without profile and orientation."""
    if mode == "CMYK":  # OpenCV mixes the inks otherwise
        inks = 255 - np.asarray(Image.open(io.BytesIO(data)), np.int32)
        return np.round(inks[:, :, :3] * inks[:, :, 3:] / 255).astype(np.int16)
    return decoded(data)


def turned(pixels: Shown, orientation: int) -> Shown:
    """Turn pixels by the words of EXIF's table 6: where the stored row 0 and column 0 are to be seen."""
    rows_are_columns = orientation > 4
    image = pixels.transpose(1, 0, 2) if rows_are_columns else pixels
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "mode"), CASES)
def test_every_mode_is_turned_upright_by_every_orientation(kind: str, mode: str, orientation: int) -> None:
    data = encoded(kind, mode)
    for order in (">", "<"):
        tagged = with_exif(data, kind, exif(orientation, order=order))
        assert differ(shown(tagged), turned(as_it_lies(data, mode), orientation)) <= 2


PROFILES: Mapping[str, bytes] = {
    "RGB, exchanged": icc_profile(b"RGB ", gamma=2.2, exchanged=True),
    "RGB, linear, named sRGB": icc_profile(b"RGB ", gamma=1.0, description="sRGB-linear"),
    "RGB, scanner": icc_profile(b"RGB ", b"scnr", gamma=1.8),
    "RGB, printer": icc_profile(b"RGB ", b"prtr", gamma=1.8),
    "RGB, colour space": icc_profile(b"RGB ", b"spac", gamma=1.8),
    "RGB, device link": icc_profile(b"RGB ", b"link", gamma=1.8),
    "RGB, abstract": icc_profile(b"RGB ", b"abst", gamma=1.8),
    "grey": icc_profile(b"GRAY", gamma=1.0),
    "grey, scanner": icc_profile(b"GRAY", b"scnr", gamma=3.0),
    "CMYK, printer": icc_profile(b"CMYK", b"prtr"),
    "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "Lab": ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    "junk": b"junk" * 100,
}
CHANGES = {
    ("JPEG", "L"): {"RGB", "grey"},
    ("JPEG", "RGB"): {"RGB"},
    ("JPEG", "CMYK"): {"CMYK"},
    ("PNG", "1"): {"grey"},
    ("PNG", "L"): {"grey"},
    ("PNG", "LA"): {"grey"},
    ("PNG", "I;16"): {"grey"},
    ("PNG", "P"): {"RGB"},
    ("PNG", "RGB"): {"RGB"},
    ("PNG", "RGBA"): {"RGB"},
    ("WEBP", "RGB"): {"RGB"},
    ("WEBP", "RGBA"): {"RGB"},
}
"""The spaces of the profiles that browsers apply to each mode, where they are a device's."""


def converted(data: bytes, mode: str, profile: bytes) -> Shown:
    """Convert opaque pixels by Little CMS alone, then mix them with white."""
    image: Image.Image = Image.open(io.BytesIO(data))
    if mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if mode == "CMYK":
        return _by_lcms(image, profile)
    rgba = np.asarray(image.convert("RGBA"))
    colours = Image.fromarray(rgba[:, :, :3])
    if profile[16:20] == b"GRAY":
        colours = Image.fromarray(np.ascontiguousarray(rgba[:, :, 0]))
    opaque = _by_lcms(colours, profile)
    alpha = rgba[:, :, 3:] / 255
    return np.round(opaque * alpha + 255 * (1 - alpha)).astype(np.int16)


def _by_lcms(image: Image.Image, profile: bytes) -> Shown:
    device = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    transform = ImageCms.buildTransform(device, ImageCms.createProfile("sRGB"), image.mode, "RGB")
    return np.asarray(ImageCms.applyTransform(image, transform), np.int16)


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(("kind", "mode"), CASES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_profile_is_applied_to_the_modes_that_it_describes(
    kind: str, mode: str, name: str, orientation: int
) -> None:
    data, profile = encoded(kind, mode), PROFILES[name]
    tagged = with_exif(with_profile(data, kind, profile), kind, exif(orientation))
    is_applied = name.split(",")[0] in CHANGES[kind, mode] and "link" not in name and "abstract" not in name
    wanted = converted(data, mode, profile) if is_applied else as_it_lies(data, mode)
    assert differ(shown(tagged), turned(wanted, orientation)) <= 3


# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        exif(6, kind=4),  # a LONG
        exif(6, count=2),
        exif(0),
        exif(9),
        exif(6)[:19],
        b"MM\0*\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"",
        b"XX",
    ],
)
def test_an_invalid_exif_orientation_rotates_nothing(said: bytes) -> None:
    assert read_orientation(said) == 1
    data = encoded("PNG", "RGB")
    assert differ(shown(with_exif(data, "PNG", said)), decoded(data)) == 0


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_orientation_that_browsers_do_not_heed_turns_nothing(kind: str) -> None:
    image = gradient("RGB")
    if kind == "PNG":
        whole = saved(image, "PNG")
        xmp = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        raw = b"\nexif\n      26\n" + exif(6).hex().encode()
        imagemagick = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
        late = whole[:-12] + png_chunk(b"eXIf", exif(6)) + whole[-12:]
        files = [whole[:33] + xmp + whole[33:], whole[:33] + imagemagick + whole[33:], late]
    elif kind == "GIF":
        whole = saved(image, "GIF")
        place = whole.index(b"\x2c", 13 + 3 * 256)
        files = [whole[:place] + b"\x21\xff\x0bXMP DataXMP" + bytes((len(XMP),)) + XMP + b"\0" + whole[place:]]
    else:
        files = [saved(image, kind, xmp=XMP)]
    for data in files:
        assert shown(data).shape == (40, 60, 3)


# --- PNG: chunks that no pixel depends on ----------------------------------------------------------------------------

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 1_200_000)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"a" * 1_200_000)),
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(ICC + bytes(1_200_000))),
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(30_000_000))),
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(ICC), 1),
        png_chunk(b"iCCP", b"p\0\0"),
        png_chunk(b"tEXt", b"a\0b", 1),
        png_chunk(b"tRNS", b"\0\0\0\0\0\0", 1),
        png_chunk(b"eXIf", exif(6), 1),
        png_chunk(b"pHYs", bytes(9), 1),
        png_chunk(b"pHYs", b"\0"),
        png_chunk(b"gAMA", b"\0"),
        png_chunk(b"cHRM", b"\0"),
        png_chunk(b"sRGB", b""),
        png_chunk(b"acTL", b""),
        png_chunk(b"acTL", struct.pack(">II", 3, 0)),
        png_chunk(b"fcTL", b"\0"),
    ],
)
def test_a_png_is_shown_whatever_its_other_chunks_hold(chunk: bytes) -> None:
    data = encoded("PNG", "RGB")
    assert differ(shown(data[:33] + chunk + data[33:]), decoded(data)) <= 1
    assert differ(shown(data[:-12] + chunk + data[-12:]), decoded(data)) <= 1


def test_a_png_whose_own_chunks_are_damaged_is_not_shown() -> None:
    data = encoded("PNG", "RGB")
    for place in (16, 30, 60, len(data) // 2):
        damaged = data[:place] + bytes((data[place] ^ 0x55,)) + data[place + 1 :]
        assert prepare(damaged, LOSSLESS) in (Outcome.UNDECODABLE, Outcome.TOO_MANY_PIXELS)
    assert prepare(data[: len(data) // 2], LOSSLESS) is Outcome.UNDECODABLE


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("key", [0, 1])
def test_the_transparent_grey_is_compared_at_the_depth_of_the_file(depth: int, key: int) -> None:
    steps = 1 << depth if depth < 16 else 4  # 0, 1, 2, 3: at 16 bits all four are black
    values = [step % steps for step in range(16)]
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    data = png(16, 16, depth, 0, row * 16, png_chunk(b"tRNS", struct.pack(">H", key)))
    top = (1 << depth) - 1
    wanted = [255 if value == key else value * 255 // top for value in values]
    assert shown(data)[0, :, 0].tolist() == wanted


def test_the_rgb_of_16_bits_that_is_transparent_is_found() -> None:
    row = b"\0" + b"\x12\x34\x56\x78\x9a\xbc\x01\x10\x01\x10\x01\x10" * 8
    data = png(16, 16, 16, 2, row * 16, png_chunk(b"tRNS", b"\x12\x34\x56\x78\x9a\xbc"))
    assert differ(shown(data), decoded(data)) <= 1


def test_what_of_a_gif_lies_outside_its_frame_is_white() -> None:
    whole = bytearray(saved(Image.new("P", (20, 20), 1), "GIF"))
    struct.pack_into("<HH", whole, 6, 40, 30)
    pixels = shown(bytes(whole))
    assert pixels.shape == (30, 40, 3)
    assert pixels[:20, :20].max() < 255
    assert pixels[20:].min() == pixels[:, 20:].min() == 255


# --- JPEG ------------------------------------------------------------------------------------------------------------


def test_a_progressive_jpeg_cut_between_two_scans_is_shown_with_less_detail_as_browsers_show_it() -> None:
    file = io.BytesIO()
    ramp = np.linspace(0, 255, 160 * 120, dtype=np.uint8).reshape(120, 160)
    Image.fromarray(ramp).convert("RGB").save(file, "JPEG", quality=90, progressive=True)
    data = file.getvalue()
    last_scan = data.rindex(b"\xff\xda")
    cut = data[: data.rindex(b"\xff\xc4", 0, last_scan)]  # before the tables of the last scan
    assert cut.count(b"\xff\xda") == data.count(b"\xff\xda") - 1 >= 3
    assert np.abs(shown(cut) - shown(data)).mean() < 4
    assert prepare(cut[:-40], LOSSLESS) is Outcome.UNDECODABLE  # within a scan


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [None, 32])
def test_a_jpeg_that_lacks_only_its_end_is_shown_and_one_that_lacks_more_is_not(
    mode: str, progressive: bool, size: int | None
) -> None:
    noise = Image.effect_noise((150, 100), 90).convert(mode)
    rules = replace(LOSSLESS, resize_mode=ResizeMode.KEEP_RATIO, size=size) if size else LOSSLESS
    for options in ({}, {"exif": b"Exif\0\0" + exif(6)}):
        data = saved(noise, "JPEG", progressive=progressive, **options)
        whole = prepare(data, rules)
        assert isinstance(whole, Picture)
        for lacking in (1, 2):
            kept = prepare(data[:-lacking], rules)
            assert isinstance(kept, Picture)
            assert kept.sha256 != whole.sha256
            assert (kept.data, kept.width) == (whole.data, whole.width)
        for lacking in (8, 50, 1_000):
            assert prepare(data[:-lacking], rules) is Outcome.UNDECODABLE


@pytest.mark.parametrize(
    "segment",
    [
        b"\xff\xe1\x00\x08Exif\0\0",
        b"\xff\xe2\x00\x06MPF\0",
        b"\xff\xe2\x00\x10ICC_PROFILE\0\2\2",
        b"\xff\xed\x00\x20Photoshop 3.0\0" + b"8BIM\xff\xff" + b"\xff" * 10,
        b"\xff\xec\x00\x02",
        b"\xff\xfe\x00\x02",
        b"\xff\xe0\x00\x04JF",
    ],
)
def test_a_jpeg_is_shown_whatever_its_other_segments_hold(segment: bytes) -> None:
    for mode in ("L", "RGB", "CMYK"):
        data = encoded("JPEG", mode)
        second = 4 + struct.unpack_from(">H", data, 4)[0]
        assert differ(shown(data[:second] + segment + data[second:]), as_it_lies(data, mode)) <= 2


# --- WebP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_is_shown_whatever_lengths_its_container_claims(mode: str, lossless: bool) -> None:
    plain = saved(gradient(mode), "WEBP", lossless=lossless, exact=True)
    for data in (plain, with_exif(plain, "WEBP", exif(1)), with_profile(plain, "WEBP", b"junk" * 50)):
        wanted = shown(data)
        for claimed in (0, 8, len(data) - 9, len(data) - 7, len(data) + 1_000, 0xFFFF_FFFF):
            assert differ(shown(data[:4] + struct.pack("<I", claimed) + data[8:]), wanted) == 0
        assert differ(shown(data + b"junk"), wanted) == 0
    tagged = with_exif(plain, "WEBP", exif(1))
    assert differ(shown(tagged[:-7]), shown(plain)) == 0
    assert prepare(plain[: len(plain) // 2], LOSSLESS) is Outcome.UNDECODABLE
