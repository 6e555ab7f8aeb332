"""A pool of decoder processes, so that a codec that crashes, hangs or takes too much memory cannot harm the worker.

Invariant: `Decoders.prepare` returns a picture or an outcome for any bytes, within `seconds`, whatever the codec does.
A picture that ends its decoder is undecodable, with the reason; other pictures go to other decoders. No decoder
outlives the worker.

A decoder (`workers.download.decoder_process`, in a fork of `dataset.pictures.fork_server`) holds one picture at a time,
so the picture that ended it is known. Bytes go through a socket pair once in each direction.

The pool for models (`dataset.models.decoders`) has the same processes, but takes batches from threads and returns
pixels in shared memory; this one takes single pictures from trio's tasks.

Rejected: several pictures per message (a crash would have several suspects), shared memory (two copies of 55 KB cost
little), a process per picture. Pictures that are kept as received are not decoded at all (`dataset.pictures.headers`).
"""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Self

import trio

from dataset import strict_json
from dataset.pictures import fork_server
from dataset.pictures.fork_server import DECODE_BYTES, END, FORK, ORDER, READY, RESULT
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.image_rules import ImageRules
from workers.download.decoder_process import ANSWER, ASK
from workers.errors import WorkerError

MAX_DECODERS = 8
"""The event loop of one worker fetches for about six decoders."""

DECODE_SECONDS = 20.0
"""The largest allowed PNG takes 4 s on an idle core, an AVIF 10 s."""

ORDER_SECONDS = 30.0
"""Limit for the imports of the fork server and a fork on a busy machine."""

MAX_ANSWER_BYTES = 512 << 20
"""The size of 89 million pixels as PNG; a decoder that announces more has been taken over by an attacker."""

PIPE_BYTES = 256 << 10

RECEIVE_BYTES = 64 << 10
"""A picture of 256 pixels has 31 KB. Python allocates the whole amount, above 128 KB by mmap."""


class DecodingFailed(WorkerError):
    """No decoder can be started on this machine."""


class _Ended(Exception):
    """A decoder has ended."""


class _Lied(_Ended):
    """A decoder has sent something that Shoal's code never sends."""


@dataclass(frozen=True, slots=True)
class Undecoded:
    """The outcome and the reason if a picture could not be decoded."""

    outcome: Outcome
    reason: str | None = None


class Decoders:
    """The decoders of one worker, started on first use. Use as a context manager, or call `close`."""

    def __init__(
        self,
        *,
        limit: int | None = None,
        seconds: float = DECODE_SECONDS,
        max_bytes: int = DECODE_BYTES,
        codec: str = "dataset.pictures.prepare:prepare",
    ) -> None:
        """Run at most `limit` decoders (None: one per core); `codec` is the preparing function, as module:name."""
        self._limit = limit or min(MAX_DECODERS, len(os.sched_getaffinity(0)))
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._codec = codec
        self._fork_server: _ForkServer | None = None
        self._idle: list[_Decoder] = []
        self._in_use = 0
        self._freed = trio.lowlevel.ParkingLot()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all decoders."""
        while self._idle:
            self._idle.pop().close()
        if self._fork_server is not None:
            self._fork_server.close()
            self._fork_server = None

    async def prepare(self, data: bytes, rules: ImageRules) -> Picture | Undecoded:
        """Return the picture decoded, resized and encoded by the rules.

        Raises: DecodingFailed when no decoder can be started.
        """
        while self._in_use >= self._limit:
            await self._freed.park()
        self._in_use += 1
        try:
            while True:
                decoder = await self._take()
                answer = await self._ask(decoder, data, rules)
                if answer is not None:
                    return answer
        finally:
            self._in_use -= 1
            self._freed.unpark()

    async def _ask(self, decoder: "_Decoder", data: bytes, rules: ImageRules) -> Picture | Undecoded | None:
        """Ask a decoder; return None if it ended with the fork server, which is not the picture's fault."""
        is_answered = False
        try:
            with trio.move_on_after(self._seconds):
                answer = await decoder.ask(data, rules)
                is_answered = True
                self._idle.append(decoder)
                return answer
            return Undecoded(Outcome.UNDECODABLE, "codec took too long")
        except _Ended as end:
            code = await decoder.end()
            if code is None:
                return None
            is_out_of_memory = code == -signal.SIGKILL and not isinstance(
                end, _Lied
            )  # killed by the kernel's out-of-memory killer
            return Undecoded(Outcome.UNDECODABLE, "codec took too much memory" if is_out_of_memory else "codec crashed")
        finally:
            if not is_answered:
                await decoder.end()

    async def _take(self) -> "_Decoder":
        while self._idle:
            decoder = self._idle.pop()
            if decoder.is_alive():
                return decoder
            await decoder.end()
        for _ in range(2):  # a killed fork server is replaced
            if self._fork_server is None:
                self._fork_server = _ForkServer(self._codec)
            try:
                return await self._fork_server.fork(self._max_bytes)
            except (OSError, _Ended):
                self._fork_server.close()
                self._fork_server = None
        module = self._codec.partition(":")[0]
        raise DecodingFailed(f"Cannot start a decoder process: run {sys.executable} -c 'import {module}' to see why.")


