"""Worker processes of one machine that share the units of a publish.

The parent hands out one unit at a time to each process, so it knows at once when one fails or dies. A process ends
itself when its parent is gone; the unit that it was doing has written whole files or nothing.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from dataset.errors import DatasetError
from dataset.publish.errors import PublishError

Function = Callable[..., Any]
Call = tuple[Function, tuple[Any, ...]]


class WorkerPool:
    """Run calls in the pool's processes, or in this process if the pool has none."""

    def __init__(self, processes: Sequence[tuple[BaseProcess, "Connection[Any, Any]"]]) -> None:
        self._processes = {pipe: process for process, pipe in processes}

    def run(self, calls: Sequence[Call]) -> Iterator[tuple[int, Any]]:
        """Yield the position and the result of each call as it ends.

        Raises: PublishError when a process is killed; exceptions of a call pass through, and no further call begins.
        """
        if not self._processes:
            for at, (function, arguments) in enumerate(calls):
                yield at, function(*arguments)
            return
        waiting = iter(enumerate(calls))
        busy: dict[Connection[Any, Any], int] = {}
        for pipe in self._processes:
            self._give(pipe, waiting, busy)
        while busy:
            ready = connection.wait([*busy])
            for pipe in [pipe for pipe in busy if pipe in ready]:
                yield busy.pop(pipe), self._result(pipe)
                self._give(pipe, waiting, busy)

    def _give(
        self, pipe: "Connection[Any, Any]", waiting: Iterator[tuple[int, Call]], busy: dict["Connection[Any, Any]", int]
    ) -> None:
        unit = next(waiting, None)
        if unit is not None:
            busy[pipe] = unit[0]
            pipe.send(unit[1])

    def _result(self, pipe: "Connection[Any, Any]") -> Any:
        try:
            result, error = pipe.recv()
        except (EOFError, OSError) as gone:
            self._processes[pipe].join()
            code = self._processes[pipe].exitcode
            raise PublishError(
                f"A worker process was killed (exit code {code}): if the machine ran out of memory, pass fewer "
                "--workers; call publish again, and it continues where it was."
            ) from gone
        if error is not None:
            raise error
        return result


@contextmanager
def worker_pool(workers: int) -> Iterator[WorkerPool]:
    """Start `workers` processes (none if it is 1); they end with the block."""
    spawn = get_context("spawn")
    processes: list[tuple[BaseProcess, Connection[Any, Any]]] = []
    process: BaseProcess
    try:
        for _ in range(workers if workers > 1 else 0):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            processes.append((process, ours))
        yield WorkerPool(processes)
    finally:
        for process, pipe in processes:
            pipe.close()
            process.terminate()
        for process, _ in processes:
            process.join()


def _serve(pipe: "Connection[Any, Any]") -> None:
    """Run the calls that arrive until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all processes; the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import pyarrow as pa

    pa.set_cpu_count(1)
    # glibc's keeps what units free, and the next one writes to it again: a fifth less CPU time than with mimalloc,
    # which gives memory back and has the kernel clear it again.
    pa.set_memory_pool(pa.system_memory_pool())
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send((function(*arguments), None))
        except DatasetError as error:
            pipe.send((None, error))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
