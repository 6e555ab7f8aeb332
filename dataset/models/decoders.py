"""Decoders: strangers' pictures become pixels in processes of their own, on a CPU too, with a bound on their memory.

Invariant: whatever the bytes of a picture do to the process that decodes them, each sample gets its answer. A decoder
that dies, or does not answer in time, takes its chunk along; its samples are then tried one by one, and the one that
ends its decoder again counts as undecodable. What a decoder says is data, and is never unpickled.

A decoder (`dataset.models.decoder_process`, in a fork of `dataset.pictures.fork_server`) answers over a socket with raw
pixels, which go straight into the batch's memory: 1.5 GB/s at 10,000 samples a second, received without the
interpreter's lock. Rejected: shared memory, of which a container has 64 MB unless told otherwise, and a process that
uses more of it dies; and forking this process, which one that uses CUDA does not survive.
"""

import atexit
import os
import pickle
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from functools import cache
from types import TracebackType
from typing import Self

import numpy as np

from dataset.errors import DatasetError
from dataset.formats.shards import Sample
from dataset.models.decoder_process import COUNT, LENGTH, LOST, Task, receive_into, send
from dataset.models.inputs import Pixels, Preparation, Tokens
from dataset.models.oldest_first import OldestFirstExecutor
from dataset.pictures import fork_server
from dataset.pictures.fork_server import DECODE_BYTES, END, FORK, ORDER, READY, RESULT

CHUNK_SAMPLES = 32
"""Given to a decoder at once: 60 to 100 ms of work, 5 MB of pixels."""

ANSWER_SECONDS = 300.0
"""For a chunk; the largest picture that a download lets through takes four to ten. Ample, since a picture counts as
undecodable after it: a machine that is only slow must not lose one."""

ORDER_SECONDS = 120.0
"""For the origin's imports, torch among them, and a fork, on a machine that is busy with other things."""

NICENESS = 5

MAX_ITEM_BYTES = 64 << 20
"""Of one answer: the pixels of one picture, a thumbnail, a chunk's tokens. A decoder that says more is ours no more."""

MODELS = ("dataset.models.torchvision_shim", "open_clip")
"""Imported by the origin where decoders prepare a model's input; in this order."""

_Chunk = tuple[list[bool], Tokens]


