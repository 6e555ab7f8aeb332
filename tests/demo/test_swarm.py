"""The demo leaves no process behind, whatever its processes do and however it ends."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.run import MARK, clear_folder, locked_folder, reserved_ports
from tests.demo.swarm import DemoError, Swarm, kill_leftovers

WAIT_FOR_STDIN = "import sys; sys.stdin.read()"
IGNORE_TERM = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); sys.stdin.read()"
)


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Swarm]:
    one = Swarm(tmp_path / "demo")
    yield one
    one.stop()


def is_alive(pid: int) -> bool:
    """Return whether a process is running; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_stop_ends_every_process(swarm: Swarm) -> None:
    for name in ("one", "two"):
        swarm.start(name, [sys.executable, "-c", WAIT_FOR_STDIN])
    pids = [process.pid for process in swarm.processes.values()]
    swarm.stop()
    assert not any(is_alive(pid) for pid in pids)


def test_stop_kills_what_does_not_listen(swarm: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.demo.swarm.GRACE_SECONDS", 0.2)
    swarm.start("deaf", [sys.executable, "-c", IGNORE_TERM])
    pid = swarm.processes["deaf"].pid
    swarm.stop()
    assert not is_alive(pid)


def test_stop_ends_what_a_process_has_started_itself(swarm: Swarm, tmp_path: Path) -> None:
    pipe = tmp_path / "held"
    os.mkfifo(pipe)
    parent = (
        f"import subprocess, sys; held = open({str(pipe)!r}, 'w'); "
        f"subprocess.Popen([sys.executable, '-c', {WAIT_FOR_STDIN!r}], stdout=held); "
        "print('up', file=held, flush=True); sys.stdin.read()"
    )
    swarm.start("parent", [sys.executable, "-c", parent])
    with pipe.open() as held:
        assert held.readline() == "up\n"
        swarm.stop()
        assert held.read() == ""  # ends only when nobody holds the other end any more


def test_a_command_that_fails_gives_its_own_words(swarm: Swarm) -> None:
    with pytest.raises(DemoError, match="no such run"):
        swarm.run("seed", [sys.executable, "-c", "import sys; sys.exit('no such run')"])


def test_settings_of_the_caller_do_not_reach_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://production/")
    monkeypatch.setenv("SHOAL_STORE", "s3://production/")
    said = Swarm(tmp_path).run("env", [sys.executable, "-c", "import os; print(dict(os.environ))"])
    assert "production" not in said
    assert f"'SHOAL_HOME': '{tmp_path}'" in said


def test_processes_that_a_killed_demo_left_are_found_and_no_others(swarm: Swarm, tmp_path: Path) -> None:
    pipe = tmp_path / "up"
    os.mkfifo(pipe)
    swarm.start("left", [sys.executable, "-c", f"open({str(pipe)!r}, 'w').close(); {WAIT_FOR_STDIN}"])
    pipe.read_bytes()  # /proc shows the environment of a new program a moment after its start has returned
    other = Swarm(tmp_path / "other")
    other.start("not ours", [sys.executable, "-c", WAIT_FOR_STDIN])
    try:
        assert kill_leftovers(swarm.home) == 1
        assert swarm.processes["left"].wait(timeout=10) == -signal.SIGKILL
        assert is_alive(other.processes["not ours"].pid)
    finally:
        other.stop()


def test_a_folder_that_no_demo_made_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DemoError, match="not made by a demo"), locked_folder(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()
    assert not (tmp_path / MARK).exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(DemoError, match="at work"), locked_folder(tmp_path):
        pass


def test_what_an_earlier_demo_left_is_cleared_and_the_mark_stays(swarm: Swarm) -> None:
    with locked_folder(swarm.home):
        (swarm.home / "store").mkdir()
        (swarm.home / "report.html").touch()
        clear_folder(swarm)
        assert [path.name for path in swarm.home.iterdir()] == [MARK]


def test_two_demos_get_ports_of_their_own_and_the_same_ones_again() -> None:
    with reserved_ports(18_400) as port, reserved_ports(18_400) as other:
        assert len({port, port + 1, other, other + 1}) == 4
    with reserved_ports(18_400) as again:
        assert again == port


def test_the_dead_port_refuses_while_it_is_held() -> None:
    with reserved_ports(18_400) as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.10.1.2", port + 1), timeout=5).close()


def test_a_folder_that_is_not_ours_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    command = [sys.executable, "-m", "tests.demo.run", "--folder", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "was not made by a demo" in ended.stderr
    assert "Traceback" not in ended.stderr
