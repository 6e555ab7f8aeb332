"""All stages on one machine: `worker all` runs a process per stage and shows what all of them do.

Each process runs the command that a person would start by hand, under the supervisor of `--processes`: dead processes
are restarted, and a signal reaches each process once. On a terminal the log lines of all stages scroll above one status
line per process; otherwise they go to stderr unchanged.

Embed, index, dedup and tag are not included: they have jobs only after the tracker's command of the same name.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live

from tracker.database.database import database_url
from tracker.settings import Settings
from workers.errors import CannotWork
from workers.runtime.process import check_database_and_store
from workers.runtime.progress_bar import LOOKS_A_SECOND, PROGRESS_VARIABLE, LinesAbove, Status, grid, print_line
from workers.runtime.supervisor import PROCESS_VARIABLE, WORKER, Supervisor, log_format

STAGES = ("extract", "ingest", "download", "filter")


def stage_commands(arguments: Mapping[str, Sequence[str]], downloads: int) -> list[list[str]]:
    """Return the command of each process: one per stage, but `downloads` for download.

    `arguments` has the further arguments of each stage.

    Raises: CannotWork when the packages of the filter are missing.
    """
    if find_spec("torch") is None or find_spec("open_clip") is None:
        raise CannotWork("the filter needs torch and open_clip: install Shoal with its extra [models]")
    processes = {"download": downloads}
    return [[*WORKER, stage, *arguments.get(stage, ())] for stage in STAGES for _ in range(processes.get(stage, 1))]


def run_all(commands: Sequence[Sequence[str]]) -> int:
    """Run a process per command until all have ended; return 0, or the first other exit code.

    Raises: TrackerError, StoreError at once, before any process starts, when the database or store is unusable.
    """
    settings = Settings.from_environment()
    check_database_and_store(settings, database_url(settings))
    console = Console(file=sys.stderr)
    logging.basicConfig(format=log_format(os.environ), handlers=[LinesAbove(console)])
    logging.getLogger("shoal").setLevel(logging.INFO)
    if not console.is_terminal:
        return Supervisor(commands).run()
    screen = _Screen(console)
    with Live(screen, console=console, refresh_per_second=LOOKS_A_SECOND, transient=True, redirect_stdout=False):
        code = Supervisor(commands, spawn=screen.spawn).run()
        screen.join()
    return code


class _Screen:
    """Shows the status that each process sends through a pipe; their log lines are printed above."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._statuses: dict[int, Status] = {}  # by the number of the process
        self._readers: list[threading.Thread] = []

    def __rich__(self) -> RenderableType:
        return grid([status for _, status in sorted(self._statuses.items())])

    def spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process, and read its log lines and status in threads."""
        reading, writing = os.pipe()
        process = subprocess.Popen(
            command,
            env={**environment, PROGRESS_VARIABLE: str(writing)},
            process_group=0,
            pass_fds=(writing,),
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        assert process.stderr is not None
        number = int(environment[PROCESS_VARIABLE])
        self._statuses[number] = Status.of_starting(command[len(WORKER)])
        self._read(self._read_log, process.stderr)
        self._read(self._read_statuses, os.fdopen(reading, "rb"), number)
        return process

    def join(self) -> None:
        """Wait until everything that the processes have written is shown."""
        for reader in self._readers:
            reader.join()

    def _read(self, read: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=read, args=arguments, daemon=True)
        thread.start()
        self._readers.append(thread)

    def _read_log(self, stderr: IO[bytes]) -> None:
        with stderr:
            for line in stderr:
                print_line(self._console, line.decode("utf-8", "replace").rstrip("\n"))

    def _read_statuses(self, pipe: IO[bytes], number: int) -> None:
        with pipe:
            for line in pipe:
                self._statuses[number] = Status(**json.loads(line))
        if number in self._statuses:
            self._statuses[number] = replace(self._statuses[number], starting=False, ended=True, rate=0.0)
