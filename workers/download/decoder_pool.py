"""Decoding where a codec's crash, hang or hunger cannot take the worker along.

Invariant: `Decoders.prepare` gives a picture or an outcome for any bytes, within `seconds`, whatever becomes of the
codec. The picture on which a decoder ended is undecodable, with the reason; every other one gets its turn with another
decoder. No decoder outlives the worker.

A decoder (`workers.download.decoder_process`, in a fork of `dataset.pictures.fork_server`) holds one picture at a time,
so it is certain on which it ended. Bytes go through a socket pair once each way.

The models' decoders (`dataset.models.decoders`) are a pool of their own: they take batches for threads, and answer with
pixels in the batch's memory; these take single pictures for trio's tasks. The processes are the same.

Measured, resized to 256: a picture of the whole download takes 3.4 to 3.6 ms of CPU instead of 3.2 in the worker's own
thread, in separate runs, and 0.3 to 0.6 ms more than it where two cores are overloaded; the worker uses all its cores
instead of one. Starting takes 0.25 s of CPU a worker, a fork 10 ms.

Rejected: several pictures to a message (a crash then has several suspects), shared memory (two copies of 55 KB are not
what costs), a process for each picture.

What is kept as received is not decoded at all (`dataset.pictures.headers`), and needs none of this.
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
from dataset.pictures.headers import Picture
from dataset.pictures.outcomes import Outcome
from dataset.recipe.image_rules import ImageRules
from workers.download.decoder_process import ANSWER, ASK
from workers.errors import WorkerError

MAX_DECODERS = 8
"""One worker's event loop fetches for about six."""

DECODE_SECONDS = 20.0
"""The largest PNG that the rules allow takes 4, an AVIF 10, on a core of its own."""

ORDER_SECONDS = 30.0
"""For the origin's imports and a fork, on a machine that is busy with other things."""

MAX_ANSWER_BYTES = 512 << 20
"""89 million pixels as PNG; a decoder that says more is none of ours any more."""

PIPE_BYTES = 256 << 10

RECEIVE_BYTES = 64 << 10
"""A picture of 256 pixels has 31 KB; Python takes memory for all that may come, above 128 KB from the kernel."""


class DecodingFailed(WorkerError):
    """No decoder can be started here."""


class _Ended(Exception):  # a decoder's end, on its way up
    pass


class _Lied(_Ended):  # it lives, and says what no decoder of ours would say
    pass


@dataclass(frozen=True, slots=True)
class Undecoded:
    """Why there is no picture."""

    outcome: Outcome
    reason: str | None = None


class Decoders:
    """The decoders of one worker, started when they are first needed. Use as a `with` block, or `close` it."""

    def __init__(
        self,
        *,
        limit: int | None = None,
        seconds: float = DECODE_SECONDS,
        max_bytes: int = DECODE_BYTES,
        codec: str = "dataset.pictures.prepare:prepare",
    ) -> None:
        """At most `limit` at once (None: one a core); `codec` is the function that prepares, as module:name."""
        self._limit = limit or min(MAX_DECODERS, len(os.sched_getaffinity(0)))
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._codec = codec
        self._origin: _Origin | None = None
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
        if self._origin is not None:
            self._origin.close()
            self._origin = None

    async def prepare(self, data: bytes, rules: ImageRules) -> Picture | Undecoded:
        """Have a picture decoded, resized and encoded by the rules.

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
        """Ask a decoder; None when it was ended together with the origin, which is no picture's fault."""
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
            is_hungry = code == -signal.SIGKILL and not isinstance(end, _Lied)  # the kernel was out of memory
            return Undecoded(Outcome.UNDECODABLE, "codec took too much memory" if is_hungry else "codec crashed")
        finally:
            if not is_answered:
                await decoder.end()

    async def _take(self) -> "_Decoder":
        while self._idle:
            decoder = self._idle.pop()
            if decoder.is_alive():
                return decoder
            await decoder.end()
        for _ in range(2):  # an origin that was killed is replaced
            if self._origin is None:
                self._origin = _Origin(self._codec)
            try:
                return await self._origin.fork(self._max_bytes)
            except (OSError, _Ended):
                self._origin.close()
                self._origin = None
        module = self._codec.partition(":")[0]
        raise DecodingFailed(
            f"The process that decodes cannot be started: {sys.executable} -c 'import {module}' may tell why."
        )


class _Origin:
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
        """Make a decoder.

        Raises: _Ended, OSError when the origin has died.
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
        """Kill a decoder; return its exit code, negative for a signal, None when the origin has ended it."""
        try:
            return await self._order(ORDER.pack(END, pid, 0))
        except (OSError, _Ended):
            return None

    async def _order(self, order: bytes, rights: list[tuple[int, int, bytes]] | None = None) -> int:
        with trio.move_on_after(ORDER_SECONDS) as scope:
            scope.shield = True  # an answer that nobody waits for would be taken for the next one's
            async with self._lock:
                await self._orders.sendmsg([order], rights or [])
                result = await self._orders.recv(RESULT.size)
                if len(result) == RESULT.size:
                    return int(RESULT.unpack(result)[0])
        raise _Ended

    def close(self) -> None:
        """End the origin, which ends its decoders."""
        self._orders.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class _Decoder:
    """One decoder, and our end of its socket."""

    def __init__(self, origin: _Origin, pid: int, pipe: socket.socket) -> None:
        self._origin = origin
        self._pid = pid
        self._pipe = pipe
        self._exit_code: int | None = None
        pipe.setblocking(False)
        pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIPE_BYTES)

    async def ask(self, data: bytes, rules: ImageRules) -> Picture | Undecoded:
        """Send a picture and receive what became of it.

        Raises: _Ended.
        """
        terms = _terms(rules)
        try:
            await self._send(ASK.pack(len(terms), len(data)) + terms, data)
            answer = await self._receive()
        except OSError as error:
            raise _Ended from error
        try:
            return _read_answer(answer)
        except (ValueError, TypeError) as error:
            raise _Lied from error

    async def begin(self) -> None:
        """Wait until it is ready.

        Raises: _Ended.
        """
        with trio.move_on_after(ORDER_SECONDS):
            await trio.lowlevel.wait_readable(self._pipe)
            if self._pipe.recv(len(READY)) == READY:
                return
        raise _Ended

    def is_alive(self) -> bool:
        """Say whether an idle decoder is there still."""
        try:
            self._pipe.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # an end, or a word that nobody asked for

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
        """Kill it; return its exit code, None when the origin has ended it."""
        if self._pipe.fileno() >= 0:
            self._pipe.close()
            self._exit_code = await self._origin.end(self._pid)
        return self._exit_code

    def close(self) -> None:
        self._pipe.close()


def _read_answer(answer: bytearray) -> Picture | Undecoded:
    said_size = ANSWER.unpack_from(answer)[0]
    said = json.loads(answer[ANSWER.size : ANSWER.size + said_size])
    if "outcome" in said:
        return Undecoded(Outcome(said["outcome"]), said.get("reason"))
    return Picture(data=bytes(memoryview(answer)[ANSWER.size + said_size :]), **said)


@lru_cache(maxsize=16)
def _terms(rules: ImageRules) -> bytes:
    return strict_json.dumps(rules.to_json()).encode()
