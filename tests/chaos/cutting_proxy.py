"""A proxy before Postgres or pgbouncer that cuts connections at critical moments.

A cut waits for the next request that contains its needle:

    request     half of the request is let through, then both sides are cut: a COPY that breaks off
    flight      the request is let through, and both sides are cut at once: nobody knows whether it was committed
    reply       the request is let through, its reply is read up to Postgres's "ready", and thrown away: outside a
                transaction it was committed, and the worker does not know
    silence     the request is let through and its reply is not; neither side is cut for SILENT_SECONDS

and `cut_any` cuts a connection whatever it does.
"""

import asyncio
import random
import re
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16
# ReadyForQuery, and then one byte: https://www.postgresql.org/docs/current/protocol-message-formats.html
READY = b"Z\x00\x00\x00\x05"
SILENT_SECONDS = 6.0
VERB = re.compile(rb"tracker\.(\w+)\s*\(|(COPY|COMMIT|BEGIN)")


@dataclass(frozen=True, slots=True)
class Cut:
    where: str
    needle: bytes


@dataclass(eq=False, slots=True)
class _Pair:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallowing: bool = False
    is_ready_the_end: bool = False
    held: bytearray = field(default_factory=bytearray)

    def cut(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


class CuttingProxy:
    """Listens on 127.0.0.1:`port`; `target` is (host, port) or the path of a Unix socket."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.port = 0
        self.done: Counter[tuple[str, str]] = Counter()
        """Cuts by where and by verb."""
        self._target = target
        self._cuts: list[Cut] = []
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        opened = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(opened,), daemon=True)
        self._thread.start()
        opened.wait()

    def arm(self, cut: Cut) -> None:
        """Cut the next request that contains the needle."""
        self._loop.call_soon_threadsafe(self._cuts.append, cut)

    @property
    def armed(self) -> int:
        return len(self._cuts)

    def disarm(self) -> None:
        self._loop.call_soon_threadsafe(self._cuts.clear)

    def cut_any(self, choice: random.Random) -> bool:
        """Cut one of the open connections; return False if none is open."""

        async def cut() -> bool:
            pairs = sorted(self._pairs, key=id)
            if pairs:
                choice.choice(pairs).cut()
            return bool(pairs)

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, opened: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512))
        self.port = server.sockets[0].getsockname()[1]
        opened.set()
        self._loop.run_forever()
        server.close()
        for pair in self._pairs:
            pair.cut()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if isinstance(self._target, str):
                answers, server = await asyncio.open_unix_connection(self._target)
            else:
                answers, server = await asyncio.open_connection(*self._target)
        except OSError:
            client.transport.abort()
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._to_server(reader, pair), self._to_client(answers, pair))
        finally:
            self._pairs.discard(pair)
            pair.cut()

    async def _to_server(self, reader: asyncio.StreamReader, pair: _Pair) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                cut = next((cut for cut in self._cuts if cut.needle in data), None)
                if cut is None:
                    pair.server.write(data)
                    await pair.server.drain()
                    continue
                self._cuts.remove(cut)
                self.done[cut.where, _verb(data)] += 1
                pair.swallowing = cut.where in ("reply", "silence")
                pair.is_ready_the_end = cut.where == "reply"
                pair.server.write(data[: len(data) // 2] if cut.where == "request" else data)
                await pair.server.drain()
                if cut.where == "silence":
                    await asyncio.sleep(SILENT_SECONDS)
                if cut.where != "reply":
                    pair.cut()
                    return
        pair.cut()

    async def _to_client(self, answers: asyncio.StreamReader, pair: _Pair) -> None:
        with suppress(OSError):
            while data := await answers.read(CHUNK_BYTES):
                if pair.swallowing:
                    pair.held = (pair.held + data)[-len(READY) - 1 :]
                    if pair.held.startswith(READY) and pair.is_ready_the_end:
                        break
                    continue
                pair.client.write(data)
                await pair.client.drain()
        pair.cut()


def _verb(data: bytes) -> str:
    found = VERB.search(data)
    return (found[1] or found[2]).decode() if found else "COPY data"
