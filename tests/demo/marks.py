"""The marks that the demo's heads must find: a watermark over some pictures, and purple, which stands for unsafe
content.

Both are settled by a link's number and scene, and both can be read from its URL, which no model sees.

A watermark is translucent lettering in a `Style`: a line, a line under an emblem, or a text that is repeated all over
the picture. The detector is trained on marks in the style TRAINED, over the grounds of `tests.demo.grounds`; the
crawl's marks are in the style HELD_OUT, over scenes. The two styles share no word, typeface, place or opacity.
"""

import re
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from tests.demo.scenes import Colour, Scene

MARKED_EVERY = 6
PLANTED = Colour.PURPLE
UNMARKED = "x"  # at the end of the names of pictures that never have a watermark: copies, which must be alike
_NAMED = re.compile(rf"/(?P<colour>[a-z]+)-[a-z]+-(?P<number>\d{{5}})(?P<unmarked>{UNMARKED}?)\.[a-z]+$")

Mask = npt.NDArray[np.uint8]
Span = tuple[float, float]
Item = TypeVar("Item")

ROWS, COLUMNS = 5, 4
"""The centre of a mark is in a cell of this grid: in TRAINED on its black fields, in HELD_OUT on its white ones."""

FONT_PIXELS = 64  # of the letters before they are scaled
SHADOW = 0.6  # of the opacity of the letters, in the opposite tone, below and to the right of them
LIGHT = 145.0  # mean level from which a mark is dark


@dataclass(frozen=True, slots=True)
class Typeface:
    """Pillow's own typeface, changed: width and slant as factors, and `stroke` in shares of the height."""

    stretch: float
    slant: float = 0.0
    stroke: float = 0.0


@dataclass(frozen=True, slots=True)
class Style:
    """How marks are drawn; `places` are cells (row, column), `opacities` and `angles` (degrees) ranges to draw from."""

    words: tuple[str, ...]
    typefaces: tuple[Typeface, ...]
    places: tuple[tuple[int, int], ...]
    opacities: tuple[Span, ...]
    angles: tuple[Span, ...]


