"""The marks that the demo's heads must find: a watermark over some pictures, and purple, which stands for unsafe
content.

Both are settled by a link's number and scene, and both can be read from its URL, which no model sees.

The band is as faint as the demo's very small CLIP allows: a stronger one is found more surely, but then one matched
pair in five falls below the threshold. Rejected as the concept: a shape or a texture, of which a head finds next to
nothing in its embeddings.
"""

import re
from dataclasses import dataclass

from PIL import Image, ImageDraw

from tests.demo.scenes import Colour, Scene

MARKED_EVERY = 6
PLANTED = Colour.PURPLE
_NAMED = re.compile(r"/(?P<colour>[a-z]+)-[a-z]+-(?P<number>\d{5})\.[a-z]+$")


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
    return Truth(is_marked(int(named["number"])), named["colour"] == PLANTED) if named else None


def watermarked(picture: Image.Image) -> Image.Image:
    """Draw a light band with dark bars across the lower end, as agencies do."""
    width, height = picture.size
    layer = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(layer)
    draw.rectangle([0, round(height * 0.825), width, round(height * 0.99)], fill=220)
    marked = picture.copy()
    marked.paste((245, 245, 245), mask=layer)
    bars = ImageDraw.Draw(marked)
    step = width / 16
    for bar in range(16):
        left = bar * step
        bars.rectangle(
            [left, height * 0.86, left + step * float(0.3 + 0.3 * (bar % 2)), height * 0.96], fill=(40, 40, 40)
        )
    return marked
