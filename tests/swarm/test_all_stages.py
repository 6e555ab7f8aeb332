"""`worker all` on a real terminal: every stage on one machine, one display, and nothing lost."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

from tests.swarm.swarm import DEADLINE_SECONDS, Swarm

COLUMNS = 80


def on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns; return its exit code and output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    try:
        while some := os.read(ours, 65_536):
            said += some
    except OSError:  # how Linux says that the terminal's last writer has gone
        pass
    os.close(ours)
    return process.wait(DEADLINE_SECONDS), said.decode("utf-8", "replace")


def test_every_stage_runs_on_one_machine_under_one_display(swarm: Swarm) -> None:
    ports = [f"--allow-port={port}" for port in swarm.crawl.allow_ports]
    command = [sys.executable, "-c", "from workers.main import main; main()", "all", "--until-idle", "--downloads", "1"]
    code, said = on_a_terminal(
        [*command, "--allow-network=127.0.0.0/8", *ports, "--device=cpu"],
        {"SHOAL_DATABASE_URL": swarm.database, "SHOAL_STORE": swarm.store, "TERM": "xterm-256color"},
    )
    assert code == 0, said
    found = swarm.audit()
    assert found.holds, found.differences
    assert swarm.results().keys
    assert "starting" in said
    for stage in ("extract", "ingest", "download", "filter"):
        assert f"job.completed stage={stage}" in said
        assert f"\x1b[1m{stage}" in said, "its line in the display"


def test_without_a_database_the_command_ends_at_once_with_one_sentence() -> None:
    worker = subprocess.run(
        [sys.executable, "-c", "from workers.main import main; main()", "all", "--until-idle"],
        env=os.environ | {"SHOAL_DATABASE_URL": "postgresql://127.0.0.1:1/none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == 1
    assert worker.stderr.startswith("worker: cannot reach the database")
    assert len(worker.stderr.splitlines()) == 1
