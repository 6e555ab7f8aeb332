"""Several worker processes under one parent: `worker download --processes N`.

The parent does no work and never connects to the database. It starts the same command N times, forwards its signals,
restarts processes that died, and ends with the last process: with exit code 0, or the first other code. The core of a
download worker is one Python thread, so a machine needs one process per core.

Each child leads its own process group, so Ctrl-C reaches only the parent, which forwards it once; a second signal would
end the child at once instead of draining it. If the parent is killed, its workers continue, and drain and leave as
usual.

A dead process is restarted after a pause, at most MAX_RESTARTS times in a row; after HEALTHY_SECONDS of life the count
starts again. Exit code 1 counts as dead, because the cause (such as a missing database) may go away. Exit code 2
(usage) is not restarted.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

log = logging.getLogger("shoal.worker")

MAX_RESTARTS = 5
"""With pauses of 1 to 16 s, and the minute that each worker waits for its database, this bridges some minutes."""
FIRST_PAUSE_SECONDS = 1.0
HEALTHY_SECONDS = 600.0
USAGE = 2
FORWARDED = (signal.SIGTERM, signal.SIGINT)

PROCESS_VARIABLE = "SHOAL_PROCESS"
"""The number of the child, for its log lines."""


@dataclass(slots=True)
class _Child:
    """One of the N processes, through all its restarts."""

    number: int
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0
    code: int | None = None
    """The final exit code; None while the process runs or waits for its restart."""


Spawn = Callable[[Sequence[str], Mapping[str, str]], subprocess.Popen[bytes]]


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own process group."""
    return subprocess.Popen(command, env=dict(environment), process_group=0)


@dataclass(slots=True)
class Supervisor:
    """Runs each of `commands` in a process and restarts those that die."""

    commands: Sequence[Sequence[str]]
    first_pause_seconds: float = FIRST_PAUSE_SECONDS
    spawn: Spawn = spawn
    _children: list[_Child] = field(default_factory=list)
    _asked: signal.Signals | None = None

    def run(self) -> int:
        """Run until every process has ended; return the exit code."""
        self._children = [_Child(number, command) for number, command in enumerate(self.commands, 1)]
        with _signals() as signals:
            for child in self._children:
                self._start(child)
            while any(child.code is None for child in self._children):
                if select.select([signals], [], [], self._seconds_to_wait())[0]:
                    for number in signals.recv(4_096):
                        self._forward(signal.Signals(number))
                self._check()
        return next((child.code for child in self._children if child.code), 0)

    def _start(self, child: _Child) -> None:
        environment = os.environ | {PROCESS_VARIABLE: str(child.number)}
        child.process = self.spawn(child.command, environment)
        child.started = time.monotonic()

    def _forward(self, number: signal.Signals) -> None:
        if number not in FORWARDED:
            return
        self._asked = number
        log.info("processes.stopping signal=%s", number.name)
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)
            elif child.code is None:
                child.code = 0  # it was waiting for its restart

    def _check(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                child.process = None
                self._ended(child, code, now)
            elif child.process is None and child.code is None and child.due <= now:
                self._start(child)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        """Record the end of a process, and schedule its restart unless it is final."""
        exit_code = 128 - code if code < 0 else code
        if now - child.started >= HEALTHY_SECONDS:
            child.deaths = 0
        if code == 0 or code == USAGE or self._asked is not None or child.deaths >= MAX_RESTARTS:
            child.code = exit_code
            if code:
                log.error("processes.given_up process=%d exit=%d deaths=%d", child.number, exit_code, child.deaths + 1)
            return
        child.due = now + self.first_pause_seconds * 2**child.deaths
        child.deaths += 1
        log.warning("processes.died process=%d exit=%d deaths=%d", child.number, exit_code, child.deaths)

    def _seconds_to_wait(self) -> float:
        due = [child.due for child in self._children if child.process is None and child.code is None]
        return max(0.0, min(due) - time.monotonic()) if due else 3_600.0


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Yield a socket that receives each signal as a byte, so that none is missed between a check and the next wait."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in (*FORWARDED, signal.SIGCHLD)}
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)


WORKER = (sys.executable, "-c", "from workers.main import main; main()")
"""The command `worker` of this installation."""


def own_command(arguments: Sequence[str]) -> list[str]:
    """Return this command for one process; the last of two equal options counts."""
    return [*WORKER, *arguments, "--processes", "1"]


def own_port(port: int | None, environment: Mapping[str, str]) -> int | None:
    """Return the port of this process: process K of several uses the K-th port from `port` on; 0 stays 0."""
    return port + int(environment.get(PROCESS_VARIABLE, "1")) - 1 if port else port


def log_format(environment: Mapping[str, str]) -> str:
    """Return the format of log lines; with several processes they have the process number."""
    number = environment.get(PROCESS_VARIABLE)
    return f"%(asctime)s process={number} %(message)s" if number else "%(asctime)s %(message)s"


def supervise(n: int, arguments: Sequence[str]) -> int:
    """Run this command in `n` processes until all have ended; return the exit code."""
    return Supervisor([own_command(arguments)] * n).run()
