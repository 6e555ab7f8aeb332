"""A filter worker on a machine without a network: with HF_HUB_OFFLINE=1 it speaks to database and store alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dataset.models.files import add_model
from dataset.store.store import Store
from tests.swarm.proxy import Proxy
from tests.tracker.filling import scalar
from tests.workers.test_filter import DEMO, shards
from tracker.database.database import Connection

DEADLINE_SECONDS = 120

GUARD = """
import sys

LOOKUPS = ("socket.getaddrinfo", "socket.gethostbyname")
USES = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")

def hook(event, arguments):
    # A message without an address goes over a socket that is connected already, as between worker and decoder.
    if event in LOOKUPS or (event in USES and arguments[1] is not None):
        with open({log!r}, "a") as log:
            print(event, arguments, file=log)

sys.addaudithook(hook)
"""
"""A sitecustomize module. Every Python process of the worker imports it, decoders' origins too."""


def guarded(folder: Path) -> tuple[dict[str, str], Path]:
    """Return an environment in which Python writes each use of an address to a file, and the file."""
    log = folder / "addresses.log"
    guard = folder / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD.format(log=str(log)), encoding="utf-8")
    log.touch()
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(guard), *filter(None, sys.path)])}, log


def test_a_filter_worker_offline_opens_no_socket_but_to_database_and_store(
    database: str, admin: Connection, tmp_path: Path
) -> None:
    environment, log = guarded(tmp_path)
    folder = tmp_path / "store"
    store = Store.open(str(folder))
    shards(admin, store, 2)
    add_model(store, "demo", DEMO)
    model = {"model": "demo", "pretrained": "store:models/demo", "threshold": 0.28}
    recipe = {"models": {"en": model, "other": model}}
    admin.execute("UPDATE tracker.run SET recipe = %s::jsonb", (json.dumps(recipe),))
    proxy = Proxy(database, b"complete_filter")
    settings = {"SHOAL_DATABASE_URL": proxy.url, "SHOAL_STORE": str(folder), "HF_HUB_OFFLINE": "1"}
    output = tmp_path / "worker.log"
    with output.open("wb") as written:
        worker = subprocess.Popen(
            [sys.executable, "-c", "from workers.main import main; main()", "filter", "--until-idle"],
            env=environment | settings,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    try:
        assert proxy.held.wait(DEADLINE_SECONDS), output.read_text("utf-8")
        # The model is loaded and a shard scored. libpq and extensions are not audited; the system lists their sockets.
        ports = [remote for process in (worker.pid, *descendants(worker.pid)) for remote in internet_ports(process)]
        proxy.release()
        assert worker.wait(DEADLINE_SECONDS) == 0, output.read_text("utf-8")
    finally:
        worker.kill()
        worker.wait()
        here = proxy._listener.getsockname()[1]
        proxy.close()
    assert set(ports) == {here}
    assert log.read_text("utf-8") == ""
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE queue = 'filter' AND state = 'done'") == 2


def test_the_guard_sees_what_a_worker_or_its_decoders_would_ask(tmp_path: Path) -> None:
    environment, log = guarded(tmp_path)
    program = """
import socket, subprocess, sys
from contextlib import suppress
from dataset.pictures.fork_server import environment
with suppress(OSError):
    socket.create_connection(("127.0.0.1", 1))
ask = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))"
subprocess.run([sys.executable, "-c", ask], env=environment(), check=True)
"""
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    asked = [line.split()[0] for line in log.read_text("utf-8").splitlines()]
    assert asked == ["socket.getaddrinfo", "socket.connect", "socket.sendto"]


def descendants(process: int) -> Iterator[int]:
    """Yield the processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text("utf-8").split():
            yield int(child)
            yield from descendants(int(child))


def internet_ports(process: int) -> Iterator[int]:
    """Yield the remote port of each internet socket of a process; 0 for one that is not connected."""
    inodes = set()
    for file in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(file.readlink()).removeprefix("socket:[").rstrip("]"))
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{process}/net/{kind}").read_text("utf-8").splitlines()[1:]:
            words = line.split()
            if words[9] in inodes:
                yield int(words[2].rpartition(":")[2], 16)
