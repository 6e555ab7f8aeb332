"""Paint the mini crawl's files: pictures, and files that only look like pictures.

A picture is a pure function of its order, so the files are the same however many processes paint them. Every picture is
above 5,000 bytes, under which a download is dropped, except the ones ordered to be small.
"""

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tests.demo.marks import HELD_OUT, is_marked, watermarked
from tests.demo.pictures import Scene, render

MIN_BYTES = 5_500  # a little above the limit of 5,000, so that no picture is at its edge
SMALL_PIXELS = 60  # a JPEG of that side has about 2,000 bytes
BOMB_SIDE = 20_000  # 400 million pixels, over any sensible limit, in some 50 KB
BATCH = 50
SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif"}


@dataclass(frozen=True, slots=True)
class Order:
    """A picture to be painted: what it shows, and everything that chance decides about it."""

    file: str
    scene: Scene
    size: tuple[int, int]
    format: str
    quality: int
    seed: int
    share: float = 1.0  # of the bytes that are written: less than 1 is a file that ends early
    watermark: bool = False
    edits: tuple[str, ...] = ()  # names of EDITS, one after the other


def draw_order(number: int, scene: Scene, rng: np.random.Generator) -> Order:
    """Choose size, shape, format and quality about as the web does; the shorter side is 140 to 2,400 px."""
    chance = rng.random()
    low, high = (140, 300) if chance < 0.6 else (300, 520) if chance < 0.985 else (900, 2400)
    short = int(rng.integers(low, high))
    long = round(short * rng.uniform(1.0, 1.6))
    size = (long, short) if rng.random() < 0.6 else (short, long)
    chosen = "JPEG" if short > 520 else str(rng.choice(["JPEG", "PNG", "WEBP", "GIF"], p=[0.85, 0.05, 0.06, 0.04]))
    quality, seed = int(rng.integers(75, 96)), int(rng.integers(2**62))
    file = f"files/{number:05d}.{SUFFIXES[chosen]}"
    return Order(file, scene, size, chosen, quality, seed, watermark=is_marked(number))


def copy_order(number: int, scene: Scene, edits: tuple[str, ...], seed: int) -> Order:
    """Order a picture of which there are several: equal seeds give equal pictures, but for their edits."""
    return Order(f"files/{number:05d}.jpg", scene, (400, 320), "JPEG", 90, seed, edits=edits)


def small_order(number: int, scene: Scene) -> Order:
    """Order a sound picture of under 5,000 bytes."""
    return Order(f"files/{number:05d}.jpg", scene, (SMALL_PIXELS, SMALL_PIXELS), "JPEG", 80, number)


def cut_order(number: int, scene: Scene) -> Order:
    """Order a JPEG that ends in its middle, still above MIN_BYTES."""
    return Order(f"files/{number:05d}.jpg", scene, (320, 320), "JPEG", 85, number, share=0.5)


def picture_bytes(order: Order) -> bytes:
    """Paint and pack one picture."""
    picture = render(order.scene, order.size, np.random.default_rng(order.seed))
    if order.watermark:
        picture = watermarked(picture, HELD_OUT, np.random.default_rng((order.seed, 1)))
    for edit in order.edits:
        picture = EDITS[edit](picture)
    packed = _packed(picture, order.format, order.quality)
    if len(packed) < MIN_BYTES and min(order.size) > SMALL_PIXELS:
        packed = _packed(picture, order.format, 97)
    return packed[: round(len(packed) * order.share)]


def _resized(picture: Image.Image, wide: float, high: float) -> Image.Image:
    return picture.resize((round(picture.width * wide), round(picture.height * high)), Image.Resampling.BICUBIC)


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda picture: _resized(picture, 0.8, 0.8),
    "larger": lambda picture: _resized(picture, 1.4, 1.4),
    "squeezed": lambda picture: _resized(picture, 0.85, 1.0),
    "blurred": lambda picture: picture.filter(ImageFilter.GaussianBlur(0.8)),
    "packed": lambda picture: Image.open(io.BytesIO(_packed(picture, "JPEG", 40))).convert("RGB"),
}


def _packed(picture: Image.Image, format_name: str, quality: int) -> bytes:
    file = io.BytesIO()
    options = {"JPEG": {"quality": quality}, "WEBP": {"quality": quality, "method": 1}}.get(format_name, {})
    picture.save(file, format_name, **options)
    return file.getvalue()


def paint(folder: Path, orders: Sequence[Order], processes: int) -> None:
    """Write the pictures of `orders` under `folder`; one process paints in this one."""
    batches = [(folder, orders[start : start + BATCH]) for start in range(0, len(orders), BATCH)]
    if processes == 1:
        for batch in batches:
            _paint_batch(batch)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(_paint_batch, batches):
            pass


def _paint_batch(batch: tuple[Path, Sequence[Order]]) -> None:
    folder, orders = batch
    for order in orders:
        (folder / order.file).write_bytes(picture_bytes(order))


def bomb_bytes() -> bytes:
    """Pack a black PNG of BOMB_SIDE x BOMB_SIDE with one bit a pixel."""
    deflate = zlib.compressobj(9)
    rows = bytes(1 + BOMB_SIDE // 8) * 100  # a filter byte and the pixels, a hundred rows at a time
    data = b"".join(deflate.compress(rows) for _ in range(BOMB_SIDE // 100)) + deflate.flush()
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def html_bytes() -> bytes:
    """Write the page that many servers send in place of a picture that is gone, above 5,000 bytes."""
    text = "<p>This picture is not here any more. Look at what else we have on offer.</p>\n"
    return ("<!DOCTYPE html>\n<html><body>\n" + text * 100 + "</body></html>\n").encode()
