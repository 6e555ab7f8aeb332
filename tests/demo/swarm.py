"""The demo's processes: started as a person would start them, each with its own log; none outlives the demo.

Every process gets a session of its own, so Ctrl-C reaches the demo alone, which then stops them in order; and a mark in
its environment, by which what a demo that was itself killed has left behind is found when the next one starts.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
MARK = "SHOAL_DEMO"  # nobody exports it, so only what a demo has started carries it
GRACE_SECONDS = 12.0  # a download worker closes its shard within 8 seconds
LOG_LINES = 12


class DemoError(Exception):
    """The demo cannot go on; the message is one sentence, or a command's own words."""


@dataclass(slots=True)
class Swarm:
    """The processes of one demo in `home`."""

    home: Path
    environment: Mapping[str, str] = field(init=False)
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = {
            MARK: str(self.home),
            "SHOAL_HOME": str(self.home),
            "SHOAL_STORE": str(self.home / "store"),
            "SHOAL_USER_AGENT": "shoal-demo/0.1 (+http://127.0.0.1/)",
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        self.environment = inherited | settings

    def start(self, name: str, command: Sequence[str], *, one_thread: bool = False) -> None:
        """Start a process that goes on; it says what it does in logs/NAME.log. Its standard input ends when we do."""
        environment = dict(self.environment) | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
        with self.log(name).open("ab") as log:
            self.processes[name] = self._open(command, environment, log, stdin=subprocess.PIPE)

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run a command to its end and return its standard output.

        Raises:
            DemoError: it failed; with what it said.
        """
        with self.log(name).open("ab") as log:
            process = self._open(command, self.environment, log, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.processes[name] = process
        output, _ = process.communicate()
        del self.processes[name]
        if process.returncode != 0:
            raise DemoError(f"{name} failed:\n{self.tail(name) or output.decode(errors='replace')}")
        return output.decode()

    def wait(self, names: Sequence[str]) -> None:
        """Wait until processes have ended well.

        Raises:
            DemoError: one has not.
        """
        for name in names:
            code = self.processes[name].wait()
            self.processes.pop(name)
            if code != 0:
                raise DemoError(f"{name} ended with exit code {code}:\n{self.tail(name)}")

    def ended(self) -> dict[str, int]:
        """Return the exit codes of the processes that have ended."""
        codes = {name: process.poll() for name, process in self.processes.items()}
        return {name: code for name, code in codes.items() if code is not None}

    def stop(self) -> None:
        """Ask every process to stop, last started first; kill what does not."""
        remaining = list(reversed(self.processes.values()))
        for process in remaining:
            _signal(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in remaining:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            _signal(process.pid, signal.SIGKILL)  # the group: what it started itself must not stay either
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self.processes.clear()

    def stop_database(self) -> None:
        """Stop the embedded Postgres, if there is one and it runs."""
        if not (self.home / "postgres").exists():
            return
        command = [str(BIN / "tracker"), "stop"]
        subprocess.run(
            command, env=dict(self.environment), start_new_session=True, check=False, capture_output=True, timeout=60
        )

    def log(self, name: str) -> Path:
        """Name the log of a process."""
        folder = self.home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name.replace(' ', '-')}.log"

    def tail(self, name: str) -> str:
        """Return the last lines of a log."""
        lines = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def _open(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes],
        *,
        stdin: int,
        stdout: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=dict(environment),
            stdin=stdin,
            stdout=log if stdout is None else stdout,
            stderr=log,
            start_new_session=True,
        )


def kill_leftovers(home: Path) -> int:
    """Kill the processes that a demo in `home` has started and not stopped; the number of them.

    Postgres is not among them: it gets no such environment and is stopped in its own way. Without /proc, none is found.
    """
    mark = f"{MARK}={home}".encode()
    killed = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or another user's
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
    return killed


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
