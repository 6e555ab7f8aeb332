"""The server's side of the encoder process: requests in flight, the texts that are known, and a new process for a dead
one.

Invariant: every call returns a vector or raises SearchError; when the process dies, the calls in flight fail with 503
and a new process is started, after a pause that doubles up to `MOST_PAUSE_SECONDS`. Equal texts in flight are embedded
once.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict, dataclass

import numpy as np

from dataset import strict_json
from dataset.models.encoder_wire import FAILED, FRAME, MAX_PAYLOAD_BYTES, PICTURE, TEXT, UNDECODABLE
from dataset.search.engine import Vectors
from dataset.search.errors import SearchError
from dataset.search.metrics import Metrics
from dataset.search.picture_bounds import refusal

PROGRAM = "dataset.models.encoder_process"

KNOWN_TEXTS = 20_000
"""60 MB at 768 dimensions."""
MOST_IN_FLIGHT = 256
MOST_PICTURES = 16
"""A picture of the largest size takes some seconds, and they are decoded one after the other."""
MAX_TEXT_CHARACTERS = 10_000
"""The model reads about 330 of them."""
MOST_PAUSE_SECONDS = 60.0

NO_ENCODER = "This server has no model for texts and pictures: search by id or by vector."


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """The model as a recipe names it; `threads` 0 means torch's default."""

    model: str
    pretrained: str | None
    store: str | None
    device: str | None = None
    threads: int = 0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What the process says about its model."""

    model: str
    sha256: str
    dimensions: int


class Encoder:
    """The encoder process. Call `start` before the rest, and `close` at the end."""

    def __init__(self, options: EncoderOptions, metrics: Metrics, program: str = PROGRAM) -> None:
        """`program` is the module that the process runs."""
        self._options = options
        self._program = program
        self._metrics = metrics
        self._known: OrderedDict[str, Vectors] = OrderedDict()
        self._asked: dict[str, asyncio.Future[Vectors]] = {}
        self._in_flight: dict[int, asyncio.Future[Vectors]] = {}
        self._pictures = 0
        self.number = 0
        """Requests to the process so far."""
        self.came_up = asyncio.Event()
        """Set while the process has its model."""
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self.loaded: LoadedModel | None = None

    @property
    def is_up(self) -> bool:
        """Return whether the process has loaded its model and lives."""
        return self._writer is not None

    @property
    def pid(self) -> int | None:
        """Return the process's id."""
        return self._process.pid if self._process else None

    async def start(self) -> LoadedModel:
        """Start the process and wait until it has loaded the model.

        Raises: SearchError (503) when it cannot be loaded.
        """
        reader = await self._spawn()
        self._reading = asyncio.create_task(self._read(reader))
        assert self.loaded is not None
        return self.loaded

    async def close(self) -> None:
        """End the process."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        await self._drop("The server is stopping: try again in a minute.")

    async def text(self, text: str) -> Vectors:
        """Return the embedding of a text, (D,) float32, a unit row.

        Raises: SearchError: 400 for a text that is too long, 429 and 503.
        """
        if len(text) > MAX_TEXT_CHARACTERS:
            raise SearchError(400, f"The text has {len(text)} characters: {MAX_TEXT_CHARACTERS} are allowed.")
        if (known := self._known.get(text)) is not None:
            self._known.move_to_end(text)
            self._metrics.text_cache.labels("hit").inc()
            return known
        if (asked := self._asked.get(text)) is not None:
            return await asyncio.shield(asked)
        self._metrics.text_cache.labels("miss").inc()
        future = self._send(TEXT, text.encode("utf-8", "replace"))
        self._asked[text] = future
        future.add_done_callback(lambda done: self._settle(text, done))
        with self._metrics.timed("text_clip_inference_time"):
            return await asyncio.shield(future)

    async def picture(self, data: bytes) -> Vectors:
        """Return the embedding of a picture as received, (D,) float32, a unit row.

        Raises: SearchError: 422 for a picture that cannot be decoded, 429 and 503.
        """
        if (refused := refusal(data)) is not None:
            raise SearchError(422, f"The picture cannot be used: {refused[1]}.", field="picture")
        if self._pictures >= MOST_PICTURES:
            self._metrics.refused.labels("encoder").inc()
            raise SearchError(429, "Too many pictures wait: try again later.", headers={"Retry-After": "10"})
        self._pictures += 1
        try:
            with self._metrics.timed("image_clip_inference_time"):
                return await self._send(PICTURE, data)
        finally:
            self._pictures -= 1

    def _settle(self, text: str, done: "asyncio.Future[Vectors]") -> None:
        self._asked.pop(text, None)
        if done.cancelled() or done.exception() is not None:
            return
        self._known[text] = done.result()
        if len(self._known) > KNOWN_TEXTS:
            self._known.popitem(last=False)

    def _send(self, kind: bytes, payload: bytes) -> "asyncio.Future[Vectors]":
        if self._writer is None:
            raise SearchError(503, "The model is being loaded: try again in 10 s.", headers={"Retry-After": "10"})
        if len(self._in_flight) >= MOST_IN_FLIGHT:
            self._metrics.refused.labels("encoder").inc()
            raise SearchError(429, "Too many texts and pictures wait: try again later.", headers={"Retry-After": "5"})
        self.number += 1
        future: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._in_flight[self.number] = future
        self._writer.write(FRAME.pack(self.number, kind, len(payload)) + payload)
        return future

    async def _spawn(self) -> asyncio.StreamReader:
        ours, theirs = socket.socketpair()
        arguments = strict_json.dumps(asdict(self._options))
        with theirs:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - takes milliseconds
                [sys.executable, "-P", "-m", self._program, arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            _, kind, payload = await _frame(reader)
        except (EOFError, OSError) as error:
            writer.close()
            await self._drop("")
            raise SearchError(503, "The encoder process ended before it had loaded its model.") from error
        if kind == FAILED:
            writer.close()
            await self._drop("")
            raise SearchError(503, payload.decode("utf-8", "replace"))
        self.loaded = LoadedModel(**json.loads(payload))
        self._writer = writer
        self.came_up.set()
        return reader

    async def _read(self, reader: asyncio.StreamReader) -> None:
        pause = 1.0
        while True:
            with suppress(EOFError, OSError):
                while True:
                    number, kind, payload = await _frame(reader)
                    pause = 1.0
                    self._answer(self._in_flight.pop(number, None), kind, payload)
            await self._drop("The model's process has ended: try again in 30 s.")
            while not self.is_up:
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_PAUSE_SECONDS)
                with suppress(SearchError):
                    reader = await self._spawn()

    @staticmethod
    def _answer(future: "asyncio.Future[Vectors] | None", kind: bytes, payload: bytes) -> None:
        if future is None or future.done():
            return
        if kind == FAILED:
            future.set_exception(SearchError(503, f"The model failed ({payload.decode('utf-8', 'replace')})."))
        elif kind == UNDECODABLE:
            future.set_exception(
                SearchError(422, "The picture cannot be decoded: give a JPEG, PNG, WebP, GIF or AVIF.")
            )
        else:
            future.set_result(np.frombuffer(payload, "<f4"))

    async def _drop(self, reason: str) -> None:
        """Forget the process, and fail what is in flight."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self.came_up.clear()
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
            self._process = None
        for future in self._in_flight.values():
            if not future.done():
                future.set_exception(SearchError(503, reason, headers={"Retry-After": "30"}))
                future.exception()  # nobody may be waiting any more
        self._in_flight.clear()


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    number, kind, size = FRAME.unpack(await reader.readexactly(FRAME.size))
    if size > MAX_PAYLOAD_BYTES:
        raise OSError("a frame over its limit")
    return number, kind, await reader.readexactly(size)
