"""Kill a program at random moments until its work is done, and compare the files that it leaves."""

import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def kill_until_done(
    module: str, arguments: Sequence[str], draw: random.Random, kills: int, *, lines: int, seconds: float
) -> int:
    """Run a module again and again until it ends by itself; return how often it was killed, at most `kills` times.

    The module prints a line for each piece of its work. A kill comes up to `seconds` after one of the first `lines`
    lines, so that the moments spread over the work. The module and its children are killed together.

    Raises: AssertionError when the module fails.
    """
    killed = 0
    while True:
        command = [sys.executable, "-m", module, *arguments]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdout is not None
        unread = draw.randint(1, lines) if killed < kills else sys.maxsize
        while unread and child.stdout.readline():
            unread -= 1
        try:
            code = child.wait(draw.random() * seconds if killed < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            code = child.wait()
            killed += code == -signal.SIGKILL
        child.stdout.close()
        if code != -signal.SIGKILL:
            assert code == 0, f"{module} failed: {' '.join(arguments)}"
            return killed


def digests(folder: Path, leave_out: Collection[str] = ()) -> dict[str, str]:
    """Return the sha256 of each file by its path, without partial files: a killed writer cannot delete its own.

    Files with a name in `leave_out` are not read.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".partial"]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in leave_out
    }
