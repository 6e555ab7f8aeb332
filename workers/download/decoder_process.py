"""The process that decodes, forked for each of several at a time from one that has the codecs in memory.

    python -m workers.download.decoder_process dataset.pictures.prepare:prepare

Its stdin is a socket; `workers.download.decoder_pool` starts it.

Two roles. The *origin* imports the codecs once (0.25 s of CPU) and forks a *decoder* whenever it is sent a socket, in
10 ms, so that a crash costs no import and decoders share their memory. A decoder takes pictures from its socket, one at
a time, until the socket ends. Neither outlives the worker, however that dies: the origin ends with its own socket and
takes the decoders along, and the kernel kills a decoder whose origin is gone.

A decoder is bounded before it sees a picture: address space, no core dumps, and first in line for the kernel's
out-of-memory killer. What it says is data: JSON and bytes, never a pickle.

Rejected: `multiprocessing`'s forkserver and `concurrent.futures`' pool, which ends whole when one process crashes; a
fork of the worker itself, which has threads and sockets; threads, which share a crash.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

from dataset.pictures.headers import Picture
from dataset.pictures.outcomes import Outcome
from dataset.recipe.image_rules import ImageRules

Prepare = Callable[[bytes, ImageRules], Picture | Outcome]

ASK = struct.Struct(">II")
"""Before a request: bytes of the rules' JSON, bytes of the picture."""

ANSWER = struct.Struct(">II")
"""Before a reply: bytes of what is said of the picture, as JSON; bytes of the picture."""

ORDER = struct.Struct(">cIQ")
"""To the origin: FORK with a socket, a bound in bytes; or END, a decoder's process id."""

RESULT = struct.Struct(">i")
"""From the origin: the process id of what was forked; the exit code of what was ended, negative for a signal."""

FORK, END = b"F", b"E"

READY = b"R"
"""From a decoder, once: its precautions are taken and its codecs work."""

PROBES = (
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
        "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
    ),
    bytes.fromhex("524946461a000000574542505650384c0d0000002f000000100711118888fe0700"),
)
"""A PNG and a WebP of one pixel. Pillow loads its common formats with the first and all others with the second, which
took each decoder 70 ms."""

_PR_SET_PDEATHSIG = 1  # prctl(2)

_SAID_OF_A_PICTURE = tuple(field.name for field in fields(Picture) if field.name != "data")


def main() -> None:
    """Be the origin, and in each fork a decoder."""
    module, _, name = sys.argv[1].partition(":")
    prepare: Prepare = getattr(importlib.import_module(module), name)
    for unwanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(unwanted, signal.SIG_IGN)  # a terminal's signals are for the worker, with which we end
    _probe(prepare)
    gc.freeze()  # or the first collection in a fork copies every page
    decoders: set[int] = set()
    origin = os.getpid()
    with socket.socket(fileno=os.dup(0)) as orders:
        while (order := _receive_order(orders)) is not None:
            verb, number, bound, sockets = order
            if verb == FORK:
                decoder = os.fork()
                if not decoder:
                    orders.close()
                    _decode(prepare, socket.socket(fileno=sockets[0]), bound, origin)
                os.close(sockets[0])
                decoders.add(decoder)
                orders.sendall(RESULT.pack(decoder))
            elif number in decoders:
                decoders.remove(number)
                orders.sendall(RESULT.pack(_end(number)))
    for decoder in decoders:
        _end(decoder)


def _receive_order(orders: socket.socket) -> tuple[bytes, int, int, list[int]] | None:
    data, sockets, _, _ = socket.recv_fds(orders, ORDER.size, 1)
    if len(data) < ORDER.size:
        return None
    verb, number, bound = ORDER.unpack(data)
    return verb, number, bound, sockets


def _end(decoder: int) -> int:
    """Kill a decoder, unless it has ended by itself, and return its exit code."""
    os.kill(decoder, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(decoder, 0)[1])


def _decode(prepare: Prepare, pictures: socket.socket, bound: int, origin: int) -> None:
    """Be a decoder; never returns."""
    code = 1
    try:
        _take_precautions(bound, origin)
        _probe(prepare)  # or a broken library, or a bound too tight, would be every picture's fault
        pictures.sendall(READY)
        while (request := _receive(pictures, ASK.size)) is not None:
            rules_size, size = ASK.unpack(request)
            rules, data = _receive(pictures, rules_size), _receive(pictures, size)
            if rules is None or data is None:
                break
            head, body = _answer(prepare, data, rules)
            pictures.sendall(b"".join((ANSWER.pack(len(head), len(body)), head, body)))
        code = 0
    finally:  # whatever was raised: no handler of the origin's is to run here
        os._exit(code)


def _probe(prepare: Prepare) -> None:
    for probe in PROBES:
        prepare(probe, ImageRules(min_bytes=0))


def _take_precautions(bound: int, origin: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != origin:  # it died before it could be watched
            os._exit(1)
        Path("/proc/self/oom_score_adj").write_text("1000")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound += pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_RDWR)  # codecs print to stderr what is wrong with each picture
    for number in (0, 1, 2):
        os.dup2(silence, number)


def _answer(prepare: Prepare, data: bytes, rules: bytes) -> tuple[bytes, bytes]:
    try:
        prepared = prepare(data, _rules(rules))
    except MemoryError:
        return json.dumps({"outcome": Outcome.UNDECODABLE, "reason": "codec took too much memory"}).encode(), b""
    if isinstance(prepared, Picture):
        return json.dumps({name: getattr(prepared, name) for name in _SAID_OF_A_PICTURE}).encode(), prepared.data
    return json.dumps({"outcome": prepared}).encode(), b""


@lru_cache(maxsize=16)
def _rules(rules: bytes) -> ImageRules:
    return ImageRules.from_json(json.loads(rules))


def _receive(pictures: socket.socket, size: int) -> bytes | None:
    """Receive `size` bytes; None at the end."""
    data = pictures.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else None


if __name__ == "__main__":
    main()
