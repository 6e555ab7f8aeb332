"""The process from which the workers of the chaos run are forked, after it has imported everything once.

Workers are killed every second, and must not repeat their imports (torch: 3 s of CPU) each time. A fork runs the
command `worker` or `tracker` with its arguments, as a shell would start it.

    python -m tests.chaos.nursery     # with a socket as its stdin; one JSON a line, each way

The kernel kills the forks when the nursery ends, and the nursery ends with its socket.
"""

import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)
MODULES = ("tracker.main", "workers.main", "workers.download.stage", "workers.filter", "tests.chaos.sick_store")


class Nursery:
    """The client of the nursery."""

    def __init__(self, environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.nursery"],
                stdin=theirs.fileno(),
                env=environment,
                start_new_session=True,
            )
        self._socket = ours
        self._lines = ours.makefile("r")

    def start(self, program: str, arguments: Sequence[str], log: Path) -> int:
        """Start `worker` or `tracker`; return its process id. Its output is appended to `log`."""
        return int(self._ask({"program": program, "arguments": list(arguments), "log": str(log)})["pid"])

    def ended(self) -> dict[int, int]:
        """Return the processes that have ended since the last call: exit codes by process id, negative for a signal."""
        return {int(pid): int(code) for pid, code in self._ask({})["ended"].items()}

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
        self._process.wait(30)

    def _ask(self, order: dict[str, object]) -> dict[str, Any]:
        self._socket.sendall(json.dumps(order).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the nursery has ended: see what it said above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # or the first collection in a fork copies every page
    orders = socket.socket(fileno=os.dup(0))
    for line in orders.makefile("r"):
        order = json.loads(line)
        if order:
            pid = os.fork()
            if not pid:
                orders.close()
                _live(order)
            answer: dict[str, object] = {"pid": pid}
        else:
            answer = {"ended": dict(_reaped())}
        orders.sendall(json.dumps(answer).encode() + b"\n")


def _reaped() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))


def _live(order: dict[str, object]) -> None:
    """Run the worker; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        random.seed()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.register(signal.SIGUSR1)  # to say in the log where it stands
        program = str(order["program"])
        arguments = order["arguments"]
        assert isinstance(arguments, list)
        sys.argv = [program, *arguments]
        if program == "worker":
            from tests.chaos.sick_store import sicken
            from workers.main import main as run

            sicken()
        else:
            from tracker.main import main as run
        run()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001 — a worker's last words, as the interpreter would print them
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
