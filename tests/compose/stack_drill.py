"""The drill of the stack: docker stack deploy, download workers scaled up and down at work, and nothing lost.

    build → swarm init, unless this node is in one → stack deploy → download 4 → 1 → 3 at work → the crawl's end
          → audit, exact → every link compared with what was planted → stack rm, volumes, swarm leave

Bounded in time as a whole; what it brought up it takes down in any case.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tests.compose import drill
from tests.compose.drill import PATIENCE_SECONDS, SETTINGS, step
from tests.compose.engine import BUILD_SECONDS, CALL_SECONDS, Compose, DrillError, require_engine, run, wait_for

GONE_SECONDS = 120.0  # a worker closes its shard, and the network goes last
# Smaller batches than the other drill's: a container takes its time to come, and the crawl must not be over by then.
SMALL = {"SHOAL_SETTINGS": SETTINGS["SHOAL_SETTINGS"].replace("batch_size=120", "batch_size=40")}
LEASED = "SELECT count(*) FROM tracker.job WHERE queue = 'download' AND state = 'leased'"


@dataclass(frozen=True, slots=True)
class Stack(Compose):
    """The services of one stack on this node."""

    def owner(self, *words: str) -> str:
        """Run a command of the tracker in the tracker's container, as the owner."""
        (container,) = self.containers("tracker", running=True)
        return run(["docker", "exec", container, "entrypoint", *words])

    def containers(self, service: str, *, running: bool = False) -> list[str]:
        """The ids of a service's containers, also of those that have ended unless `running`."""
        label = f"label=com.docker.swarm.service.name={self.project}_{service}"
        everything = [] if running else ["--all"]
        return run(["docker", "ps", *everything, "--no-trunc", "--quiet", "--filter", label]).split()

    def ask(self, query: str) -> str:
        """Ask Postgres itself, inside its container."""
        (container,) = self.containers("postgres", running=True)
        return run(["docker", "exec", container, "psql", "-U", "shoal", "-Atc", query]).strip()

    def scale(self, service: str, n: int) -> None:
        run(["docker", "service", "scale", "--detach", f"{self.project}_{service}={n}"])

    @contextmanager
    def up(self, *words: str) -> Iterator[None]:
        """Deploy it, and take it down with its volumes in any case."""
        deploy = ["docker", "stack", "deploy", "--detach", "--resolve-image", "never"]
        try:
            run([*deploy, "--compose-file", "docker-compose.yml", self.project], CALL_SECONDS, self.environment)
            yield
        finally:
            run(["docker", "stack", "rm", self.project])
            wait_for("the stack's end", self._is_gone, time.monotonic() + GONE_SECONDS)
            label = f"label=com.docker.stack.namespace={self.project}"
            volumes = run(["docker", "volume", "ls", "--quiet", "--filter", label]).split()
            if volumes:
                run(["docker", "volume", "rm", *volumes])

    def _is_gone(self) -> bool:
        label = f"label=com.docker.stack.namespace={self.project}"
        containers = run(["docker", "ps", "--all", "--quiet", "--filter", label])
        return not (containers + run(["docker", "network", "ls", "--quiet", "--filter", label])).strip()


def main() -> None:
    """Run the drill; exit 0 when everything held, 1 when not, 2 without an engine."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a kill takes the stack down as Ctrl-C does
    try:
        require_engine()
    except DrillError as error:
        sys.stderr.write(f"stack: {error}\n")
        sys.exit(2)
    stack = Stack(f"shoal-stack-{os.getpid()}", {**SETTINGS, **SMALL})
    try:
        if "--no-build" not in sys.argv[1:]:
            step("images are built", partial(stack.build, BUILD_SECONDS))
        with swarm(), stack.up():
            scale_at_work(stack, time.monotonic() + PATIENCE_SECONDS)
    except DrillError as error:
        sys.stderr.write(f"stack: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def swarm() -> Iterator[None]:
    """A swarm of this one node, unless it is in one already."""
    active = run(["docker", "info", "--format", "{{.Swarm.LocalNodeState}}"]).strip() == "active"
    if not active:
        run(["docker", "swarm", "init", "--advertise-addr", "127.0.0.1"])
    try:
        yield
    finally:
        if not active:
            run(["docker", "swarm", "leave", "--force"])


def scale_at_work(stack: Stack, deadline: float) -> None:
    """Scale up and down while batches are held; everything has to hold in spite of it."""
    stack.scale("download", 4)
    step("the schema is there", partial(wait_for, "the schema", partial(has_schema, stack), deadline))
    step("two workers hold a batch at once", partial(wait_for, "batches", partial(held, stack, 2), deadline, 0.2))
    for n, at_once in ((1, 1), (3, 0)):
        stack.scale("download", n)
        name = f"download is {n}"
        step(name, partial(wait_for, name, partial(is_scaled, stack, n, at_once), deadline, 0.2))
    step("the crawl ends", partial(wait_for, "the crawl's end", partial(drill.has_ended, stack), deadline))
    step("the audit holds", partial(drill.check_audit, stack))
    step("the manifest is written", partial(stack.owner, "tracker", "manifest"))
    step("all that was planted came out", stack.judge)


def has_schema(stack: Stack) -> bool:
    found = stack.containers("enroll")
    ended = [json.loads(run(["docker", "inspect", container]))[0]["State"] for container in found]
    return any(state["Status"] == "exited" and state["ExitCode"] == 0 for state in ended)


def held(stack: Stack, n: int) -> bool:
    return int(stack.ask(LEASED)) >= n


def is_scaled(stack: Stack, n: int, at_once: int) -> bool:
    """Whether so many workers run, and have held so many batches at once or have nothing left to hold.

    Raises:
        DrillError: the crawl ended before it could be scaled.
    """
    if at_once and stack.ask("SELECT count(*) FROM tracker.job WHERE queue = 'download' AND state <> 'done'") == "0":
        raise DrillError("the download ended before the scaling did: plant more with MINI_CRAWL_IMAGES")
    return len(stack.containers("download", running=True)) == n and held(stack, at_once)


if __name__ == "__main__":
    main()