class DecodingFailed(DatasetError):
    """No decoder can be started here."""


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
    """`processes` decoders, each started when it is first needed; `modules` are imported before they are forked."""

    def __init__(self, processes: int = 1, modules: tuple[str, ...] = (), *, max_bytes: int = DECODE_BYTES) -> None:
        self._executor = OldestFirstExecutor(processes, "decoder")
        self._origins = _origins_with(modules)
        self._max_bytes = max_bytes
        self._idle: queue.SimpleQueue[_Decoder | None] = queue.SimpleQueue()
        self._processes = processes
        for _ in range(processes):
            self._idle.put(None)

    @property
    def pictures_at_once(self) -> int:
        """Return how many pictures `each` is given so that every decoder has a chunk."""
        return self._processes * CHUNK_SAMPLES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End threads and processes, when they are done with what they have begun."""
        self._executor.close()
        for _ in range(self._processes):
            if (decoder := self._idle.get()) is not None:
                decoder.close()

    def prepare(self, samples: Sequence[Sample], preparation: Preparation, pixels: Pixels, *, age: int) -> Prepared:
        """Begin to prepare a batch into `pixels`, (N, H, W, 3) uint8; of several shards the lowest `age` goes first.

        Raises: in the result, DecodingFailed when no decoder can be started.
        """
        starts = range(0, len(samples), CHUNK_SAMPLES)
        chunks = [
            self._executor.submit(age, self._preparing(preparation, samples[start:end], pixels[start:end]))
            for start, end in ((start, start + CHUNK_SAMPLES) for start in starts)
        ]
        return Prepared(chunks)

    def each(self, task: Task, images: Sequence[bytes]) -> list[bytes | None]:
        """Do `task` on pictures and wait for what it made of each; None where one cannot be decoded.

        Raises: DecodingFailed when no decoder can be started.
        """
        starts = range(0, len(images), CHUNK_SAMPLES)
        chunks = [images[start : start + CHUNK_SAMPLES] for start in starts]
        asked = [self._executor.submit(0, lambda some=some: self._each(task, some)) for some in chunks]  # type: ignore[misc]
        return [item for chunk in asked for item in chunk.result()]

    def pixels(self, task: Task, images: Sequence[bytes], shape: tuple[int, int, int]) -> Pixels | None:
        """Do a task that makes pixels of this (H, W, 3), (N, H, W, 3) uint8; None if a picture cannot be decoded."""
        pixels = np.zeros((len(images), *shape), np.uint8)
        made = self.each(task, images)
        for row, item in zip(pixels, made, strict=True):
            if item is None or len(item) != row.nbytes:
                return None
            row[:] = np.frombuffer(item, np.uint8).reshape(shape)
        return pixels

    def _preparing(self, preparation: Preparation, samples: Sequence[Sample], pixels: Pixels) -> Callable[[], _Chunk]:
        images = [sample.image for sample in samples]
        texts = [sample.caption for sample in samples]
        return lambda: self._prepare(preparation, images, texts, pixels)

    def _prepare(
        self, preparation: Preparation, images: Sequence[bytes], texts: Sequence[str], pixels: Pixels
    ) -> _Chunk:
        items, packed = self._ask(preparation, images, texts, pixels)
        if packed is None:  # the decoder died on a picture
            return [item is not None for item in items], preparation.tokens(texts)
        tokens = np.frombuffer(packed, np.int32).reshape(len(texts), preparation.context)
        return [item is not None for item in items], tokens

    def _each(self, task: Task, images: Sequence[bytes]) -> list[bytes | None]:
        return self._ask(task, images, (), None)[0]

    def _ask(
        self, task: Task, images: Sequence[bytes], texts: Sequence[str], into: Pixels | None
    ) -> tuple[list[bytes | None], bytes | None]:
        """Return what became of each picture, and the texts' tokens as bytes; None where a decoder died."""
        decoder = self._idle.get()
        try:
            decoder = decoder or self._start()
            try:
                return decoder.ask(task, images, texts, into)
            except (OSError, EOFError):
                decoder.close()
                decoder = None
            items: list[bytes | None] = []
            for number, image in enumerate(images):
                decoder = decoder or self._start()
                try:
                    items += decoder.ask(task, [image], (), None if into is None else into[number : number + 1])[0]
                except (OSError, EOFError):
                    decoder.close()
                    decoder = None
                    items.append(None)
            return items, None
        finally:
            self._idle.put(decoder)

    def _start(self) -> "_Decoder":
        decoder = self._origins.decoder(self._max_bytes)
        if self._processes > 1:  # as many as there are cores: what feeds the device comes first
            with suppress(OSError):  # it has ended, which is noticed with its first picture
                os.setpriority(os.PRIO_PROCESS, decoder.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))
        return decoder


