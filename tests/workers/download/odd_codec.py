"""A codec that crashes, hangs or allocates memory when a picture tells it to."""

import ctypes
import os
import signal
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.image_rules import ImageRules

HERE = "tests.workers.download.odd_codec:prepare"


def prepare(data: bytes, rules: ImageRules) -> Picture | Outcome:
    """Do what the end of the picture says; otherwise return the picture unchanged."""
    order = data.rpartition(b"!")[2]
    if order in _FATES:
        _FATES[order]()
    if order == b"damaged":
        return Outcome.UNDECODABLE
    if order == b"environment":
        data = "\n".join(os.environ).encode()
    return Picture(data, "jpg", rules.size, 2, 3, 4, f"{os.getpid()} {os.getppid()}", "md5")


def _hang() -> None:
    while True:
        time.sleep(60)


def _lie() -> None:
    """Send what no decoder would send on the decoder's own socket, like an attacker who has taken it over."""
    for number in range(3, 64):
        if Path(f"/proc/self/fd/{number}").exists() and stat.S_ISSOCK(os.fstat(number).st_mode):
            os.write(number, b"\xff" * 64)
    _hang()


_FATES: Mapping[bytes, Callable[[], object]] = {
    b"crash": lambda: ctypes.string_at(0),
    b"abort": os.abort,
    b"raise": lambda: 1 // 0,
    b"hang": _hang,
    b"eat": lambda: bytearray(2 << 30),
    b"eaten": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does when it has no memory left
    b"lie": _lie,
}