class _ForkServer:
    """The process that forks decoders."""

    def __init__(self, codec: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                fork_server.command("workers.download.decoder_process:load", codec),
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=fork_server.environment(),
            )
        self._orders = trio.socket.from_stdlib_socket(ours)
        self._lock = trio.Lock()

    async def fork(self, max_bytes: int) -> "_Decoder":
        """Fork a decoder.

        Raises: _Ended, OSError when the fork server has died.
        """
        ours, theirs = socket.socketpair()
        is_made = False
        try:
            with theirs:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, theirs.fileno().to_bytes(4, sys.byteorder))]
                pid = await self._order(ORDER.pack(FORK, 0, max_bytes), rights)
            decoder = _Decoder(self, pid, ours)
            await decoder.begin()
            is_made = True
            return decoder
        finally:
            if not is_made:
                ours.close()

    async def end(self, pid: int) -> int | None:
        """Kill a decoder; return its exit code (negative for a signal), or None if the fork server is gone."""
        try:
            return await self._order(ORDER.pack(END, pid, 0))
        except (OSError, _Ended):
            return None

    async def _order(self, order: bytes, rights: list[tuple[int, int, bytes]] | None = None) -> int:
        with trio.move_on_after(ORDER_SECONDS) as scope:
            scope.shield = True  # an unread answer would be mistaken for the answer to the next request
            async with self._lock:
                await self._orders.sendmsg([order], rights or [])
                result = await self._orders.recv(RESULT.size)
                if len(result) == RESULT.size:
                    return int(RESULT.unpack(result)[0])
        raise _Ended

    def close(self) -> None:
        """End the fork server, which ends its decoders."""
        self._orders.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Decoder:
    """One decoder, and the worker's end of its socket."""

    def __init__(self, fork_server: _ForkServer, pid: int, pipe: socket.socket) -> None:
        self._fork_server = fork_server
        self._pid = pid
        self._pipe = pipe
        self._exit_code: int | None = None
        pipe.setblocking(False)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)

    async def ask(self, data: bytes, rules: ImageRules) -> Picture | Undecoded:
        """Send a picture and return the result.

        Raises: _Ended.
        """
        encoded_rules = _rules_json(rules)
        try:
            await self._send(ASK.pack(len(encoded_rules), len(data)) + encoded_rules, data)
            answer = await self._receive()
        except OSError as error:
            raise _Ended from error
        try:
            return _read_answer(answer)
        except (ValueError, TypeError) as error:
            raise _Lied from error

    async def begin(self) -> None:
        """Wait until the decoder is ready.

        Raises: _Ended.
        """
        with trio.move_on_after(ORDER_SECONDS):
            await trio.lowlevel.wait_readable(self._pipe)
            if self._pipe.recv(len(READY)) == READY:
                return
        raise _Ended

    def is_alive(self) -> bool:
        """Return whether an idle decoder still runs."""
        try:
            self._pipe.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # EOF, or unrequested bytes

    async def _send(self, head: bytes, data: bytes) -> None:
        try:
            sent = self._pipe.sendmsg([head, data])
        except BlockingIOError:
            sent = 0
        whole = len(head) + len(data)
        while sent < whole:
            await trio.lowlevel.wait_writable(self._pipe)
            rest = [memoryview(head)[sent:], memoryview(data)[max(0, sent - len(head)) :]]
            sent += self._pipe.sendmsg(rest)

    async def _receive(self) -> bytearray:
        answer = bytearray()
        size = ANSWER.size
        while len(answer) < size:
            await trio.lowlevel.wait_readable(self._pipe)
            piece = self._pipe.recv(RECEIVE_BYTES)
            if not piece:
                raise _Ended
            answer += piece
            if len(answer) >= ANSWER.size:
                size = ANSWER.size + sum(ANSWER.unpack_from(answer))
                if size > MAX_ANSWER_BYTES:
                    raise _Lied
        return answer

    async def end(self) -> int | None:
        """Kill the decoder; return its exit code, or None if the fork server is gone."""
        if self._pipe.fileno() >= 0:
            self._pipe.close()
            self._exit_code = await self._fork_server.end(self._pid)
        return self._exit_code

    def close(self) -> None:
        self._pipe.close()


def _read_answer(answer: bytearray) -> Picture | Undecoded:
    head_size = ANSWER.unpack_from(answer)[0]
    head = json.loads(answer[ANSWER.size : ANSWER.size + head_size])
    if "outcome" in head:
        return Undecoded(Outcome(head["outcome"]), head.get("reason"))
    return Picture(data=bytes(memoryview(answer)[ANSWER.size + head_size :]), **head)


@lru_cache(maxsize=16)
def _rules_json(rules: ImageRules) -> bytes:
    return strict_json.dumps(rules.to_json()).encode()
