"""The program of the models' decoder processes: pictures in, a task's result for each out.

`dataset.pictures.fork_server` forks the processes, and `dataset.models.decoders` starts it with `load`. A request comes
from our process and is pickled. An answer comes from a process that has read untrusted bytes, so it consists of lengths
and bytes only. The bytes of both are in a file in memory that this process shares with its owner; the socket says what
is in the file now:

    first     the file's descriptor
    request   a task, pickled; or (number of a task, the pictures' lengths, texts); in the file the pictures
    answer    count, lengths (LOST: undecodable), the last one of the texts' tokens; in the file the items
"""

import errno
import importlib
import os
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
    (file,) = socket.recv_fds(line, 1, 1)[1]
    known: list[Task] = []
    while True:
        try:
            asked = _receive(line)
        except (EOFError, OSError):
            return
        if isinstance(asked, bytes):
            known.append(pickle.loads(asked))  # noqa: S301 - sent by our own process
            continue
        number, lengths, texts = asked
        images = [bytearray(length) for length in lengths]
        read_file(file, images)
        items = answer(known[number], [bytes(image) for image in images], texts)
        write_file(file, [item for item in items if item])
        said = b"".join(LENGTH.pack(LOST if item is None else len(item)) for item in items)
        line.sendall(COUNT.pack(len(items)) + said)


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


def write_file(file: int, items: Sequence[bytes]) -> None:
    """Write items one after the other to the start of a shared file, in one system call, without the GIL.

    Raises: OSError when the file does not take them.
    """
    if os.pwritev(file, items, 0) < sum(map(len, items)):
        raise OSError(errno.ENOSPC, "there is no memory for the file")


def read_file(file: int, items: Sequence[bytearray | memoryview]) -> None:
    """Fill items one after the other from the start of a shared file, as `write_file`.

    Raises: EOFError when the file ends before.
    """
    if os.preadv(file, items, 0) < sum(map(len, items)):
        raise EOFError("the file is too short")
