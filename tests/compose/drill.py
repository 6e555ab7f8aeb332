"""The drill: docker-compose up, two workers are stopped, and nothing is lost; see tests/compose/run.

    build → up with four download workers → SIGKILL one and SIGTERM another while they hold batches → the crawl's end
          → audit, exact, from a container that took no part → every link compared with what was planted → stop → down

It also asks whether the containers are as closed, healthy and small as they are promised to be (`promises.py`). Bounded
in time as a whole; what it brought up it takes down in any case.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from tests.compose import promises
from tests.compose.engine import BUILD_SECONDS, Compose, DrillError, inspect, logs, require_engine, run, wait_for

PATIENCE_SECONDS = 600.0  # from up to the end of the crawl
DRAIN_SECONDS = 30.0  # a download worker closes its shard within 8
DOWNLOADS = 4
WATS = 8  # of the mini crawl
SETTINGS = {
    # Small batches, so that there are many to be hit in; a lease that ends within the drill.
    "SHOAL_SETTINGS": "batch_size=120 again_seconds=2 bloom_capacity=100000 lease_seconds=12",
    "MINI_CRAWL_IMAGES": "2200",
    # The classic builder, which every engine has.
    "DOCKER_BUILDKIT": "0",
    "COMPOSE_DOCKER_CLI_BUILD": "0",
}
LEASED = "SELECT count(*) FROM tracker.job WHERE queue = 'download' AND state = 'leased'"
TAKEN_OVER = "SELECT count(*) FROM tracker.job WHERE queue = 'download' AND attempt > 1"

T = TypeVar("T")


def main() -> None:
    """Run the drill; exit 0 when everything held, 1 when not, 2 without an engine."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # a kill takes the containers down as Ctrl-C does
    try:
        require_engine()
    except DrillError as error:
        sys.stderr.write(f"compose: {error}\n")
        sys.exit(2)
    try:
        drill(Compose(f"shoal-drill-{os.getpid()}", SETTINGS))
    except DrillError as error:
        sys.stderr.write(f"compose: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def drill(compose: Compose) -> None:
    """Everything, in order.

    Raises:
        DrillError: something did not hold.
    """
    if "--no-build" not in sys.argv[1:]:
        step("images are built", partial(compose.build, BUILD_SECONDS))
    step("the download image is small and has no torch", promises.check_download_image)
    step("the images' labels tell their version", promises.check_labels)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with compose.up("--scale", f"download={DOWNLOADS}"):
        try:
            kill_some(compose, deadline)
        except DrillError:
            sys.stderr.write(compose.call("logs", "--no-color", "--tail", "40"))
            raise
    left = run(["docker", "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={compose.project}"])
    if left:
        raise DrillError(f"containers are left: {left.split()}")


def kill_some(compose: Compose, deadline: float) -> None:
    """Kill two workers that are at work; everything has to hold in spite of it."""
    killed, drained = step("four download workers hold batches", partial(victims, compose, deadline))
    step("one is killed", partial(run, ["docker", "kill", "--signal", "KILL", killed]))
    step("one is asked to stop, and drains", partial(check_drain, drained))
    step("workers are closed", partial(promises.check_closed, compose, {killed, drained}))
    apart = partial(promises.check_decoders, compose, {killed, drained}, deadline)
    step("pictures are decoded in processes of their own", apart)
    step("workers are connected as their class", partial(promises.check_logins, compose))
    step("the crawl ends", partial(wait_for, "the crawl's end", partial(has_ended, compose), deadline))
    step("what the killed one held was taken over", partial(check_taken_over, compose))
    step("the audit holds", partial(check_audit, compose))
    step("the manifest is written", partial(compose.owner, "tracker", "manifest"))
    step("all that was planted came out", partial(compose.judge))
    step("all containers are healthy", partial(promises.check_health, compose, {killed, drained}, deadline))
    step("all stop in time", partial(promises.check_stop, compose, {killed, drained}))


def step(name: str, action: Callable[[], T]) -> T:
    """Do one thing, and say what it was, how long it took and what it said."""
    started = time.monotonic()
    said = action()
    words = said.strip() if isinstance(said, str) else ""
    more = f"\n{words}" if "\n" in words else f": {words}" if words else ""
    print(f"{time.monotonic() - started:6.1f} s  {name}{more}", flush=True)
    return said


def victims(compose: Compose, deadline: float) -> tuple[str, str]:
    """Two download workers that hold a batch, for certain: all four are frozen while the tracker is asked.

    The beat may be late by a second, not by a lease.
    """
    containers = compose.containers("download")

    def all_hold() -> bool:
        if int(compose.ask(LEASED)) < DOWNLOADS:
            return False
        held = all(freeze(container) for container in containers) and int(compose.ask(LEASED)) == DOWNLOADS
        if not held:
            thaw(containers)
        return held

    wait_for("the schema", partial(has_schema, compose), deadline)
    wait_for("four batches held at once", all_hold, deadline, pause_seconds=0.2)
    thaw(containers)
    return containers[0], containers[1]


def freeze(container: str) -> bool:
    """Pause a container; False when it could not be: a kernel that is busy gives up freezing now and then."""
    try:
        run(["docker", "pause", container])
    except DrillError:
        return False
    return True


def thaw(containers: Sequence[str]) -> None:
    """Let those go on that are paused."""
    paused = [container for container in containers if inspect(container)["State"]["Paused"]]
    if paused:
        run(["docker", "unpause", *paused])


def has_schema(compose: Compose) -> bool:
    (enroll,) = compose.containers("enroll")
    state = inspect(enroll)["State"]
    return bool(state["Status"] == "exited" and state["ExitCode"] == 0)


def check_drain(container: str) -> str:
    """Send SIGTERM to a worker that works; it has to end by itself, and well.

    Raises:
        DrillError: it did not.
    """
    apart = promises.decoders(container)
    run(["docker", "kill", "--signal", "TERM", container])
    wait_for("the drain", lambda: not inspect(container)["State"]["Running"], time.monotonic() + DRAIN_SECONDS, 0.2)
    code, said = inspect(container)["State"]["ExitCode"], logs(container)
    if code != 0 or "worker.stopping" not in said:
        raise DrillError(f"a download worker ended with exit code {code} after SIGTERM:\n{said}")
    promises.check_no_orphan(apart)
    return said.splitlines()[-1]


def has_ended(compose: Compose) -> bool:
    """Whether nothing is left to do.

    Raises:
        DrillError: a job is dead.
    """
    status = json.loads(compose.owner("tracker", "status", "--json"))
    queues = status["queues"].values()
    if any(queue["dead"] for queue in queues):
        raise DrillError(f"a job is dead: {status['errors']}")
    left = sum(queue["ready"] + queue["leased"] for queue in queues)
    waiting = status["pool"] + status["again"] + status["leased"]
    return bool(status["queues"]["extract"]["done"] == WATS and left == 0 and waiting == 0)


def check_taken_over(compose: Compose) -> str:
    if (n := int(compose.ask(TAKEN_OVER))) == 0:
        raise DrillError("no batch was taken over, so the killed worker held none")
    return f"{n} batch"


def check_audit(compose: Compose) -> str:
    """Ask for the exact audit, which exits with 1 when something is lost."""
    found = json.loads(compose.owner("tracker", "audit", "--exact", "--json"))
    finished = sum(found["finished"].values())
    if not found["holds"] or found["in"] != finished:
        raise DrillError(f"the audit does not hold: {found}")
    return f"in {found['in']:,} = finished {finished:,}, as the ledger, the tables and the shards have it"


if __name__ == "__main__":
    main()
