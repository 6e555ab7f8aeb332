"""The work of a decoder process: it receives pictures one at a time, and sends prepared pictures or outcomes.

`dataset.pictures.fork_server` forks the decoders; `workers.download.decoder_pool` starts it with `load`. A decoder
serves its socket until EOF. Its answers are data (JSON and bytes), never a pickle.
"""

import importlib
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache, partial

from dataset import strict_json
from dataset.pictures.fork_server import READY, Serve
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.image_rules import ImageRules

Prepare = Callable[[bytes, ImageRules], Picture | Outcome]

ASK = struct.Struct(">II")
"""The start of a request: the sizes of the rules' JSON and of the picture."""

ANSWER = struct.Struct(">II")
"""The start of an answer: the sizes of the JSON about the picture and of the picture."""

PROBES = (
    bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
        "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
    ),
    bytes.fromhex("524946461a000000574542505650384c0d0000002f000000100711118888fe0700"),
)
"""A PNG and a WebP of one pixel. They make Pillow load its common and its other formats before the fork, which saves
each decoder 70 ms."""

_PICTURE_FIELDS = tuple(field.name for field in fields(Picture) if field.name != "data")


def load(codec: str) -> Serve:
    """Load the codec, a function as module:name; return the function that a decoder runs."""
    module, _, name = codec.partition(":")
    prepare: Prepare = getattr(importlib.import_module(module), name)
    _probe(prepare)
    return partial(serve, prepare)


def serve(prepare: Prepare, pictures: socket.socket) -> None:
    """Prepare pictures until EOF on the socket."""
    _probe(prepare)  # otherwise a broken library or a low memory limit would make every picture undecodable
    pictures.sendall(READY)
    while (request := _receive(pictures, ASK.size)) is not None:
        rules_size, size = ASK.unpack(request)
        rules, data = _receive(pictures, rules_size), _receive(pictures, size)
        if rules is None or data is None:
            break
        head, body = _answer(prepare, data, rules)
        pictures.sendall(b"".join((ANSWER.pack(len(head), len(body)), head, body)))


def _probe(prepare: Prepare) -> None:
    for probe in PROBES:
        prepare(probe, ImageRules(min_bytes=0))


def _answer(prepare: Prepare, data: bytes, rules: bytes) -> tuple[bytes, bytes]:
    try:
        prepared = prepare(data, _rules(rules))
    except MemoryError:
        return strict_json.dumps({"outcome": Outcome.UNDECODABLE, "reason": "codec took too much memory"}).encode(), b""
    if isinstance(prepared, Picture):
        return strict_json.dumps({name: getattr(prepared, name) for name in _PICTURE_FIELDS}).encode(), prepared.data
    return strict_json.dumps({"outcome": prepared}).encode(), b""


@lru_cache(maxsize=16)
def _rules(rules: bytes) -> ImageRules:
    return ImageRules.from_json(json.loads(rules))


def _receive(pictures: socket.socket, size: int) -> bytes | None:
    """Return the next `size` bytes; None at EOF."""
    data = pictures.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else None
