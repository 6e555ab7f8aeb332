"""Check the guarantees of docker-compose.yml and docker/Dockerfile, from the engine and inside the containers."""

import json
import time
from pathlib import Path

from tests.compose.engine import Compose, DrillError, inspect, run, wait_for

WORKERS = ("extract", "ingest", "download", "filter")
ONCE = ("migrate", "enroll", "seed")
STAY = ("postgres", "tracker", "web", *WORKERS)
BASE = "python:3.11-slim-bookworm"
DOWNLOAD_IMAGE = "shoal-download"
MAX_DOWNLOAD_MB = 350  # over its base; OpenCV, which halves the time of a resize, takes 108 of them
USER_ID = "10001"
GRACE_SECONDS = 60  # stop_grace_period
DECODER = "dataset.pictures.fork_server"


def check_download_image() -> str:
    """Weigh the download worker's image, and look for torch in it."""
    sizes = [int(run(["docker", "image", "inspect", "--format", "{{.Size}}", name])) for name in (DOWNLOAD_IMAGE, BASE)]
    over = (sizes[0] - sizes[1]) / 1e6
    if over > MAX_DOWNLOAD_MB:
        raise DrillError(f"the download image is {over:.0f} MB over its base, {MAX_DOWNLOAD_MB} are allowed")
    absent = "import importlib.util as u; raise SystemExit(any(map(u.find_spec, ('torch', 'open_clip'))))"
    run(["docker", "run", "--rm", "--network", "none", DOWNLOAD_IMAGE, "python", "-c", absent])
    return f"{over:.0f} MB over its base"


def check_labels() -> str:
    """Compare the version in the image's label with the installed version."""
    asked = "from importlib.metadata import version; print(version('shoal'))"
    installed = run(["docker", "run", "--rm", "--network", "none", DOWNLOAD_IMAGE, "python", "-c", asked]).strip()
    labels = json.loads(run(["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", DOWNLOAD_IMAGE]))
    if labels["org.opencontainers.image.version"] != installed:
        raise DrillError(f"the image is labelled {labels}, but version {installed} is in it: set VERSION in Dockerfile")
    return installed


def check_closed(compose: Compose, gone: set[str]) -> str:
    """Ask whether workers run without rights, write only to volumes, and hold their class's login alone."""
    for service in WORKERS:
        container = next(found for found in compose.containers(service) if found not in gone)
        known = inspect(container)
        host = known["HostConfig"]
        if not host["ReadonlyRootfs"] or host["CapDrop"] != ["ALL"]:
            raise DrillError(f"{service} is not closed: read-only {host['ReadonlyRootfs']}, dropped {host['CapDrop']}")
        if (user := run(["docker", "exec", container, "id", "-u"]).strip()) != USER_ID:
            raise DrillError(f"{service} runs as user {user}")
        secrets = {
            mount["Name"].rpartition("_")[2] for mount in known["Mounts"] if mount["Destination"].startswith("/run")
        }
        if secrets != {f"login-{service}"}:
            raise DrillError(f"{service} can read {sorted(secrets)}")
        written = "touch /usr/local/bin/written 2>/dev/null && echo yes || echo no"
        if run(["docker", "exec", container, "sh", "-c", written]).strip() != "no":
            raise DrillError(f"{service} can write into its image")
        environment = [line for line in known["Config"]["Env"] if "PASSWORD=" in line or "TOKEN=" in line]
        if environment:
            raise DrillError(f"{service} shows its secrets to docker inspect")
    return "user 10001, read-only, no capabilities, its class's login only"


def check_decoders(compose: Compose, gone: set[str], deadline: float) -> str:
    """Wait until a download worker, in its read-only container, has pictures decoded by processes of their own."""
    found: set[int] = set()

    def some() -> bool:
        found.update(*(decoders(container) for container in compose.containers("download") if container not in gone))
        return bool(found)

    wait_for("decoders", some, deadline, pause_seconds=0.5)
    return f"{len(found)} processes"


def decoders(container: str) -> set[int]:
    """The decoding processes of a container that runs, as the host numbers them."""
    listed = [line.split(maxsplit=1) for line in run(["docker", "top", container, "-eo", "pid,args"]).splitlines()[1:]]
    return {int(pid) for pid, command in listed if DECODER in command}


def check_no_orphan(pids: set[int]) -> None:
    """Raise DrillError when one of these processes still decodes; needs an engine on this machine."""
    left = {pid for pid in pids if DECODER.encode() in _command(pid)}
    if left:
        raise DrillError(f"decoders outlive their worker: {sorted(left)}")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def check_logins(compose: Compose) -> str:
    """Ask Postgres who is connected: workers as their class, the tracker alone as the owner."""
    owners = (
        "SELECT string_agg(DISTINCT host(client_addr), ' ') FROM pg_stat_activity "
        "WHERE usename = 'shoal' AND client_addr IS NOT NULL"
    )
    classes = (
        "SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename) FROM pg_stat_activity WHERE usename ~ '^shoal_'"
    )
    seen = compose.ask(classes)
    if set(seen.split()) != {f"shoal_{kind}" for kind in WORKERS}:
        raise DrillError(f"the workers are connected as {seen}")
    (tracker,) = compose.containers("tracker")
    addresses = {network["IPAddress"] for network in inspect(tracker)["NetworkSettings"]["Networks"].values()}
    if not (connected := set(compose.ask(owners).split())) <= addresses:
        raise DrillError(f"connected as the owner are {connected}, the tracker is at {addresses}")
    return seen


def check_health(compose: Compose, gone: set[str], deadline: float) -> str:
    """Wait until every container that stays is healthy; what ran once has to have ended well."""
    for service in ONCE:
        (container,) = compose.containers(service)
        if (code := inspect(container)["State"]["ExitCode"]) != 0:
            raise DrillError(f"{service} ended with exit code {code}")
    stay = [container for service in STAY for container in compose.containers(service) if container not in gone]

    def all_healthy() -> bool:
        return {inspect(container)["State"]["Health"]["Status"] for container in stay} == {"healthy"}

    wait_for("health", all_healthy, deadline)
    return f"{len(stay)} containers"


def check_stop(compose: Compose, gone: set[str]) -> str:
    """Stop everything: each worker has to end by itself, with exit code 0, before it would be killed."""
    workers = {container: service for service in WORKERS for container in compose.containers(service)}
    apart = set[int]().union(*(decoders(found) for found in compose.containers("download") if found not in gone))
    started = time.monotonic()
    compose.call("stop", seconds=2 * GRACE_SECONDS)
    for container, service in workers.items():
        code = inspect(container)["State"]["ExitCode"]
        if container not in gone and code != 0:
            raise DrillError(f"{service} ended with exit code {code} when it was stopped")
    check_no_orphan(apart)
    return f"{len(workers) - len(gone)} workers, {len(apart)} decoders in {time.monotonic() - started:.0f} s"
