"""Links a second through the pool at equilibrium, every commit durable: ingest's COPY, draw and complete together.

Ours goes through the workers' own sessions: a pack is claimed, copied and completed; a batch drawn and completed, with
2 % of its links to be tried again. The pool stays near its target because ingest is held above it, as in production,
and the drawers wait below it. Serve's duties run beside. The limit is the same buffer copied into a bare table and as
many rows deleted by pages, committed alike: no payload, no books, nothing returned.
"""

import multiprocessing as mp
import threading
import time
from dataclasses import dataclass
from itertools import takewhile
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.filling import candidates, fill
from tests.benchmarks.of_tracker.server import Server
from tests.copy_buffer import copy_buffer
from tests.tracker.filling import listed_pack, new_run, set_setting
from tracker.database.database import Connection, connect
from tracker.duties.serve import tick
from tracker.protocol.copy_rows import copy_into
from tracker.protocol.session import Added, Session

BATCH = 10_000
PACK_ROWS = 200_000
TARGET = 4_000_000
DRAWERS = 2
AGAIN = 0.02
SETTLE_SECONDS = 30.0
SAMPLE_SECONDS = 5.0

SIZES = """
SELECT sum(pg_table_size(relid)) AS bytes, sum(n_dead_tup) AS dead FROM pg_stat_user_tables
WHERE relname LIKE 'candidate\\_%%' OR relname IN ('batch', 'bare')
"""

Count = "Synchronized[int]"


@dataclass(frozen=True, slots=True)
class Flow:
    links_per_s: float
    growth: float
    """Size of pool and batches at the end, over that after settling."""
    most_dead: int
    """The most dead rows of the pool at one time."""


def measure_throughput(server: Server, seconds: float, limit_seconds: float) -> dict[str, Flow]:
    with connect(server.url) as admin:
        run_id = new_run(admin, "flow")
        set_setting(admin, "batch_size", BATCH)
        set_setting(admin, "again_seconds", 1)
        set_setting(admin, "pool_high", TARGET)
        set_setting(admin, "pool_resume", TARGET - PACK_ROWS)
        fill(admin, run_id, TARGET)
        _make_bare(admin)
    limit = _flow(server, _copy_bare, _delete_bare, limit_seconds)
    tell("limit", limit)
    ours = _flow(server, _ingest, _draw, seconds)
    tell("ours", ours)
    return {"ours": ours, "limit": limit}


def _flow(server: Server, feeder: object, taker: object, seconds: float) -> Flow:
    """Run one feeder and the takers, and count what they take once they have settled."""
    spawn = mp.get_context("spawn")
    taken, waiting, stop = spawn.Value("q", 0), spawn.Value("q", TARGET), spawn.Event()
    arguments = (server.url, taken, waiting, stop)
    processes = [
        spawn.Process(target=target, args=arguments)  # type: ignore[arg-type]
        for target in (feeder, *[taker] * DRAWERS)
    ]
    for process in processes:
        process.start()
    ended = threading.Event()
    duties = threading.Thread(target=_do_duties, args=(server, ended))
    duties.start()
    try:
        time.sleep(SETTLE_SECONDS)
        return _watched(server, taken, seconds)
    finally:
        stop.set()
        ended.set()
        duties.join()
        for process in processes:
            process.join(60)
            if process.exitcode != 0:
                raise RuntimeError(f"a process of the benchmark ended with {process.exitcode}: see above")


def _watched(server: Server, taken: "Synchronized[int]", seconds: float) -> Flow:
    with connect(server.url) as admin:
        before, started, at_first = taken.value, time.monotonic(), _sizes(admin)
        most_dead = 0
        while time.monotonic() - started < seconds:
            time.sleep(SAMPLE_SECONDS)
            now_bytes, dead = _sizes(admin)
            most_dead = max(most_dead, dead)
        took = time.monotonic() - started
        return Flow((taken.value - before) / took, now_bytes / at_first[0], most_dead)


def _sizes(admin: Connection) -> tuple[int, int]:
    row = admin.execute(SIZES.encode()).fetchone()
    assert row is not None
    return int(row["bytes"]), int(row["dead"])


def _do_duties(server: Server, ended: threading.Event) -> None:
    with connect(server.url) as connection:
        while not ended.wait(5):
            tick(connection, str(server.home / "store"))


