"""Builds over a release by workers that are killed at random moments, again and again.

    python -m tests.swarm.killing_builds [--kills 12] [--kinds index dedup tag] [--workers 1 2 4] [--seed N]

One, two and four processes of `worker index`, `worker dedup` and `worker tag` build what one machine has built without
being disturbed; each worker that is killed is replaced. The bytes have to be the same, each unit has to be done once,
and no scratch may be left. The last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from psycopg.conninfo import make_conninfo

from dataset.dedup import jobs as dedup_jobs
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import open_release
from dataset.index import jobs as index_jobs
from dataset.index.plan import IndexOptions, work_on_release
from dataset.store.store import Store
from dataset.tagging import jobs as tag_jobs
from dataset.tagging.given_heads import find_heads
from dataset.tagging.options import Options as TagOptions
from dataset.tagging.run import tag
from tests.dataset.index.made import MEASURED, made_release
from tests.dataset.tagging.made import MODEL as TAGGED_MODEL
from tests.dataset.tagging.made import made_release as release_to_tag
from tests.planted import MODEL, planted, put_release
from tests.server_home import server_home
from tests.tracker.filling import scalar, set_setting
from tracker.database import embedded_postgres
from tracker.database.database import connect
from tracker.database.migrate import migrate
from tracker.seeding.builds import Build, seed_build
from tracker.seeding.releases import open_release_run

ROOT = Path(__file__).resolve().parents[2]
INDEX = IndexOptions(model=MODEL, kind="sq16", lists=8, unit_rows=64)
DEDUP = Options(model=MODEL, at=0.9, cells=16, super_cells=2)
RESULTS = {"index": "index", "dedup": "duplicates", "tag": "tags"}
"""The folder of the results in the release."""
HEADS = ("unsafe", "mark")
UNIT_ROWS, UNIT_PICTURES = 30, 40
DEADLINE_SECONDS = 600
SILENCE = "UPDATE tracker.worker SET seen_at = now() - interval '1 hour' WHERE pid = %s AND state <> 'gone'"
AT_WORK = "SELECT pid FROM tracker.worker WHERE worker_id IN (SELECT worker_id FROM tracker.job WHERE state = 'leased')"
UNDONE = "SELECT count(*) FROM tracker.job WHERE state <> 'done'"
ATTEMPTS = "SELECT count(*) FROM tracker.lease WHERE ending = 'taken_over'"


def fill(folder: Path) -> None:
    """Make the stores `index`, `dedup` and `tag` with a release each, and build it on one machine in `index-alone` …"""
    made_release(folder / "index")
    put_release(Store.open(str(folder / "dedup")), "laion", [planted(1_500, dimensions=32)], rows_per_file=500)
    release_to_tag(folder / "tag")
    for kind in RESULTS:
        shutil.copytree(folder / kind, folder / f"{kind}-alone")
    index_jobs.build(partial(work_on_release, open_release(Store.open(str(folder / "index-alone")), "laion"), INDEX))
    search(open_release(Store.open(str(folder / "dedup-alone")), "laion"), DEDUP)
    release = open_release(Store.open(str(folder / "tag-alone")), "laion")
    tag(release, find_heads(release.store, HEADS), unit_rows=UNIT_ROWS, unit_pictures=UNIT_PICTURES)


def build_of(kind: str, store: Store) -> Build:
    """Return the build that the tracker seeds, in smaller units than its command's."""
    if kind == "index":
        steps, options = index_jobs.plan_steps(store, "laion", INDEX), json.loads(INDEX.to_json())
    elif kind == "tag":
        heads = {name: given.choice for name, given in find_heads(store, HEADS).items()}
        tagging = TagOptions(heads=heads, model=TAGGED_MODEL, unit_rows=UNIT_ROWS, unit_pictures=UNIT_PICTURES)
        steps, options = tag_jobs.plan_steps(store, "laion", tagging), json.loads(tagging.to_json())
    else:
        steps, options = dedup_jobs.plan_steps(store, "laion", DEDUP), DEDUP.to_json()
    return Build(kind, "", options, [(step.name, step.units) for step in steps])


