"""Decode pictures for models in separate processes with a bound on their memory, on CPUs and GPUs alike.

Invariant: whatever a picture does to the process that decodes it, each sample gets an answer. If a decoder dies or does
not answer in time, its chunk is tried again one sample at a time, and a sample that ends its decoder again counts as
undecodable. A decoder's answers are data and are never unpickled.

A decoder (`dataset.models.decoder_process`, forked by `dataset.pictures.fork_server`) shares a file in memory with this
process: a chunk's pictures go in, and its pixels come out straight into the batch's memory, each by one system call
without the GIL. Over a socket it took a hundred calls, each of which waited for the GIL again. A file is not mapped
here, so that a decoder that shortens it costs only its chunk.

The download worker has its own pool (`workers.download.decoder_pool`), which runs in trio and encodes pictures; this
one runs in threads and fills batches.

Rejected: shared memory in /dev/shm, because a container has only 64 MB there by default and a process that uses more
dies (a file of memfd_create(2) has no such limit); forking this process, because a process that uses CUDA cannot be
forked.
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
from dataset.models.decoder_process import COUNT, LENGTH, LOST, Task, read_file, receive_into, send, write_file
from dataset.models.inputs import Pixels, Preparation, Tokens
from dataset.models.oldest_first import OldestFirstExecutor
from dataset.pictures import fork_server
from dataset.pictures.fork_server import DECODE_BYTES, END, FORK, ORDER, READY, RESULT

CHUNK_SAMPLES = 32
"""Samples sent to a decoder at once: 60 to 100 ms of work, 5 MB of pixels."""

ANSWER_SECONDS = 300.0
"""Limit for one chunk. The largest picture that download accepts takes four to ten; the rest is for slow machines,
because a sample counts as undecodable after it."""

ORDER_SECONDS = 120.0
"""Limit for the origin's imports, torch among them, and a fork, on a busy machine."""

NICENESS = 5

MAX_ITEM_BYTES = 64 << 20
"""Limit for one item of an answer: a picture's pixels, a thumbnail, or a chunk's tokens. A decoder that announces more
is compromised."""

MAX_FILE_BYTES = 32 << 20
"""A shared file that is larger after a chunk is emptied; others keep their pages. A usual chunk has 1.5 MB of pictures
and 5 MB of pixels."""

MODELS = ("dataset.models.torchvision_shim", "open_clip")
"""Modules that the origin imports, in this order, if decoders prepare a model's input."""

_Chunk = tuple[list[bool], Tokens]


class DecodingFailed(DatasetError):
    """No decoder can be started on this machine."""


class Prepared:
    """A batch in progress; its pictures are written to memory that the caller provides."""

    def __init__(self, chunks: Sequence[Future[_Chunk]]) -> None:
        self._chunks = chunks

    def result(self, timeout: float | None = None) -> _Chunk:
        """Return which of N pictures could be decoded, and the tokens of all texts, (N, context) int32.

        Raises: TimeoutError when a chunk is not finished within `timeout` seconds.
        """
        done = [chunk.result(timeout) for chunk in self._chunks]
        return [is_good for flags, _ in done for is_good in flags], np.concatenate([tokens for _, tokens in done])

    def cancel(self) -> bool:
        """Cancel the chunks that have not been started; return True if none had been."""
        cancelled = [chunk.cancel() for chunk in self._chunks]
        return all(cancelled)


