"""`worker fetcher`: the guarded fetcher as a process of its own, for the search server's pictures by URL.

Invariant: this process alone talks to strangers, and it knows no index, no store and no database. A URL gets the same
checks as in a download: each hop's addresses are public, bytes and time are bounded. Nothing is decoded; the size in
the picture's header is checked.

The socket has mode 0600, so only processes of the same user can connect. A client that closes its connection cancels
its request.
"""

import errno
import json
import logging
import os
import signal
import socket
import stat
from contextlib import suppress
from pathlib import Path

import trio

from dataset import strict_json
from dataset.pictures.outcomes import Outcome
from dataset.search.fetcher_wire import ANSWER, ANSWER_SECONDS, MAX_REQUEST_BYTES, REQUEST
from dataset.search.picture_bounds import refusal
from workers.errors import CannotWork
from workers.fetching.fetch import Failure, Fetched, Fetcher
from workers.fetching.policy import FetchPolicy

log = logging.getLogger("shoal.worker")

REQUEST_SECONDS = 5.0
"""For the arrival of a request."""

MOST_CONNECTIONS = 256
"""Further clients wait in the socket's backlog."""


async def serve_fetcher(listening: socket.socket, policy: FetchPolicy) -> None:
    """Answer requests on a listening Unix socket until cancelled."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    at_once = trio.CapacityLimiter(policy.concurrency)
    places = trio.Semaphore(MOST_CONNECTIONS)
    async with listener, Fetcher(policy) as fetcher, trio.open_nursery() as nursery:
        while True:
            await places.acquire()
            stream = await listener.accept()
            nursery.start_soon(_serve_one, stream, fetcher, at_once, places)


async def _serve_one(
    stream: trio.SocketStream, fetcher: Fetcher, at_once: trio.CapacityLimiter, places: trio.Semaphore
) -> None:
    try:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await _answer_one(stream, fetcher, at_once)
    finally:
        places.release()


async def _answer_one(stream: trio.SocketStream, fetcher: Fetcher, at_once: trio.CapacityLimiter) -> None:
    with trio.move_on_after(REQUEST_SECONDS) as asking:
        url = await _receive_url(stream)
    if asking.cancelled_caught or url is None:
        return
    head, picture = {"outcome": Outcome.TIMEOUT.value, "reason": "the fetcher is busy"}, b""
    with trio.move_on_after(ANSWER_SECONDS - REQUEST_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_closed, stream, nursery.cancel_scope)
            async with at_once:
                with fetcher.share() as share:
                    head, picture = judge(await fetcher.fetch(url, share))
            nursery.cancel_scope.cancel()
    packed = strict_json.dumps(head).encode("utf-8")
    with trio.move_on_after(REQUEST_SECONDS):
        await stream.send_all(ANSWER.pack(len(packed), len(picture)) + packed + picture)


def judge(result: Fetched | Failure) -> tuple[dict[str, str], bytes]:
    """Return the head of the answer for a fetch, and the picture if it may be decoded."""
    if isinstance(result, Failure):
        return {"outcome": result.outcome.value, "reason": result.reason}, b""
    if (refused := refusal(result.data)) is not None:
        return {"outcome": refused[0].value, "reason": refused[1]}, b""
    return {"outcome": Outcome.SUCCESS.value, "reason": ""}, result.data


async def _receive_url(stream: trio.SocketStream) -> str | None:
    """Return the URL of a request; None if the client says anything else."""
    head = await _receive(stream, REQUEST.size)
    if head is None or (size := REQUEST.unpack(head)[0]) > MAX_REQUEST_BYTES:
        return None
    body = await _receive(stream, size)
    try:
        asked = json.loads(body or b"")
    except ValueError:
        return None
    url = asked.get("url") if isinstance(asked, dict) else None
    return url if isinstance(url, str) else None


async def _receive(stream: trio.SocketStream, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        received = await stream.receive_some(size - len(data))
        if not received:
            return None
        data += received
    return data


async def _cancel_when_closed(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(1024):
            pass  # a client says nothing more
    scope.cancel()


def listen(path: Path) -> socket.socket:
    """Listen on a Unix socket; one that a killed fetcher left behind is replaced.

    Raises: CannotWork when the path is taken by another file or a living fetcher, or cannot be made.
    """
    if path.exists():
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise CannotWork(f"{path} is not a socket: give --socket another path")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except OSError as error:
                if error.errno != errno.ECONNREFUSED:
                    raise CannotWork(f"{path} cannot be used ({error.strerror}): give --socket another path") from error
            else:
                raise CannotWork(f"another fetcher listens on {path}: end it, or give --socket another path")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
        listening.listen(MOST_CONNECTIONS)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise CannotWork(f"cannot listen on {path} ({reason}): give --socket a path of at most 107 bytes") from error
    finally:
        os.umask(before)
    return listening


def run_fetcher(path: Path, policy: FetchPolicy) -> None:
    """Serve until SIGTERM or Ctrl-C, then remove the socket.

    Raises: CannotWork when the socket cannot be made.
    """
    listening = listen(path)
    log.info("fetcher.listening socket=%s", path)
    try:
        trio.run(_until_signal, listening, policy)
    finally:
        path.unlink(missing_ok=True)


async def _until_signal(listening: socket.socket, policy: FetchPolicy) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_fetcher, listening, policy)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