@dataclass(slots=True)
class Workers:
    """Worker processes of a kind; their logs are in `folder`."""

    kind: str
    database: str
    store: Path
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        self.started += 1
        command = ["-c", "from workers.main import main; main()", self.kind, "--until-idle"]
        with (self.folder / f"worker-{self.started}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, *command, f"--scratch={self.folder / 'scratch'}"],
                env=os.environ | {"SHOAL_DATABASE_URL": self.database, "SHOAL_STORE": str(self.store)},
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.running.append(worker)

    def close(self) -> None:
        for worker in self.running:
            worker.kill()
            worker.wait()


def kill_until_built(workers: Workers, count: int, draw: random.Random, kills: int) -> int:
    """Run `count` workers until all have ended; kill one of them up to `kills` times. Return how many were killed.

    Raises: AssertionError when a worker fails, or the build takes too long.
    """
    killed, deadline = 0, time.monotonic() + DEADLINE_SECONDS
    for _ in range(count):
        workers.start()
    with connect(workers.database) as admin:
        while workers.running:
            worker = draw.choice(workers.running)
            try:
                code = worker.wait(draw.random() if killed < kills else 1)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, f"a build by {count} {workers.kind} workers stands still"
                at_work = {row["pid"] for row in admin.execute(AT_WORK)}
                if killed < kills and worker.pid in at_work:
                    worker.send_signal(signal.SIGKILL)
                    worker.wait()
                    workers.running.remove(worker)
                    admin.execute(SILENCE, (worker.pid,))  # as if its lease had run out
                    workers.start()
                    killed += 1
                continue
            assert code == 0, f"a worker ended with {code}: see {workers.folder}"
            workers.running.remove(worker)
    return killed


def results(store: Path, kind: str) -> Mapping[str, bytes]:
    """Return the files of the results, without what was measured."""
    folder = store / "releases" / "laion" / RESULTS[kind]
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in MEASURED]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_and_compare(folder: Path, server: str, kind: str, count: int, draw: random.Random, kills: int) -> Any:
    """Build with `count` workers that are killed, and compare with the build of one machine; return the counts.

    Raises: AssertionError when anything differs.
    """
    place = folder / f"{kind}-{count}"
    shutil.copytree(folder / kind, place / "store")
    name = f"shoal_builds_{uuid4().hex[:8]}"
    with connect(server) as keeper:
        keeper.execute(f"CREATE DATABASE {name}".encode())
    database = make_conninfo(server, dbname=name)
    migrate(database)
    workers = Workers(kind, database, place / "store", place)
    started = time.monotonic()
    with connect(database) as admin:
        set_setting(admin, "max_attempts", 20)
        store = Store.open(str(place / "store"))
        build = build_of(kind, store)
        seed_build(admin, open_release_run(admin, store.uri, "laion"), build)
        try:
            killed = kill_until_built(workers, count, draw, kills)
        finally:
            workers.close()
        assert scalar(admin, UNDONE) == 0
        assert scalar(admin, "SELECT finished_at IS NOT NULL FROM tracker.build")
        units = scalar(admin, "SELECT count(*) FROM tracker.job")
        assert units == sum(n for _, n in build.plan)
        taken_over = scalar(admin, ATTEMPTS)
    found, expected = results(place / "store", kind), results(folder / f"{kind}-alone", kind)
    differing = sorted(path for path in found.keys() | expected if found.get(path) != expected.get(path))
    assert not differing, f"{differing} differ in {place}"
    assert found
    assert list((place / "scratch").iterdir()) == []
    seconds = round(time.monotonic() - started)
    return {"units": units, "killed": killed, "taken_over": taken_over, "files": len(found), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--kinds", nargs="+", default=list(RESULTS), choices=list(RESULTS))
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    found: dict[str, Any] = {"seed": asked.seed}
    with tempfile.TemporaryDirectory(prefix="shoal-builds-") as folder, server_home() as home:
        fill(Path(folder))
        server = embedded_postgres.start(home)
        try:
            for kind in asked.kinds:
                for count in asked.workers:
                    found[f"{kind}_{count}"] = kill_and_compare(Path(folder), server, kind, count, draw, asked.kills)
                    print(f"{kind} by {count} workers: {found[f'{kind}_{count}']}", file=sys.stderr, flush=True)
        finally:
            embedded_postgres.stop(home, mode="immediate")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
