"""Samples are prepared beside the model: in a thread of this process, or in processes of their own.

Invariant: whatever the bytes of a picture do to the process that decodes them, each sample gets its answer. A decoder
that dies, or does not answer in time, takes its chunk along; its samples are then tried one by one, and the one that
ends its decoder again counts as undecodable.

A process answers over a socket with raw pixels, which go straight into the batch's memory: 1.5 GB/s at 10,000 samples a
second, received without the interpreter's lock. Rejected: shared memory, of which a container has 64 MB unless told
otherwise, and a process that uses more of it dies; and forking, which a process that uses CUDA does not survive.
"""

import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from dataset.formats.shards import Sample
from dataset.models.inputs import Pixels, Preparation, Tokens
from dataset.models.oldest_first import Turns

CHUNK_SAMPLES = 32
"""Given to a decoder at once: 60 to 100 ms of work, 5 MB of pixels."""

ANSWER_SECONDS = 300.0
"""For a chunk, the process's start with it; the largest picture that a download lets through takes four to ten. Ample,
since a picture counts as undecodable after it: a machine that is only slow must not lose one."""

_Chunk = tuple[list[bool], Tokens]
_LENGTH = struct.Struct("<Q")


class Prepared:
    """A batch under way, whose pictures go into memory that the caller gave."""

    def __init__(self, chunks: Sequence[Future[_Chunk]]) -> None:
        self._chunks = chunks

    def result(self, timeout: float | None = None) -> _Chunk:
        """Wait for which pictures could be decoded, N; and all texts' tokens, (N, context) int32.

        Raises: TimeoutError when a chunk is not there within `timeout` seconds.
        """
        done = [chunk.result(timeout) for chunk in self._chunks]
        return [is_good for flags, _ in done for is_good in flags], np.concatenate([tokens for _, tokens in done])

    def cancel(self) -> bool:
        """Leave undone what has not been begun; True if nothing had been."""
        cancelled = [chunk.cancel() for chunk in self._chunks]
        return all(cancelled)


class Decoders:
    """`processes` decoders; with none, a thread of this process does their work, which suffices for a CPU's model."""

    def __init__(self, processes: int = 0) -> None:
        self._turns = Turns(max(1, processes), "decoder")
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        self._processes = processes
        for _ in range(processes):
            self._idle.put(_Decoder())

    def close(self) -> None:
        """End threads and processes, when they are done with what they have begun."""
        self._turns.close()
        for _ in range(self._processes):
            self._idle.get().close()

    def prepare(self, samples: Sequence[Sample], preparation: Preparation, pixels: Pixels, *, age: int) -> Prepared:
        """Begin to prepare a batch into `pixels`, (N, H, W, 3) uint8; of several shards the lowest `age` goes first."""
        starts = range(0, len(samples), CHUNK_SAMPLES)
        chunks = [
            self._turns.submit(age, self._work(preparation, samples[start:end], pixels[start:end]))
            for start, end in ((start, start + CHUNK_SAMPLES) for start in starts)
        ]
        return Prepared(chunks)

    def _work(self, preparation: Preparation, samples: Sequence[Sample], pixels: Pixels) -> Callable[[], _Chunk]:
        images = [sample.image for sample in samples]
        texts = [sample.caption for sample in samples]
        fill = self._fill_elsewhere if self._processes else Preparation.fill
        return lambda: fill(preparation, images, texts, pixels)

    def _fill_elsewhere(
        self, preparation: Preparation, images: Sequence[bytes], texts: Sequence[str], pixels: Pixels
    ) -> _Chunk:
        decoder = self._idle.get()
        try:
            try:
                return decoder.fill(preparation, images, texts, pixels)
            except (OSError, EOFError):
                decoder = decoder.another()
            good: list[bool] = []
            for image, row in zip(images, pixels, strict=True):
                try:
                    good += decoder.fill(preparation, [image], [], row[None])[0]
                except (OSError, EOFError):
                    decoder = decoder.another()
                    good.append(False)
            return good, preparation.tokens(texts)
        finally:
            self._idle.put(decoder)


class _Decoder:
    """A process and the socket to it; it ends when the socket is closed, so also when this process dies."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(ANSWER_SECONDS)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from dataset.models.decoders import serve; serve()", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the worker, which ends this when it is done
            )
        self._known: list[Preparation] = []

    def fill(self, preparation: Preparation, images: Sequence[bytes], texts: Sequence[str], pixels: Pixels) -> _Chunk:
        """Do as `Preparation.fill`, over there.

        Raises: OSError, EOFError when the process has died or does not answer.
        """
        if preparation not in self._known:
            self._known.append(preparation)
            _send(self._socket, pickle.dumps(preparation, pickle.HIGHEST_PROTOCOL))
        _send(self._socket, (self._known.index(preparation), pixels.shape, list(images), list(texts)))
        good, tokens = _receive(self._socket)
        _receive_into(self._socket, pixels.reshape(-1).data)
        return good, tokens

    def another(self) -> "_Decoder":
        """End this one, if it has not ended, and start one in its place."""
        self.close()
        return _Decoder()

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self.process.kill()
        self.process.wait()


def serve() -> None:
    """Be a decoder: answer on the socket whose descriptor the command line names, until its other end is closed."""
    os.nice(5)  # what feeds the device comes first
    known: list[Preparation] = []
    with socket.socket(fileno=int(sys.argv[1])) as line:
        while True:
            try:
                asked = _receive(line)
            except (EOFError, OSError):
                return
            if isinstance(asked, bytes):
                import dataset.models.torchvision_shim  # noqa: F401 - before torchvision, whose transforms a preparation holds

                known.append(pickle.loads(asked))  # noqa: S301 - ours
                continue
            number, shape, images, texts = asked
            pixels = np.zeros(shape, np.uint8)
            _send(line, known[number].fill(images, texts, pixels))
            line.sendall(pixels.reshape(-1).data)


def _send(line: socket.socket, message: object) -> None:
    packed = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    line.sendall(_LENGTH.pack(len(packed)))
    line.sendall(packed)


def _receive(line: socket.socket) -> Any:
    """Receive what the process at the other end has pickled: our own code, started by us."""
    (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
    return pickle.loads(_exactly(line, length))  # noqa: S301


def _exactly(line: socket.socket, length: int) -> bytearray:
    buffer = bytearray(length)
    _receive_into(line, memoryview(buffer))
    return buffer


def _receive_into(line: socket.socket, view: memoryview) -> None:
    while len(view):
        received = line.recv_into(view)
        if not received:
            raise EOFError("the decoder has ended")
        view = view[received:]
