"""Simulate thousands of workers, as Postgres sees them, through pgbouncer in transaction mode.

A worker beats every 15 s and completes a batch and draws the next every 10 to 15 minutes; 3,000 of them draw 40,000
links a second, and ingest copies as many into the pool. At the start every worker already holds a batch and is
somewhere in the middle of it, so that any minute is like any other. Each has two connections to pgbouncer, as
`tracker.protocol.session` has; they speak its statements over asyncio, because 3,000 threads would measure Python.

By default one simulated worker does what ten do, in a tenth of the time: Postgres gets the same statements at the same
rate, and the 5 GB and the better part of a core that 3,000 clients' buffers and loops take stay out of what is
measured on the same machine. `--pace 1` lets every worker be one.
"""

import asyncio
import random
import resource
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.filling import book, candidates, fill
from tests.benchmarks.of_tracker.server import Server
from tests.bouncer import Bouncer
from tests.copy_buffer import copy_buffer
from tests.tracker.filling import new_run, set_setting
from tracker.database.database import connect
from tracker.duties.serve import tick
from tracker.protocol.copy_rows import copy_into

BATCH = 10_000
THINK_SECONDS = (600.0, 900.0)
BEAT_SECONDS = 15.0
IDLE_SECONDS = 2.0  # as the loop of a worker that was given nothing
POOL_SIZE = 16  # connections of pgbouncer to Postgres
PACK_ROWS = 200_000


@dataclass(slots=True)
class Load:
    """What a number of workers cost; times in milliseconds, by verb."""

    workers: int
    p50: dict[str, float] = field(default_factory=dict)
    p99: dict[str, float] = field(default_factory=dict)
    links_per_s: float = 0.0
    cores: float = 0.0
    """Of Postgres."""
    connections: int = 0
    """Of pgbouncer to Postgres."""


