"""The program of the models' decoder processes: pictures in, a task's result for each out.

`dataset.pictures.fork_server` forks the processes, and `dataset.models.decoders` starts it with `load`. A request comes
from our process and is pickled. An answer comes from a process that has read untrusted bytes, so it consists of lengths
and bytes only:

    request   a task, pickled; or (number of a task, pictures, texts)
    answer    count, lengths (LOST: undecodable), then the bytes; the last item are the texts' tokens
"""

import importlib
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from dataset.models.inputs import Preparation
from dataset.pictures.codec_faults import CODEC_FAULTS
from dataset.pictures.fork_server import READY, Serve
from dataset.pictures.open_stored import open_stored

COUNT = struct.Struct("<I")
LENGTH = struct.Struct("<q")
LOST = -1

_SIZE = struct.Struct("<Q")


class Task(Protocol):
    """A computation on a picture; must be picklable and comparable."""

    def __call__(self, image: Image.Image) -> bytes:
        """Return the result for a picture in RGB."""


def load(*modules: str) -> Serve:
    """Import the modules that tasks need, and return the function that a decoder process runs."""
    for module in modules:
        importlib.import_module(module)
    Image.init()  # otherwise each fork would load the codecs
    return serve


def serve(line: socket.socket) -> None:
    """Answer requests until the other end of the socket is closed."""
    line.sendall(READY)
    known: list[Task] = []
    while True:
        try:
            asked = _receive(line)
        except (EOFError, OSError):
            return
        if isinstance(asked, bytes):
            known.append(pickle.loads(asked))  # noqa: S301 - sent by our own process
            continue
        number, images, texts = asked
        items = answer(known[number], images, texts)
        lengths = b"".join(LENGTH.pack(LOST if item is None else len(item)) for item in items)
        line.sendall(COUNT.pack(len(items)) + lengths)
        for item in items:
            line.sendall(item or b"")


def answer(task: Task, images: Sequence[bytes], texts: Sequence[str]) -> list[bytes | None]:
    """Return the task's result for each picture, None if it is undecodable, followed by the texts' tokens."""
    tokens = task.tokens(texts).tobytes() if isinstance(task, Preparation) and texts else b""
    return [*(_made(task, data) for data in images), tokens]


def _made(task: Task, data: bytes) -> bytes | None:
    picture = open_stored(data)
    try:
        return None if picture is None else task(picture)
    except (*CODEC_FAULTS, MemoryError):  # for example an extreme aspect ratio, enlarged to the model's size
        return None


def send(line: socket.socket, message: object) -> None:
    """Send a request."""
    packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    line.sendall(_SIZE.pack(len(packed)))
    line.sendall(packed)


def _receive(line: socket.socket) -> Any:
    size = bytearray(_SIZE.size)
    receive_into(line, memoryview(size))
    packed = bytearray(_SIZE.unpack(size)[0])
    receive_into(line, memoryview(packed))
    return pickle.loads(packed)  # noqa: S301 - sent by our own process


def receive_into(line: socket.socket, view: memoryview) -> None:
    """Fill `view`.

    Raises: EOFError when the other end is closed before.
    """
    while len(view):
        received = line.recv_into(view)
        if not received:
            raise EOFError("the other end is closed")
        view = view[received:]
