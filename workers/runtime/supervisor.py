"""Several worker processes under one parent: `worker download --processes N`.

The parent does no work and knows no database. It starts the same command N times, passes on the signals that it gets,
starts a process again that died, and ends when the last one has ended: with 0 if all ended well, else with the first
bad code. A download worker is one thread of Python at its core, so a machine needs a process a core.

Each child is the leader of its own process group: Ctrl-C at a terminal reaches the parent alone, which passes it on
once. A second signal would end the child at once and not drain it. A parent that is killed leaves workers behind that
work on, drain and leave as any other.

What died is started again after a pause, at most MAX_RESTARTS times in a row; a process that has lived for
HEALTHY_SECONDS begins to count anew. A worker that says why it cannot work (exit 1) counts as dead too: what it lacked
may be back. One that was called wrongly (exit 2) is not started again.
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
"""With the pauses of 1 to 16 s and the minute that a worker waits for its database: some minutes of outage."""
FIRST_PAUSE_SECONDS = 1.0
HEALTHY_SECONDS = 600.0
USAGE = 2
PASSED_ON = (signal.SIGTERM, signal.SIGINT)

PROCESS_VARIABLE = "SHOAL_PROCESS"
"""The child's number, for its log lines."""


@dataclass(slots=True)
class _Place:
    """One of the N: its process, and how often in a row it died."""

    number: int
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0
    code: int | None = None
    """How the place ended for good; None while it is held or waits to be."""


Spawn = Callable[[Sequence[str], Mapping[str, str]], subprocess.Popen[bytes]]


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process as the leader of a process group of its own."""
    return subprocess.Popen(command, env=dict(environment), process_group=0)


@dataclass(slots=True)
class Supervisor:
    """Runs each of `commands` in a process. Tests set a shorter `first_pause_seconds`."""

    commands: Sequence[Sequence[str]]
    first_pause_seconds: float = FIRST_PAUSE_SECONDS
    spawn: Spawn = spawn
    _places: list[_Place] = field(default_factory=list)
    _asked: signal.Signals | None = None

    def run(self) -> int:
        """Work until every process has ended; the exit code."""
        self._places = [_Place(number, command) for number, command in enumerate(self.commands, 1)]
        with _signals() as signals:
            for place in self._places:
                self._start(place)
            while any(place.code is None for place in self._places):
                if select.select([signals], [], [], self._seconds_to_wait())[0]:
                    for number in signals.recv(4_096):
                        self._pass_on(signal.Signals(number))
                self._look()
        return next((place.code for place in self._places if place.code), 0)

    def _start(self, place: _Place) -> None:
        environment = os.environ | {PROCESS_VARIABLE: str(place.number)}
        place.process = self.spawn(place.command, environment)
        place.started = time.monotonic()

    def _pass_on(self, number: signal.Signals) -> None:
        if number not in PASSED_ON:
            return
        self._asked = number
        log.info("processes.stopping signal=%s", number.name)
        for place in self._places:
            if place.process is not None:
                place.process.send_signal(number)
            elif place.code is None:
                place.code = 0  # it was to be started again

    def _look(self) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.process is not None and (code := place.process.poll()) is not None:
                place.process = None
                self._ended(place, code, now)
            elif place.process is None and place.code is None and place.due <= now:
                self._start(place)

    def _ended(self, place: _Place, code: int, now: float) -> None:
        """Note how a process ended: for good, or to be started again."""
        exit_code = 128 - code if code < 0 else code
        if now - place.started >= HEALTHY_SECONDS:
            place.deaths = 0
        if code == 0 or code == USAGE or self._asked is not None or place.deaths >= MAX_RESTARTS:
            place.code = exit_code
            if code:
                log.error("processes.given_up process=%d exit=%d deaths=%d", place.number, exit_code, place.deaths + 1)
            return
        place.due = now + self.first_pause_seconds * 2**place.deaths
        place.deaths += 1
        log.warning("processes.died process=%d exit=%d deaths=%d", place.number, exit_code, place.deaths)

    def _seconds_to_wait(self) -> float:
        due = [place.due for place in self._places if place.process is None and place.code is None]
        return max(0.0, min(due) - time.monotonic()) if due else 3_600.0


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Give a socket on which each signal comes as a byte, also one that comes between a look and the next sleep."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in (*PASSED_ON, signal.SIGCHLD)}
        before = signal.set_wakeup_fd(theirs.fileno())
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(before)
            for number, handler in handlers.items():
                signal.signal(number, handler)


WORKER = (sys.executable, "-c", "from workers.main import main; main()")
"""The command `worker`, of this very installation."""


def own_command(arguments: Sequence[str]) -> list[str]:
    """This very command for one process: of an option given twice, the last one counts."""
    return [*WORKER, *arguments, "--processes", "1"]


def own_port(port: int | None, environment: Mapping[str, str]) -> int | None:
    """Of several processes that are told one port, the K-th takes the K-th from there; 0 is any free one for each."""
    return port + int(environment.get(PROCESS_VARIABLE, "1")) - 1 if port else port


def log_format(environment: Mapping[str, str]) -> str:
    """The format of log lines; one of several processes says which it is."""
    number = environment.get(PROCESS_VARIABLE)
    return f"%(asctime)s process={number} %(message)s" if number else "%(asctime)s %(message)s"


def supervise(n: int, arguments: Sequence[str]) -> int:
    """Run this command in `n` processes until they have ended; the exit code."""
    return Supervisor([own_command(arguments)] * n).run()
