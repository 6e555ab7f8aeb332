"""Whatever a server sends becomes a correct picture, or an outcome."""

import hashlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dataset.pictures.headers import image_format
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare, target_size
from dataset.recipe.image_rules import EncodeFormat, ImageRules, ImageRulesError, ResizeMode

RULES = ImageRules(min_bytes=0)
LEFT, RIGHT = (200, 30, 40), (20, 60, 180)


def halves(width: int = 400, height: int = 300) -> Image.Image:
    """Left half red, right half blue: shows every turn and every wrong colour."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = LEFT, RIGHT
    return Image.fromarray(pixels)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def opened(data: bytes, rules: ImageRules = RULES) -> Image.Image:
    result = prepare(data, rules)
    assert isinstance(result, Picture), result
    image = Image.open(io.BytesIO(result.data))
    assert image.size == (result.width, result.height)
    return image


def near(image: Image.Image, place: tuple[int, int], colour: tuple[int, int, int], off: int = 12) -> bool:
    pixel = np.asarray(image.convert("RGB"))[place[1], place[0]].astype(int)
    return bool(np.abs(pixel - colour).max() <= off)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_each_format_is_decoded_and_a_wide_picture_stays_wide(kind: str) -> None:
    data = saved(halves(800, 400), kind)
    result = prepare(data, RULES)
    assert isinstance(result, Picture)
    assert (result.original_width, result.original_height) == (800, 400)
    assert (result.width, result.height) == (512, 256)
    assert result.sha256 == hashlib.sha256(data).hexdigest()
    assert near(opened(data), (100, 128), LEFT, 25)
    assert near(opened(data), (400, 128), RIGHT, 25)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_picture_is_set_upright_and_its_sizes_are_those_that_people_see(orientation: int, kind: str) -> None:
    upright = halves(600, 300)
    turns = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for turn in turns:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, kind, exif=exif)
    result = prepare(data, RULES)
    assert isinstance(result, Picture)
    assert (result.original_width, result.original_height) == (600, 300)
    assert (result.width, result.height) == (512, 256)
    assert near(opened(data), (100, 128), LEFT, 25)
    assert not opened(data).getexif()


def _cmyk() -> bytes:
    return saved(halves().convert("CMYK"), "JPEG", quality=95)


def _palette() -> bytes:
    return saved(halves().convert("P", palette=Image.Palette.ADAPTIVE), "PNG")


def _wide_gamut() -> bytes:
    """Halves in a profile whose red and blue are exchanged: read without the profile, they come out exchanged."""
    red, green, blue = halves().split()
    return saved(Image.merge("RGB", (blue, green, red)), "PNG", icc_profile=_exchanged_profile())


def _exchanged_profile() -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    for number in range(count):
        place = 132 + 12 * number
        tag = bytes(profile[place : place + 4])
        if tag in (b"rXYZ", b"bXYZ"):
            profile[place : place + 4] = b"bXYZ" if tag == b"rXYZ" else b"rXYZ"
    return bytes(profile).replace(b"s\0R\0G\0B", b"o\0d\0d\0!").replace(b"sRGB", b"odd!")


@pytest.mark.parametrize("make", [_cmyk, _palette, _wide_gamut])
def test_other_colours_come_out_as_srgb(make: Callable[[], bytes]) -> None:
    image = opened(make())
    assert image.mode == "RGB"
    assert near(image, (60, 128), LEFT, 20)
    assert near(image, (290, 128), RIGHT, 20)


def test_a_damaged_profile_does_not_cost_the_picture() -> None:
    assert near(opened(saved(halves(), "JPEG", icc_profile=b"no profile" * 50)), (60, 128), LEFT)


def test_sixteen_bits_of_grey_keep_their_brightness() -> None:
    grey = Image.fromarray(np.full((300, 300), 0x8000, dtype=np.uint16))
    assert near(opened(saved(grey, "PNG")), (100, 100), (128, 128, 128), 2)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str) -> None:
    image = halves().convert(mode)
    image.putalpha(Image.fromarray(np.repeat([[255] * 200 + [0] * 200], 300, axis=0).astype(np.uint8)))
    picture = opened(saved(image, "PNG"))
    assert near(picture, (300, 128), (255, 255, 255), 3)
    assert not near(picture, (60, 128), (255, 255, 255), 60)


def test_a_transparent_colour_of_a_palette_is_white() -> None:
    image = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    data = saved(image, "GIF", transparency=image.getpixel((399, 0)))
    assert near(opened(data), (300, 128), (255, 255, 255), 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    first, second = Image.new("RGB", (300, 300), LEFT), Image.new("RGB", (300, 300), RIGHT)
    assert near(opened(saved(first, kind, save_all=True, append_images=[second])), (150, 150), LEFT, 25)


@pytest.mark.parametrize(
    ("mode", "size", "result"),
    [
        (ResizeMode.NO, (1_000, 500), (1_000, 500)),
        (ResizeMode.KEEP_RATIO, (1_000, 500), (512, 256)),
        (ResizeMode.KEEP_RATIO, (500, 1_000), (256, 512)),
        (ResizeMode.KEEP_RATIO_LARGEST, (1_000, 500), (256, 128)),
        (ResizeMode.CENTER_CROP, (1_000, 500), (256, 256)),
        (ResizeMode.BORDER, (1_000, 500), (256, 256)),
        (ResizeMode.KEEP_RATIO, (100, 50), (100, 50)),
        (ResizeMode.CENTER_CROP, (100, 300), (100, 256)),
        (ResizeMode.BORDER, (100, 50), (256, 256)),
    ],
)
def test_a_resize_mode_means_what_img2dataset_means(
    mode: ResizeMode, size: tuple[int, int], result: tuple[int, int]
) -> None:
    assert opened(saved(halves(*size), "PNG"), replace(RULES, resize_mode=mode)).size == result


def test_a_small_picture_is_enlarged_only_when_the_rules_say_so() -> None:
    rules = replace(RULES, only_if_bigger=False)
    assert target_size(100, 50, rules) == (512, 256)
    assert target_size(100, 50, RULES) == (100, 50)
    assert prepare(saved(Image.new("L", (60_000, 10)), "PNG"), rules) is Outcome.TOO_MANY_PIXELS


@pytest.mark.parametrize("encode_format", EncodeFormat)
def test_a_picture_is_stored_as_the_rules_say(encode_format: EncodeFormat) -> None:
    result = prepare(saved(halves(), "PNG"), replace(RULES, encode_format=encode_format))
    assert isinstance(result, Picture)
    assert result.extension == encode_format
    assert image_format(result.data) == {"jpg": "JPEG"}.get(encode_format, encode_format.upper())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_without_reencoding_a_picture_is_the_bytes_that_were_received(kind: str) -> None:
    data = saved(halves(400, 300), kind)
    result = prepare(data, replace(RULES, resize_mode=ResizeMode.NO, reencode=False))
    assert isinstance(result, Picture)
    assert (result.data, result.extension) == (data, "jpg")
    assert (result.width, result.height, result.original_width, result.original_height) == (400, 300, 400, 300)
    assert result.sha256 == hashlib.sha256(data).hexdigest()


def test_without_reencoding_the_bounds_hold_all_the_same() -> None:
    rules = ImageRules(resize_mode=ResizeMode.NO, reencode=False)
    assert prepare(b"<html></html>", rules) is Outcome.NOT_AN_IMAGE
    assert prepare(_bomb(50_000, 50_000), rules) is Outcome.TOO_MANY_PIXELS
    assert prepare(saved(halves(20, 20), "JPEG"), rules) is Outcome.TOO_SMALL
    assert prepare(saved(halves(), "JPEG"), replace(rules, min_bytes=0, max_pixels=100)) is Outcome.TOO_MANY_PIXELS


def _bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels at all."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", Outcome.NOT_AN_IMAGE),
        (b"<html><body>404</body></html>", Outcome.NOT_AN_IMAGE),
        (b"<html><body><svg></svg>" + b"x" * 9_000, Outcome.NOT_AN_IMAGE),
        (b"RIFF\0\0\0\0WAVEfmt " + b"x" * 9_000, Outcome.NOT_AN_IMAGE),
        (b"<?xml version='1.0'?><svg></svg>", Outcome.UNSUPPORTED_FORMAT),
        (saved(halves(), "BMP"), Outcome.UNSUPPORTED_FORMAT),
        (saved(halves(), "TIFF"), Outcome.UNSUPPORTED_FORMAT),
        (_bomb(50_000, 50_000), Outcome.TOO_MANY_PIXELS),
        (_bomb(9_460, 9_460), Outcome.TOO_MANY_PIXELS),
        (saved(halves(20, 20), "JPEG"), Outcome.TOO_SMALL),
        (b"\xff\xd8\xff" + b"x" * 100, Outcome.TOO_SMALL),
        (b"\xff\xd8\xff" + b"x" * 9_000, Outcome.UNDECODABLE),
        (_bomb(100, 100) + b"x" * 9_000, Outcome.UNDECODABLE),
        (saved(Image.effect_noise((300, 300), 90), "JPEG")[:-9_000], Outcome.UNDECODABLE),
        (saved(Image.effect_noise((300, 300), 90), "WEBP")[:-9_000], Outcome.UNDECODABLE),
    ],
)
def test_a_file_that_is_not_a_picture_has_its_outcome(data: bytes, outcome: Outcome) -> None:
    assert prepare(data, ImageRules()) is outcome


def test_more_bytes_than_allowed_are_too_many() -> None:
    data = saved(halves(), "PNG")
    assert prepare(data, replace(RULES, max_bytes=len(data) - 1, min_bytes=0)) is Outcome.TOO_LARGE


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF    WEBP", b"    ftypavif"]),
    st.binary(),
)
@example(b"GIF89a", b"\xff" * 20)
def test_any_bytes_have_one_outcome(start: bytes, rest: bytes) -> None:
    assert isinstance(prepare(start + rest, RULES), Picture | Outcome)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF"])
def test_a_picture_with_damaged_bytes_has_one_outcome(kind: str) -> None:
    draw = random.Random(kind)
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    options: dict[str, object] = {} if kind == "GIF" else {"exif": exif, "icc_profile": profile}
    whole = saved(halves(120, 90), kind, **options)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        assert isinstance(
            prepare(bytes(damaged[: draw.randint(len(whole) // 2, len(whole))]), RULES), Picture | Outcome
        )


@pytest.mark.parametrize("reencode", [True, False])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_side_too_short_and_a_shape_too_long_are_not_kept(kind: str, reencode: bool) -> None:
    mode = ResizeMode.KEEP_RATIO if reencode else ResizeMode.NO
    rules = replace(RULES, min_image_size=100, max_aspect_ratio=2.0, reencode=reencode, resize_mode=mode)

    def ended(width: int, height: int) -> Outcome | str:
        result = prepare(saved(halves(width, height), kind), rules)
        return "kept" if isinstance(result, Picture) else result

    assert ended(99, 150) is ended(150, 99) is Outcome.SIDE_TOO_SHORT
    assert ended(100, 201) is ended(201, 100) is Outcome.ASPECT_TOO_LARGE
    assert ended(100, 200) == ended(200, 100) == ended(100, 100) == "kept"


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ResizeMode)
def test_a_turned_picture_of_each_mode_has_the_size_that_people_see(
    mode: ResizeMode, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(halves(400, 300), kind, exif=exif)
    made = opened(data, replace(RULES, resize_mode=mode, size=120))
    upright = (400, 300) if orientation == 1 else (300, 400)
    short, long = (160, 120), (120, 90)
    wanted = {
        ResizeMode.NO: upright,
        ResizeMode.KEEP_RATIO: short if orientation == 1 else short[::-1],
        ResizeMode.KEEP_RATIO_LARGEST: long if orientation == 1 else long[::-1],
        ResizeMode.CENTER_CROP: (120, 120),
        ResizeMode.BORDER: (120, 120),
    }
    assert made.size == wanted[mode]


@pytest.mark.parametrize("make", [_cmyk, _palette, _wide_gamut])
@pytest.mark.parametrize("mode", ResizeMode)
@pytest.mark.parametrize("encode_format", EncodeFormat)
def test_odd_colours_come_out_right_of_each_mode_and_format(
    make: Callable[[], bytes], mode: ResizeMode, encode_format: EncodeFormat
) -> None:
    rules = replace(RULES, resize_mode=mode, size=120, encode_format=encode_format)
    image, plain = opened(make(), rules), opened(make())
    assert image.mode == "RGB"
    middle = (image.width * 3 // 8, image.height // 2)
    there = np.asarray(plain.convert("RGB"))[plain.height // 2, plain.width * 3 // 8]
    assert near(image, middle, tuple(there), off=24)


def test_image_rules_fill_in_what_is_left_out_and_come_back_the_same() -> None:
    assert ImageRules.from_json({}) == ImageRules()
    rules = ImageRules.from_json({"size": 512, "resize_mode": "border", "only_if_bigger": False})
    assert (rules.size, rules.resize_mode, rules.only_if_bigger) == (512, ResizeMode.BORDER, False)
    assert ImageRules.from_json(rules.to_json()) == rules


@pytest.mark.parametrize(
    "rules",
    [
        {"sise": 256},
        {"size": "256"},
        {"size": True},
        {"size": 0},
        {"resize_mode": "crop"},
        {"encode_format": "gif"},
        {"reencode": False},
        {"encode_quality": 101},
        {"max_pixels": 10**12},
        {"only_if_bigger": 1},
        {"min_bytes": 30_000_000},
        {"min_image_size": -1},
        {"max_aspect_ratio": 0.5},
        {"max_aspect_ratio": "3"},
        {"max_aspect_ratio": True},
        {"max_aspect_ratio": None},
        {"max_aspect_ratio": float("nan")},
    ],
)
def test_image_rules_that_cannot_be_used_are_refused_in_one_sentence(rules: dict[str, object]) -> None:
    with pytest.raises(ImageRulesError, match=r"^[^\n]+\.$"):
        ImageRules.from_json(rules)
