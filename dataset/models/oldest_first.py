"""Threads that serve the oldest shard first.

Several shards are worked on at once, so that the next one is ready when one ends. Served in turn they would all end
together, and the device would wait while they are all written; served by age, the younger ones fill only the gaps.
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
"""Between two looks at whether to stop: what waits for its turn may wait for minutes."""


class Awaited(Protocol, Generic[T_co]):
    """What is under way; `Future` is one."""

    def result(self, timeout: float | None = None) -> T_co:
        """Raises: TimeoutError when it is not there in time."""

    def cancel(self) -> bool:
        """Give it up."""


class OldestFirstExecutor:
    """An executor of `threads` threads; of what waits, the lowest `age` goes first, then what came first."""

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = count()

    def submit(self, age: int, work: Callable[[], T]) -> Future[T]:
        """Have `work` called in one of the threads."""
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)

        with self._lock:
            heapq.heappush(self._waiting, (age, next(self._numbers), do))
        self._threads.submit(self._next)
        return future

    def close(self) -> None:
        """End the threads when what runs has ended; what waits is dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _next(self) -> None:
        with self._lock:
            _, _, do = heapq.heappop(self._waiting)
        do()


def prefetch(started: Iterable[Awaited[T]], depth: int, while_waiting: Callable[[], None]) -> Iterator[T]:
    """Yield the results in order, with up to `depth` more of them started than were asked for.

    `while_waiting` is called twice a second; what it raises ends the waiting, and what was started is given up.
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
