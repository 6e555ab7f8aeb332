"""The engine's threads, and the bounded queue before them.

Invariant: the cost that waits never exceeds `most_cost` (one expensive task may wait alone), so an accepted request
waits for a bounded time; the others are refused at once, with the time after which it is worth trying again.

Tasks with equal keys that wait at the same time run together: one search for many queries. Nothing waits for company.
Large tasks leave one thread free for small ones, if there are two.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from dataset.search.errors import SearchError
from dataset.search.metrics import Metrics

MOST_TOGETHER = 32
LARGE_COST = 20
"""From 10,000 results on, by `cost_of`."""
MOST_RETRY_SECONDS = 60

Work = Callable[[Sequence[Any]], Sequence[Any]]


def cost_of(results: int) -> int:
    """Return the cost of a query, 1 for the usual page: results cost time only by the thousand."""
    return 1 + results // 500


@dataclass(slots=True)
class _Task:
    work: Work
    item: Any
    key: Hashable | None
    cost: int
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class WorkQueue:
    """`threads` threads that work on tasks, the oldest first."""

    def __init__(self, threads: int, metrics: Metrics, most_cost: int = 256, begin: Callable[[], object] = int) -> None:
        """`begin` is called in each thread first: OpenMP's number of threads is a setting of the thread."""
        self._metrics = metrics
        self._begin = begin
        self._most_cost = most_cost
        self._waiting: deque[_Task] = deque()
        self._waiting_cost = 0
        self._seconds_per_cost = 0.005
        self._large_running = 0
        self._most_large = max(1, threads - 1)
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [threading.Thread(target=self._run, name=f"engine-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Return the cost of the tasks that wait."""
        return self._waiting_cost

    def close(self) -> None:
        """End the threads after what they are doing; tasks that wait are refused."""
        with self._changed:
            self._is_closed = True
            waiting = [*self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        _resolve(waiting, [SearchError(503, "The server is stopping: try again in a minute.") for _ in waiting])
        for thread in self._threads:
            thread.join()

    def submit(self, work: Work, item: Any, *, key: Hashable | None = None, cost: int = 1) -> asyncio.Future[Any]:
        """Let a thread call `work` with this item, and with the items of other tasks with the same key.

        `work` returns one result for each item; a result that is an exception is raised for its task alone.

        Raises: SearchError (429) when too much waits.
        """
        loop = asyncio.get_running_loop()
        task = _Task(work, item, key, cost, loop.create_future(), loop)
        with self._changed:
            if self._waiting and self._waiting_cost + cost > self._most_cost:
                self._metrics.refused.labels("queue").inc()
                raise SearchError(
                    429,
                    "Too many queries are waiting: try again later.",
                    headers={"Retry-After": str(self._retry_seconds())},
                )
            self._waiting.append(task)
            self._add_waiting(cost)
            self._changed.notify()
        return task.future

    def _retry_seconds(self) -> int:
        seconds = self._waiting_cost * self._seconds_per_cost / len(self._threads)
        return max(1, min(MOST_RETRY_SECONDS, math.ceil(seconds)))

    def _add_waiting(self, cost: int) -> None:
        self._waiting_cost += cost
        self._metrics.waiting.set(self._waiting_cost)

    def _run(self) -> None:
        self._begin()
        while tasks := self._take():
            started = perf_counter()
            try:
                results: Sequence[Any] = tasks[0].work([task.item for task in tasks])
            except Exception as error:  # noqa: BLE001 - whatever the work raised belongs to its requests
                results = [error] * len(tasks)
            self._release(tasks, perf_counter() - started)
            _resolve(tasks, results)

    def _take(self) -> list[_Task]:
        """Wait for the oldest task that may run, and take it with those of its key; [] when the queue is closed."""
        with self._changed:
            while True:
                if self._is_closed:
                    return []
                first = next((task for task in self._waiting if self._may_run(task)), None)
                if first is not None:
                    break
                self._changed.wait()
            taken = [first]
            if first.key is not None:
                others = (task for task in self._waiting if task.key == first.key and task is not first)
                taken += [task for task, _ in zip(others, range(MOST_TOGETHER - 1), strict=False)]
            for task in taken:
                self._waiting.remove(task)
            self._add_waiting(-sum(task.cost for task in taken))
            self._large_running += first.cost >= LARGE_COST
            self._metrics.batch.observe(len(taken))
            return [task for task in taken if not task.future.cancelled()] or taken[:1]

    def _may_run(self, task: _Task) -> bool:
        return task.cost < LARGE_COST or self._large_running < self._most_large

    def _release(self, tasks: Sequence[_Task], seconds: float) -> None:
        with self._changed:
            each = seconds / sum(task.cost for task in tasks)
            self._seconds_per_cost += 0.05 * (each - self._seconds_per_cost)
            if tasks[0].cost >= LARGE_COST:
                self._large_running -= 1
                self._changed.notify_all()


def _resolve(tasks: Sequence[_Task], results: Sequence[Any]) -> None:
    """Hand results to the tasks' event loops, which are woken once."""

    def settle(settled: Sequence[tuple[_Task, Any]]) -> None:
        for task, result in settled:
            if task.future.done():
                continue  # the client has gone
            if isinstance(result, BaseException):
                task.future.set_exception(result)
            else:
                task.future.set_result(result)

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Task, Any]]] = {}
    for task, result in zip(tasks, results, strict=True):
        by_loop.setdefault(task.loop, []).append((task, result))
    for loop, settled in by_loop.items():
        loop.call_soon_threadsafe(settle, settled)
