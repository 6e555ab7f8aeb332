"""An executor that serves the oldest shard first.

Several shards are in progress at once, so that the next one is ready when one ends. If they were served in turn, all
would end together, and the device would be idle while they are written. If the oldest is served first, younger shards
only fill the gaps.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

WAIT_SECONDS = 0.5
"""Interval between calls of `while_waiting`: waiting may take minutes, and a caller may want to stop."""


class Awaited(Protocol, Generic[T_co]):
    """Something in progress, such as a `Future`."""

    def result(self, timeout: float | None = None) -> T_co:
        """Return the result.

        Raises: TimeoutError when it is not finished within `timeout` seconds.
        """

    def cancel(self) -> bool:
        """Cancel it."""


class OldestFirstExecutor:
    """An executor of `threads` threads; work with the lowest `age` goes first, then what was submitted first."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()

    def submit(self, age: int, work: Callable[[], T]) -> Future[T]:
        """Run `work` in one of the threads."""
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - raised again by result()
                future.set_exception(error)

        with self._lock:
            heapq.heappush(self._waiting, (age, next(self._numbers), do))
        self._threads.submit(self._next)
        return future

    def close(self) -> None:
        """Wait for running work, cancel waiting work, and end the threads."""
        self._threads.shutdown(cancel_futures=True)

    def _next(self) -> None:
        with self._lock:
            _, _, do = heapq.heappop(self._waiting)
        do()


def prefetch(started: Iterable[Awaited[T]], depth: int, while_waiting: Callable[[], None]) -> Iterator[T]:
    """Yield the results of `started` in order, keeping up to `depth` more items started than were requested.

    `while_waiting` is called twice a second; an exception that it raises ends the iteration, and started items are
    cancelled.
    """
    under_way: deque[Awaited[T]] = deque()
    try:
        for one in started:
            under_way.append(one)
            if len(under_way) > depth:
                yield _wait(under_way.popleft(), while_waiting)
        while under_way:
            yield _wait(under_way.popleft(), while_waiting)
    finally:
        for one in under_way:
            one.cancel()


def _wait(one: Awaited[T], while_waiting: Callable[[], None]) -> T:
    while True:
        try:
            return one.result(WAIT_SECONDS)
        except TimeoutError:
            while_waiting()