class _Decoder:
    """A process and the socket to it; it ends when the socket is closed, so also when this process dies."""

    def __init__(self, line: socket.socket, pid: int, end: Callable[[int], None]) -> None:
        self._socket = line
        self.pid = pid
        self._end = end
        self._known: list[Task] = []

    def ask(
        self, task: Task, images: Sequence[bytes], texts: Sequence[str], into: Pixels | None
    ) -> tuple[list[bytes | None], bytes]:
        """Do `task` over there on each picture; what it makes goes into the rows of `into`, if that is given.

        Raises: OSError, EOFError when the process has died, does not answer, or says what no decoder of ours would.
        """
        if task not in self._known:
            self._known.append(task)
            send(self._socket, pickle.dumps(task, pickle.HIGHEST_PROTOCOL))
        send(self._socket, (self._known.index(task), list(images), list(texts)))
        (count,) = COUNT.unpack(self._exactly(COUNT.size))
        if count != len(images) + 1:
            raise EOFError("the decoder answers for other pictures")
        lengths = [LENGTH.unpack(self._exactly(LENGTH.size))[0] for _ in range(count)]
        if not all(LOST <= length <= MAX_ITEM_BYTES for length in lengths):
            raise EOFError("the decoder says more than a decoder would")
        rows = [None] * len(images) if into is None else list(into)
        items = [self._item(length, row) for length, row in zip(lengths, rows, strict=False)]
        return items, bytes(self._exactly(max(0, lengths[-1])))

    def _item(self, length: int, row: Pixels | None) -> bytes | None:
        if length == LOST:
            return None
        if row is None:
            return bytes(self._exactly(length))
        if length != row.nbytes:
            raise EOFError("the decoder gives a picture of another size")
        receive_into(self._socket, row.reshape(-1).data)
        return b""

    def _exactly(self, length: int) -> bytearray:
        buffer = bytearray(length)
        receive_into(self._socket, memoryview(buffer))
        return buffer

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._end(self.pid)


class _Origins:
    """The origin of decoders; one that was killed is replaced."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._origin: _Origin | None = _Origin(modules)
        atexit.register(self.close)

    def decoder(self, max_bytes: int) -> _Decoder:
        """Start a decoder.

        Raises: DecodingFailed when that cannot be done.
        """
        with self._lock:
            for _ in range(2):
                self._origin = self._origin or _Origin(self._modules)
                try:
                    return self._origin.fork(max_bytes)
                except (OSError, EOFError):
                    self._origin.close()
                    self._origin = None
        modules = ", ".join(("dataset.models.decoder_process", *self._modules))
        raise DecodingFailed(f"The process that decodes cannot be started: python -c 'import {modules}' may tell why.")

    def close(self) -> None:
        """End the origin and all of its decoders."""
        if self._origin is not None:
            self._origin.close()
            self._origin = None


class _Origin:
    """The process that forks decoders; see `dataset.pictures.fork_server`."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._orders, theirs = socket.socketpair()
        self._orders.settimeout(ORDER_SECONDS)
        self._lock = threading.Lock()
        with theirs:
            self.process = subprocess.Popen(
                fork_server.command("dataset.models.decoder_process:load", *modules),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=fork_server.environment(),
            )

    def fork(self, max_bytes: int) -> _Decoder:
        """Start a decoder.

        Raises: OSError, EOFError when the origin or the decoder has died.
        """
        ours, theirs = socket.socketpair()
        with ExitStack() as undo:
            undo.callback(ours.close)
            ours.settimeout(ORDER_SECONDS)
            with theirs, self._lock:
                socket.send_fds(self._orders, [ORDER.pack(FORK, 0, max_bytes)], [theirs.fileno()])
                pid = self._result()
            receive_into(ours, memoryview(bytearray(READY)))
            ours.settimeout(ANSWER_SECONDS)
            undo.pop_all()
        return _Decoder(ours, pid, self.end)

    def end(self, pid: int) -> None:
        """Kill a decoder; if the origin has died, the kernel has killed it."""
        try:
            with self._lock:
                self._orders.sendall(ORDER.pack(END, pid, 0))
                self._result()
        except (OSError, EOFError):
            return

    def _result(self) -> int:
        packed = bytearray(RESULT.size)
        receive_into(self._orders, memoryview(packed))
        return int(RESULT.unpack(packed)[0])

    def close(self) -> None:
        """End the origin, which ends its decoders."""
        self._orders.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@cache
def _origins_with(modules: tuple[str, ...]) -> _Origins:
    """Return this process's origin: it takes seconds to import torch, and decoders share what it has imported."""
    return _Origins(modules)