def measure_workers(server: Server, numbers: list[int], seconds: float, pace: int) -> list[Load]:
    """Let so many workers work for so long each; the later ones join the earlier. One simulated worker does the work of
    `pace`, at their pace together."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 20_000)), hard))
    most = max(numbers)
    with connect(server.url) as admin:
        run_id = new_run(admin, "workers")
        set_setting(admin, "batch_size", BATCH)
        fill(admin, run_id, most * BATCH + 4_000_000)
    with closing(Bouncer(server.url, server.home / "bouncer", pool_size=POOL_SIZE)) as bouncer:
        swarm = _Swarm(bouncer.url("postgres"), pace)
        return asyncio.run(_measured(server, swarm, run_id, sorted(numbers), seconds))


class _Swarm:
    def __init__(self, url: str, pace: int) -> None:
        self.url = url
        self.pace = pace
        self.times: dict[str, list[float]] = defaultdict(list)
        self.links = 0

    async def timed(
        self, verb: str, connection: psycopg.AsyncConnection[Any], statement: str, values: tuple[Any, ...]
    ) -> Any:
        started = time.perf_counter()
        cursor = await connection.execute(statement.encode(), values)
        row = await cursor.fetchone()
        self.times[verb].append(1000 * (time.perf_counter() - started))
        return row

    async def worker(self, ready: "asyncio.Queue[None]", gate: asyncio.Semaphore) -> None:
        async with gate:
            work, beat = await self._line(), await self._line()
            row = await self.timed(
                "register", work, "SELECT worker_id FROM tracker.register('download', 'simulated', 1, '0', 2, NULL)", ()
            )
            worker = row[0]
            batch = await self._draw(work, worker)
        ready.put_nowait(None)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(beat, worker))
            think = self._think() * random.random()
            while True:
                await asyncio.sleep(think)
                await self._complete(work, batch)
                batch = await self._draw(work, worker)
                think = self._think()

    def _think(self) -> float:
        return random.uniform(*THINK_SECONDS) / self.pace

    async def _line(self) -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(self.url, autocommit=True, prepare_threshold=None)

    async def _draw(self, work: psycopg.AsyncConnection[Any], worker: UUID) -> tuple[int, UUID, int]:
        ask = "SELECT job_id, lease, n, payload FROM tracker.draw(%s, %s)"
        while (row := await self.timed("draw", work, ask, (worker, uuid4()))) is None:  # noqa: ASYNC110 — a worker asks again
            await asyncio.sleep(IDLE_SECONDS)
        self.links += row[2]
        return row[0], row[1], row[2]

    async def _complete(self, work: psycopg.AsyncConnection[Any], batch: tuple[int, UUID, int]) -> None:
        job, lease, n = batch
        again = random.sample(range(n), n // 50)
        kept = int(0.6 * n)
        result = {
            "finished": {"success": kept, "not_found": n - kept - len(again)},
            "again": again,
            "returned": [],
            "samples": kept,
            "bytes": 55_000 * kept,
        }
        await self.timed("complete", work, "SELECT tracker.complete_download(%s, %s, %s)", (job, lease, Jsonb(result)))

    async def _beat(self, line: psycopg.AsyncConnection[Any], worker: UUID) -> None:
        await asyncio.sleep(random.uniform(0, BEAT_SECONDS) / self.pace)
        progress = 0
        while True:
            progress += 150
            await self.timed("heartbeat", line, "SELECT tracker.heartbeat(%s, %s)", (worker, progress))
            await asyncio.sleep(BEAT_SECONDS / self.pace)


async def _measured(server: Server, swarm: _Swarm, run_id: int, numbers: list[int], seconds: float) -> list[Load]:
    found = []
    ready: asyncio.Queue[None] = asyncio.Queue()
    gate = asyncio.Semaphore(POOL_SIZE)  # the start is not what is measured
    feeding: dict[str, float] = {"rows_per_s": 0.0}
    tasks = [asyncio.create_task(asyncio.to_thread(_feed, server, run_id, feeding))]
    try:
        for number in numbers:
            new = number // swarm.pace - (len(tasks) - 1)
            tasks += [asyncio.create_task(swarm.worker(ready, gate)) for _ in range(new)]
            for _ in range(new):
                await _or_failure(ready, tasks)
            feeding["rows_per_s"] = number * BATCH / (sum(THINK_SECONDS) / 2)
            await asyncio.sleep(20)
            found.append(await _window(server, swarm, tasks, number, seconds))
            tell("workers", found[-1])
    finally:
        feeding["rows_per_s"] = -1
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def _or_failure(ready: "asyncio.Queue[None]", tasks: "list[asyncio.Task[None]]") -> None:
    """Wait for one more worker, but not for ever if one has died."""
    waiting = asyncio.create_task(ready.get())
    while not waiting.done():
        await asyncio.wait([waiting], timeout=5)
        for task in tasks:
            if task.done():
                task.result()


async def _window(
    server: Server, swarm: _Swarm, tasks: "list[asyncio.Task[None]]", number: int, seconds: float
) -> Load:
    swarm.times.clear()
    swarm.links, cpu, started = 0, server.seconds_of_cpu(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    for task in tasks:
        if task.done():
            task.result()
    load = Load(number, links_per_s=swarm.links / took, cores=(server.seconds_of_cpu() - cpu) / took)
    for verb, taken in swarm.times.items():
        ordered = sorted(taken)
        load.p50[verb] = round(ordered[len(ordered) // 2], 1)
        load.p99[verb] = round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1)
    with connect(server.url) as admin:
        row = admin.execute("SELECT count(*) AS n FROM pg_stat_activity WHERE client_port IS NOT NULL").fetchone()
        assert row is not None
        load.connections = int(row["n"])
    return load


def _feed(server: Server, run_id: int, feeding: dict[str, float]) -> None:
    """Copy candidates into the pool at a pace, and do serve's duties beside it."""
    table, store = candidates(PACK_ROWS), str(server.home / "store")
    with connect(server.url) as admin:
        row = admin.execute(
            "SELECT leaf, relation FROM tracker.leaf WHERE subset = 'en' ORDER BY leaf DESC LIMIT 1"
        ).fetchone()
        assert row is not None
        buffer = copy_buffer(table, leaf=row["leaf"], run_id=run_id, subset="en")
        ticked = due = time.monotonic()
        while (rate := feeding["rows_per_s"]) >= 0:
            now = time.monotonic()
            if now - ticked > 5:
                tick(admin, store)
                ticked = now
            if rate and now >= due:
                due = now + PACK_ROWS / rate
                with admin.transaction():
                    copy_into(admin, row["relation"], buffer)
                book(admin, run_id, row["leaf"], PACK_ROWS)
            time.sleep(0.1)
