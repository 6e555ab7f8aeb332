"""Decoders: an untrusted picture can only affect a separate process with bounded memory."""

import ctypes
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dataset.models.decoders import CHUNK_SAMPLES, Decoders, DecodingFailed, _Decoder
from dataset.models.inputs import PictureHash, SmallJpeg, Square
from dataset.pictures import open_stored as opening


@dataclass(frozen=True, slots=True)
class Odd:
    """A task that does what the width of a picture tells it to."""

    def __call__(self, image: Image.Image) -> bytes:
        return FATES.get(image.width, lambda: b"well")()


def _hang() -> bytes:
    while True:
        time.sleep(60)


def _crash() -> bytes:
    ctypes.string_at(0)
    return b""


FATES: Mapping[int, Callable[[], bytes]] = {
    2: _crash,
    3: lambda: os.abort(),
    4: lambda: bytes(bytearray(2 << 30)),
    5: lambda: bytes(65 << 20),  # more than an answer may be
    6: lambda: "\n".join(os.environ).encode(),
    7: lambda: str(os.getpid()).encode(),
    8: _hang,
    9: lambda: sys.exit("a codec that ends the process"),
}


def png(width: int, height: int = 1) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    with Decoders() as some:
        yield some


@pytest.mark.parametrize("fate", [2, 3, 4, 5, 9])
def test_a_picture_that_ends_its_decoder_is_undecodable_and_all_others_are_done(decoders: Decoders, fate: int) -> None:
    pictures = [png(1)] * CHUNK_SAMPLES + [png(1), png(fate), png(1)]
    assert decoders.each(Odd(), pictures) == [b"well"] * (CHUNK_SAMPLES + 1) + [None, b"well"]


def test_a_picture_on_which_a_decoder_hangs_is_undecodable(decoders: Decoders, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = _Decoder.ask

    def impatient(decoder: _Decoder, task: Any, images: Any, *rest: Any) -> Any:
        if png(8) in images:
            decoder._socket.settimeout(0.1)
        return ask(decoder, task, images, *rest)

    monkeypatch.setattr(_Decoder, "ask", impatient)
    assert decoders.each(Odd(), [png(1), png(8), png(1)]) == [b"well", None, b"well"]


def test_a_decoder_sees_neither_the_trackers_url_nor_the_stores_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with Decoders(modules=("json",)) as some:  # an origin of its own
        (names,) = some.each(Odd(), [png(6)])
    assert names is not None
    assert b"PATH" in names.split()
    assert not {b"SHOAL_DATABASE_URL", b"AWS_SECRET_ACCESS_KEY"} & set(names.split())


def test_a_decoder_is_another_process_and_ends_with_its_pool() -> None:
    with Decoders() as some:
        (pid,) = some.each(Odd(), [png(7)])
        assert pid is not None
        assert Path(f"/proc/{int(pid)}").exists()
    assert int(pid) != os.getpid()
    assert not Path(f"/proc/{int(pid)}").exists()


def test_no_decoder_outlives_a_worker_that_is_killed_in_the_middle_of_a_picture() -> None:
    program = """
from dataset.models.decoders import Decoders
from tests.dataset.models.test_decoders import Odd, png
decoders = Decoders()
print(decoders.each(Odd(), [png(7)])[0].decode(), flush=True)
decoders.each(Odd(), [png(8)])
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        worker.kill()
    deadline = time.monotonic() + 30
    while _is_alive(pid):
        assert time.monotonic() < deadline
        os.sched_yield()


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_an_origin_that_was_killed_is_replaced(decoders: Decoders) -> None:
    assert decoders.each(Odd(), [png(1)]) == [b"well"]
    origin = decoders._origins._origin
    assert origin is not None
    origin.process.send_signal(signal.SIGKILL)
    origin.process.wait()
    assert decoders.each(Odd(), [png(1)]) == [b"well"]


def test_a_decoder_that_cannot_start_is_an_error_of_one_sentence() -> None:
    with Decoders(modules=("no_such_module",)) as some, pytest.raises(DecodingFailed, match=r"^[^\n]+\.$"):
        some.each(Odd(), [png(1)])


def test_a_picture_of_many_pixels_takes_no_memory_of_this_process() -> None:
    bomb = png(9_000, 9_000)  # 243 MB of pixels in 240 KB
    with Decoders(max_bytes=128 << 20) as some:
        before = _peak_kib()
        assert some.each(SmallJpeg(150), [bomb]) == [None]
        assert _peak_kib() < before + 20_000


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").split()
    return int(status[status.index("VmHWM:") + 1])


def test_a_picture_that_is_a_line_costs_only_itself(decoders: Decoders) -> None:
    """Brought to the model's size it would be a hundred times as large as memory."""
    made = decoders.pixels(Square(64), [png(60_000, 1), png(3, 3)], (64, 64, 3))
    assert made is not None
    assert made.shape == (2, 64, 64, 3)


def test_thumbnails_and_hashes_are_of_the_picture(decoders: Decoders) -> None:
    (jpeg,) = decoders.each(SmallJpeg(20), [png(100, 50)])
    assert jpeg is not None
    assert Image.open(io.BytesIO(jpeg)).size == (20, 10)
    assert decoders.each(SmallJpeg(20), [b"", b"<html>"]) == [None, None]
    noise = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(noise, "PNG")
    hashed, flat = decoders.each(PictureHash(), [noise.getvalue(), png(100, 100)])
    assert hashed is not None
    assert (len(hashed), flat) == (64, b"")


def test_pixels_in_a_batchs_memory_are_those_that_a_task_makes(decoders: Decoders) -> None:
    pictures = [png(5, 7), png(80, 3)]
    made = decoders.pixels(Square(8), pictures, (8, 8, 3))
    assert made is not None
    for row, data in zip(made, pictures, strict=True):
        picture = opening.open_stored(data)
        assert picture is not None
        assert row.tobytes() == Square(8)(picture)
    assert decoders.pixels(Square(8), [b"no picture"], (8, 8, 3)) is None
    assert np.array_equal(made[0, 0, 0], [255, 0, 0])
