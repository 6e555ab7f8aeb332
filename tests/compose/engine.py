"""docker-compose for the drill: in a project of its own, each call has a time limit, and the project is always taken
down.

Only the standard library: the drill runs on machines that have only Python, an engine and docker-compose.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD_SECONDS = 1500  # torch's wheels over a slow line
CALL_SECONDS = 120
LOG_LINES = 40


class DrillError(Exception):
    """What was to be shown is not so; one sentence."""


@dataclass(frozen=True, slots=True)
class Compose:
    """The containers of one project."""

    project: str
    environment: Mapping[str, str]

    def call(self, *words: str, seconds: float = CALL_SECONDS) -> str:
        """Run docker-compose and return its standard output.

        Raises:
            DrillError: it failed, or took too long.
        """
        command = ["docker-compose", "--project-name", self.project, "--ansi", "never", *words]
        return run(command, seconds, self.environment)

    def owner(self, *words: str) -> str:
        """Run a command of the tracker in a container of its own, as the owner."""
        return self.call("run", "--rm", "-T", "--no-deps", "tracker", *words)

    def build(self, seconds: float) -> None:
        self.call("build", seconds=seconds)

    def judge(self) -> str:
        """Compare the outcome with what was planted, in the demo's image with read-only mounts."""
        volumes = [f"{self.project}_{name}:/{name}:ro" for name in ("store", "crawl")]
        mounted = [word for volume in volumes for word in ("--volume", volume)]
        judging = ("shoal-demo", "python", "-m", "tests.compose.judge")
        return run(["docker", "run", "--rm", "--network", "none", "--read-only", *mounted, *judging])

    def ask(self, query: str) -> str:
        """Ask Postgres itself, inside its container: it takes a tenth of a second, a command of the tracker two."""
        (container,) = self.containers("postgres")
        return run(["docker", "exec", container, "psql", "-U", "shoal", "-Atc", query]).strip()

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers, also of those that have ended."""
        labels = f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"
        filters = [
            word for label in (*labels, "com.docker.compose.oneoff=False") for word in ("--filter", f"label={label}")
        ]
        return run(["docker", "ps", "--all", "--no-trunc", "--quiet", *filters]).split()

    @contextmanager
    def up(self, *words: str) -> Iterator[None]:
        """Bring it up, and take it down with its volumes in any case."""
        try:
            self.call("up", "--detach", "--no-build", *words)
            yield
        finally:
            self.call("down", "--volumes", "--timeout", "10")


def run(command: Sequence[str], seconds: float = CALL_SECONDS, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in the repository's root and return its standard output.

    Raises:
        DrillError: it failed, or took too long; with the end of what it said.
    """
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DrillError(f"{' '.join(command)} took longer than {seconds:.0f} seconds") from None
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-LOG_LINES:])
        raise DrillError(f"{' '.join(command)} failed with exit code {done.returncode}:\n{said}")
    return done.stdout


def inspect(container: str) -> dict[str, Any]:
    """What the engine knows of a container."""
    found: dict[str, Any] = json.loads(run(["docker", "inspect", container]))[0]
    return found


def logs(container: str) -> str:
    """What a container has said, on both streams."""
    said = subprocess.run(
        ["docker", "logs", container],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CALL_SECONDS,
        check=True,
    )
    return said.stdout


def wait_for(what: str, holds: Callable[[], bool], deadline: float, pause_seconds: float = 1.0) -> None:
    """Ask again and again until something holds.

    Raises:
        DrillError: it did not until the deadline, which is of `time.monotonic`.
    """
    while not holds():
        if time.monotonic() > deadline:
            raise DrillError(f"{what}: not until the deadline")
        time.sleep(pause_seconds)


def require_engine() -> None:
    """Raise DrillError when there is no engine that we may use."""
    for program in ("docker", "docker-compose"):
        if shutil.which(program) is None:
            raise DrillError(f"{program} is not installed: install an engine and docker-compose")
    run(["docker", "info"], 20)