class Decoders:
    """A pool of `processes` decoders, each started when first needed; `modules` are imported before the fork."""

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
        """Return the number of pictures for which `each` gives every decoder one chunk."""
        return self._processes * CHUNK_SAMPLES

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End threads and processes after the work they have started."""
        self._executor.close()
        for _ in range(self._processes):
            if (decoder := self._idle.get()) is not None:
                decoder.close()

    def prepare(self, samples: Sequence[Sample], preparation: Preparation, pixels: Pixels, *, age: int) -> Prepared:
        """Start to prepare a batch into `pixels`, (N, H, W, 3) uint8; of several callers the lowest `age` goes first.

        Raises: in the result, DecodingFailed when no decoder can be started.
        """
        starts = range(0, len(samples), CHUNK_SAMPLES)
        chunks = [
            self._executor.submit(age, self._preparing(preparation, samples[start:end], pixels[start:end]))
            for start, end in ((start, start + CHUNK_SAMPLES) for start in starts)
        ]
        return Prepared(chunks)

    def each(self, task: Task, images: Sequence[bytes]) -> list[bytes | None]:
        """Return the task's result for each picture; None if it is undecodable.

        Raises: DecodingFailed when no decoder can be started.
        """
        starts = range(0, len(images), CHUNK_SAMPLES)
        chunks = [images[start : start + CHUNK_SAMPLES] for start in starts]
        asked = [self._executor.submit(0, lambda some=some: self._each(task, some)) for some in chunks]  # type: ignore[misc]
        return [item for chunk in asked for item in chunk.result()]

    def pixels(self, task: Task, images: Sequence[bytes], shape: tuple[int, int, int]) -> Pixels | None:
        """Return the results of a task that makes (H, W, 3) pixels, as (N, H, W, 3) uint8; None if any picture is
        undecodable.
        """
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
        """Return the result for each picture, and the texts' tokens as bytes; None instead of the tokens if a decoder
        died.
        """
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
        if self._processes > 1:  # one per core: the process that feeds the device has priority
            with suppress(OSError):  # it has ended, which its first picture will show
                os.setpriority(os.PRIO_PROCESS, decoder.pid, min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS))
        return decoder


class _Decoder:
    """A process, the socket to it, and the file shared with it. It ends when the socket is closed, and therefore also
    when this process dies.
    """

    def __init__(self, line: socket.socket, file: int, pid: int, end: Callable[[int], None]) -> None:
        self._socket = line
        self._file = file
        self.pid = pid
        self._end = end
        self._known: list[Task] = []

    def ask(
        self, task: Task, images: Sequence[bytes], texts: Sequence[str], into: Pixels | None
    ) -> tuple[list[bytes | None], bytes]:
        """Run `task` on each picture; its results go into the rows of `into`, if given.

        Raises: OSError, EOFError when the process has died, does not answer, or sends an invalid answer.
        """
        if task not in self._known:
            self._known.append(task)
            send(self._socket, pickle.dumps(task, pickle.HIGHEST_PROTOCOL))
        write_file(self._file, images)
        send(self._socket, (self._known.index(task), [len(image) for image in images], list(texts)))
        count = len(images) + 1
        said = bytearray(COUNT.size + count * LENGTH.size)
        receive_into(self._socket, memoryview(said))
        if COUNT.unpack_from(said) != (count,):
            raise EOFError("the decoder answered for other pictures")
        lengths = [length for (length,) in LENGTH.iter_unpack(memoryview(said)[COUNT.size :])]
        if not all(LOST <= length <= MAX_ITEM_BYTES for length in lengths):
            raise EOFError("the decoder announced too many bytes")
        rows = [None] * len(images) if into is None else list(into)
        places = [_place(length, row) for length, row in zip(lengths, rows, strict=False)]
        tokens = bytearray(max(0, lengths[-1]))
        read_file(self._file, [*(place for place in places if place is not None), tokens])
        if max(sum(lengths), sum(map(len, images))) > MAX_FILE_BYTES:
            os.ftruncate(self._file, 0)
        return [None if place is None else bytes(place) if into is None else b"" for place in places], bytes(tokens)

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        os.close(self._file)
        self._end(self.pid)


def _place(length: int, row: Pixels | None) -> bytearray | memoryview | None:
    """Return the memory for an item of an announced length, `row`'s if given; None if the picture was undecodable.

    Raises: EOFError when the item is no picture of the row's size.
    """
    if length == LOST:
        return None
    if row is None:
        return bytearray(length)
    if length != row.nbytes:
        raise EOFError("the decoder sent a picture of another size")
    return row.reshape(-1).data


class _Origins:
    """The origin of decoders; it is replaced if it was killed."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._modules = modules
        self._lock = threading.Lock()
        self._origin: _Origin | None = _Origin(modules)
        atexit.register(self.close)

    def decoder(self, max_bytes: int) -> _Decoder:
        """Start a decoder.

        Raises: DecodingFailed when that is impossible.
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
        raise DecodingFailed(f"Cannot start a decoder process: python -c 'import {modules}' may show the reason.")

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
            file = os.memfd_create("decoder")
            undo.callback(os.close, file)
            socket.send_fds(ours, [b"F"], [file])
            ours.settimeout(ANSWER_SECONDS)
            undo.pop_all()
        return _Decoder(ours, file, pid, self.end)

    def end(self, pid: int) -> None:
        """Kill a decoder. If the origin has died, the kernel has already killed it."""
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
    """Return this process's origin for these modules. Importing torch takes seconds, so decoders share the imported
    modules.
    """
    return _Origins(modules)
