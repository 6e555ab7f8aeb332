"""Several processes under one parent: it restarts dead ones a limited number of times, and forwards a signal once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.swarm.swarm import DEADLINE_SECONDS
from workers.runtime.supervisor import MAX_RESTARTS, Supervisor, log_format, own_command

NOTE = "import os, sys; open(os.path.join(sys.argv[1], os.environ['SHOAL_PROCESS']), 'a').write('x'); "
COUNT = "starts = os.path.getsize(os.path.join(sys.argv[1], os.environ['SHOAL_PROCESS'])); "


def supervise(folder: Path, script: str, n: int = 2) -> tuple[int, dict[str, int]]:
    """Run a script in `n` processes; return the exit code and how often each was started."""
    command = [sys.executable, "-S", "-c", NOTE + COUNT + script, str(folder)]
    code = Supervisor([command] * n, first_pause_seconds=0.001).run()
    return code, {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def test_a_process_that_always_dies_is_restarted_a_few_times_and_then_the_parent_fails(tmp_path: Path) -> None:
    assert supervise(tmp_path, "sys.exit(1)") == (1, {"1": MAX_RESTARTS + 1, "2": MAX_RESTARTS + 1})


def test_a_process_that_was_killed_once_is_restarted(tmp_path: Path) -> None:
    script = "starts == 1 and os.environ['SHOAL_PROCESS'] == '2' and os.kill(os.getpid(), 9)"
    assert supervise(tmp_path, script) == (0, {"1": 1, "2": 2})


def test_one_process_that_is_given_up_does_not_stop_the_others(tmp_path: Path) -> None:
    assert supervise(tmp_path, "os.environ['SHOAL_PROCESS'] == '1' and os.kill(os.getpid(), 9)") == (
        128 + signal.SIGKILL,
        {"1": MAX_RESTARTS + 1, "2": 1},
    )


def test_a_usage_error_is_not_retried(tmp_path: Path) -> None:
    assert supervise(tmp_path, "sys.exit(2)") == (2, {"1": 1, "2": 1})


WAITING = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(sys.argv[1])))
os.write(1, b"ready\\n")
signal.pause()
"""
PARENT = "import sys; from workers.runtime.supervisor import Supervisor; sys.exit(Supervisor([sys.argv[1:]] * 3).run())"


@pytest.mark.parametrize("code", [0, 3])
def test_a_signal_reaches_each_process_and_none_is_restarted(code: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, sys.executable, "-c", WAITING, str(code)],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    deadline = threading.Timer(DEADLINE_SECONDS, parent.kill)
    deadline.start()
    with parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(3)] == ["ready\n"] * 3
        os.killpg(parent.pid, signal.SIGTERM)  # as a terminal would: it reaches the parent alone
        assert parent.wait() == code
        assert parent.stdout.read() == ""
    deadline.cancel()


def test_each_process_runs_this_command_for_one_process() -> None:
    command = own_command(["download", "--processes", "4", "--until-idle"])
    assert command[0] == sys.executable
    assert command[3:] == ["download", "--processes", "4", "--until-idle", "--processes", "1"]


def test_the_log_lines_of_each_process_have_its_number() -> None:
    assert log_format({"SHOAL_PROCESS": "3"}) == "%(asctime)s process=3 %(message)s"
    assert log_format({}) == "%(asctime)s %(message)s"