def _ingest(url: str, _taken: "Synchronized[int]", waiting: "Synchronized[int]", stop: Event) -> None:
    session, admin = Session.register(url, "ingest"), connect(url)
    row = admin.execute("SELECT run_id FROM tracker.run WHERE name = 'flow'").fetchone()
    assert row is not None
    run_id = row["run_id"]
    session.hold_slot()
    table, prepared = candidates(PACK_ROWS), {}
    while not stop.is_set():
        leaf, relation = session.open_leaves(run_id)["en"]
        if leaf not in prepared:
            prepared = {leaf: copy_buffer(table, leaf=leaf, run_id=run_id, subset="en")}
        jobs = session.claim()
        if not jobs:
            if not admin.execute(
                "SELECT FROM tracker.job WHERE queue = 'ingest' AND state = 'ready' LIMIT 1"
            ).fetchone():
                listed_pack(admin, run_id, PACK_ROWS)
            stop.wait(0.02)
            continue
        said = {"read": PACK_ROWS, "duplicates": 0, "added": [{"subset": "en", "leaf": leaf, "n": PACK_ROWS}]}
        session.complete_ingest([(jobs[0], said)], [Added(relation, "en", leaf, PACK_ROWS, prepared[leaf])])
        with waiting.get_lock():
            waiting.value += PACK_ROWS


def _draw(url: str, taken: "Synchronized[int]", waiting: "Synchronized[int]", stop: Event) -> None:
    session = Session.register(url, "download")
    while not stop.is_set():
        if waiting.value < TARGET - 3 * PACK_ROWS:
            stop.wait(0.005)
            continue
        batch = session.draw()
        assert batch is not None
        second_tries = _second_tries(batch.payload)
        again = [] if second_tries else list(range(0, batch.n, int(1 / AGAIN)))  # those that come again are let go
        kept = int(0.6 * batch.n)
        finished = {"success": kept, "not_found": batch.n - len(again) - kept}
        session.complete(
            batch, {"finished": finished, "again": again, "returned": [], "samples": kept, "bytes": 55_000 * kept}
        )
        with taken.get_lock():
            taken.value += batch.n
        with waiting.get_lock():
            waiting.value -= batch.n - second_tries


def _second_tries(payload: str) -> int:
    """Count the links that were tried before: they come first, and not from the pool."""
    return sum(1 for _ in takewhile(lambda line: line.split("\t", 3)[2] != "1", payload.split("\n")))


def _make_bare(admin: Connection) -> None:
    admin.execute("CREATE TABLE tracker.bare (LIKE tracker.candidate) WITH (autovacuum_vacuum_scale_factor = 0.02)")
    leaf = admin.execute("SELECT relation FROM tracker.leaf WHERE subset = 'en' ORDER BY leaf LIMIT 1").fetchone()
    assert leaf is not None
    admin.execute(f"INSERT INTO tracker.bare SELECT * FROM tracker.{leaf['relation']}".encode())
    admin.execute("VACUUM ANALYZE tracker.bare")


def _copy_bare(url: str, _taken: "Synchronized[int]", waiting: "Synchronized[int]", stop: Event) -> None:
    buffer = copy_buffer(candidates(PACK_ROWS), leaf=1, run_id=1, subset="en")
    with connect(url) as connection:
        while not stop.is_set():
            if waiting.value > TARGET:
                stop.wait(0.005)
                continue
            with connection.transaction():
                copy_into(connection, "bare", buffer)
            with waiting.get_lock():
                waiting.value += PACK_ROWS


def _delete_bare(url: str, taken: "Synchronized[int]", waiting: "Synchronized[int]", stop: Event) -> None:
    with connect(url) as connection:
        while not stop.is_set():
            if waiting.value < TARGET - 3 * PACK_ROWS:
                stop.wait(0.005)
                continue
            gone = connection.execute(
                "DELETE FROM tracker.bare WHERE ctid = ANY (ARRAY("
                "SELECT ctid FROM tracker.bare TABLESAMPLE SYSTEM (%s) FOR UPDATE SKIP LOCKED))",
                (100 * BATCH / waiting.value,),
            ).rowcount
            with taken.get_lock():
                taken.value += gone
            with waiting.get_lock():
                waiting.value -= gone