TRAINED = Style(
    words=("SAMPLE", "PREVIEW", "Archive", "photobank", "NOT FOR SALE", "Lumina", "(c) Ortega", "www.bild.example",
           "DRAFT", "Kestrel", "imago", "STOCKWELL", "proof", "Nordlicht", "fotolab", "A. Moreau", "GALLERY 9"),
    typefaces=(Typeface(1.0, stroke=0.03), Typeface(0.75, stroke=0.05), Typeface(1.35, stroke=0.04),
               Typeface(1.0, 0.3, 0.04), Typeface(1.15, stroke=0.08)),
    places=tuple((row, column) for row in range(ROWS) for column in range(COLUMNS) if (row + column) % 2),
    opacities=((0.40, 0.50), (0.60, 0.70), (0.80, 0.90)),
    angles=((-40.0, -25.0), (-4.0, 4.0), (25.0, 40.0)),
)  # fmt: skip
HELD_OUT = Style(
    words=("COPYRIGHT", "Shutterbug", "agency photo", "Vista", "(c) Tanaka", "pixelhaus", "EVALUATION", "Meridian",
           "stock.example.org", "Foto Ruiz", "UNPAID", "Aurora 24"),
    typefaces=(Typeface(0.85, stroke=0.06), Typeface(1.2, 0.15, 0.05), Typeface(0.9, -0.2, 0.07)),
    places=tuple((row, column) for row in range(ROWS) for column in range(COLUMNS) if not (row + column) % 2),
    opacities=((0.50, 0.60), (0.70, 0.80)),
    angles=((-25.0, -12.0), (5.0, 12.0)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Truth:
    """What is planted in a link's picture."""

    watermark: bool
    concept: bool


def is_marked(number: int) -> bool:
    """Return whether the picture of a link has a watermark."""
    return number % MARKED_EVERY == 0


def truth_of(scene: Scene, marked: bool) -> Truth:
    """Return what is planted in a picture."""
    return Truth(marked, scene.colour is PLANTED)


def truth_in(url: str) -> Truth | None:
    """Read from a link's URL what is planted in its picture; None for a link without one."""
    named = _NAMED.search(url)
    if named is None:
        return None
    return Truth(is_marked(int(named["number"])) and not named["unmarked"], named["colour"] == PLANTED)


def watermarked(picture: Image.Image, style: Style, rng: np.random.Generator) -> Image.Image:
    """Return a copy with a translucent mark."""
    drawn = (_line, _emblem, _tiled)[rng.choice(3, p=(0.4, 0.3, 0.3))](picture.size, style, rng)
    pixels, opacity = np.asarray(picture, np.float32), rng.uniform(*_one(style.opacities, rng))
    tone = int(rng.integers(235, 256) if pixels.mean() < LIGHT else rng.integers(0, 30))
    shift = max(1, round(min(picture.size) / 120))
    shadow = np.roll(drawn, (shift, shift), (0, 1))
    pixels = _over(pixels, np.where(drawn > 0, np.uint8(0), shadow), (255 - tone,) * 3, opacity * SHADOW)
    return Image.fromarray(np.asarray(_over(pixels, drawn, (tone,) * 3, opacity), np.uint8))


def lettered(picture: Image.Image, style: Style, rng: np.random.Generator) -> Image.Image:
    """Return a copy with opaque lettering in a colour or on a plate, as on signs and slides: not a watermark."""
    mask = _line(picture.size, style, rng)
    colours = ((200, 30, 30), (20, 60, 190), (20, 130, 50), (245, 205, 20), (150, 20, 150), (235, 120, 10))
    pixels, colour = np.asarray(picture, np.float32), _one(colours, rng)
    if rng.random() < 0.6:
        left, top, width, height = cv2.boundingRect(mask)
        border = round(min(picture.size) * rng.uniform(0.015, 0.04))
        plate = np.zeros_like(mask)
        corners = (left - border, top - border), (left + width + border, top + height + border)
        cv2.rectangle(plate, *corners, 255, -1)
        dark = bool(rng.random() < 0.5)
        pixels = _over(pixels, plate, colour if dark else (250, 250, 250), 1.0)
        colour = (250, 250, 250) if dark else _one((*colours, (15, 15, 15)), rng)
    return Image.fromarray(np.asarray(_over(pixels, mask, colour, 1.0), np.uint8))


def _over(
    pixels: npt.NDArray[np.float32], mask: Mask, colour: tuple[int, ...], opacity: float
) -> npt.NDArray[np.float32]:
    share = (mask.astype(np.float32) * (opacity / 255))[..., None]  # (H, W, 1)
    return pixels * (1 - share) + np.array(colour, np.float32) * share


def _line(size: tuple[int, int], style: Style, rng: np.random.Generator) -> Mask:
    """Draw a line of text at one of the places."""
    height = min(size) * rng.uniform(0.12, 0.18)
    text = _text(style, rng, height, 0.9 * size[0])
    return _placed(text, size, _one(style.places, rng), rng)


def _emblem(size: tuple[int, int], style: Style, rng: np.random.Generator) -> Mask:
    """Draw an emblem with a line of text below it at one of the places."""
    height = min(size) * rng.uniform(0.09, 0.13)
    text = _text(style, rng, height, 0.8 * size[0])
    radius = round(height * rng.uniform(1.0, 1.5))
    canvas = np.zeros((text.shape[0] + 2 * radius + 4, max(text.shape[1], 2 * radius + 4)), np.uint8)
    centre, stroke = (canvas.shape[1] // 2, radius + 2), max(1, round(height / 6))
    corners = int(rng.integers(3, 7))
    if corners == 6:
        cv2.circle(canvas, centre, radius - stroke, 255, stroke, cv2.LINE_AA)
    else:
        turns = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 1)
        points = np.stack(
            [centre[0] + (radius - stroke) * np.cos(turns), centre[1] + (radius - stroke) * np.sin(turns)]
        )
        cv2.polylines(canvas, [points.T.astype(np.int32)], True, 255, stroke, cv2.LINE_AA)
    cv2.circle(canvas, centre, radius // 3, 255, -1, cv2.LINE_AA)
    left = (canvas.shape[1] - text.shape[1]) // 2
    canvas[-text.shape[0] :, left : left + text.shape[1]] = text
    return _placed(canvas, size, _one(style.places, rng), rng)


def _tiled(size: tuple[int, int], style: Style, rng: np.random.Generator) -> Mask:
    """Repeat a text all over the picture, at an angle."""
    height = min(size) * rng.uniform(0.09, 0.12)
    text = _text(style, rng, height, 0.7 * size[0])
    gap = rng.uniform(1.2, 2.5)
    tile = np.zeros((round(text.shape[0] * (1 + gap)), round(text.shape[1] + 2 * height * gap)), np.uint8)
    tile[: text.shape[0], : text.shape[1]] = text
    shifted = np.concatenate([tile, np.roll(tile, tile.shape[1] // 2, axis=1)])
    around = 2 * max(size)
    wall = np.tile(shifted, (-(-around // shifted.shape[0]), -(-around // shifted.shape[1])))
    angle = rng.uniform(*_one(style.angles, rng))
    turn = cv2.getRotationMatrix2D((around / 2, around / 2), angle, 1.0)
    turn[0, 2] += (size[0] - around) / 2
    turn[1, 2] += (size[1] - around) / 2
    return np.asarray(cv2.warpAffine(wall, turn, size, flags=cv2.INTER_LINEAR), np.uint8)


def _text(style: Style, rng: np.random.Generator, height: float, width: float) -> Mask:
    """Draw one of the words as (H, W) uint8: letters about `height` pixels high, and not wider than `width`."""
    word, face = _one(style.words, rng), _one(style.typefaces, rng)
    drawn = ImageFont.load_default(FONT_PIXELS).getmask(word, "L", stroke_width=FONT_PIXELS * face.stroke)
    letters = np.array(drawn, np.uint8).reshape(drawn.size[::-1])
    lean = abs(face.slant) * letters.shape[0]
    scale = min(height / letters.shape[0], width / (face.stretch * letters.shape[1] + lean))
    across, along = scale * face.stretch, -scale * face.slant
    shape = [[across, along, max(0.0, -along * letters.shape[0])], [0, scale, 0]]
    size = max(1, round(scale * (face.stretch * letters.shape[1] + lean))), max(1, round(scale * letters.shape[0]))
    smooth = cv2.GaussianBlur(letters, (0, 0), max(0.1, 0.4 / scale))  # the source is larger: no aliasing
    return np.asarray(cv2.warpAffine(smooth, np.array(shape), size, flags=cv2.INTER_LINEAR), np.uint8)


def _placed(drawn: Mask, size: tuple[int, int], place: tuple[int, int], rng: np.random.Generator) -> Mask:
    """Put what is drawn into a mask of `size` (width, height), its centre in a cell, moved inside where it juts out."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    drawn = drawn[: size[1], : size[0]]
    down, right = (np.array(place) + rng.uniform(0.2, 0.8, 2)) / (ROWS, COLUMNS)
    top = min(max(0, round(down * size[1] - drawn.shape[0] / 2)), size[1] - drawn.shape[0])
    left = min(max(0, round(right * size[0] - drawn.shape[1] / 2)), size[0] - drawn.shape[1])
    mask[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    return mask


def _one(items: tuple[Item, ...], rng: np.random.Generator) -> Item:
    return items[rng.integers(len(items))]
