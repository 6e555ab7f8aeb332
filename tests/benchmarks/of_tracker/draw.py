"""Compare the draw with LAION's statement, at several sizes of the pool.

Ours samples, deletes, stores the payload, books it in the ledger and returns it; LAION's marks the rows in place and
returns them, on the table that it had (bigint key, btree on status). Each draw is committed before a client's next one
begins; of one client's, warm and full, ours and LAION's take turns, because a machine is slower in some minutes.
LAION's percentage is scaled as in production: 0.05 of 500 million rows are 25 batches, of which LIMIT lets one through,
so its draws are of the first pages only.
"""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.filling import LEAF_ROWS, fill, read_through, thin_out
from tests.benchmarks.of_tracker.server import Server
from tests.tracker.filling import new_run, set_setting
from tracker.database.database import Connection, connect
from tracker.protocol.session import Session

BATCH = 10_000
CLIENTS = 16
WARM_UP = 3
"""Draws of a client that are not counted where it is warm: its process at the server maps the cache and plans once."""
FILLS = (30, 5)  # percent of the pages, after the full pool
LEAVES_AT_500M = 500_000_000 // LEAF_ROWS
ONE_LEAF, MANY_LEAVES = "full, warm, 1 leaf", f"full, warm, {LEAVES_AT_500M} leaves"

LAION_TABLE = (
    "CREATE TABLE laion (sampleid bigint, url text, text text, language text, status smallint)",
    "INSERT INTO laion SELECT row_number() OVER (), url, text, language, 0 FROM tracker.candidate",
    "ALTER TABLE laion ADD PRIMARY KEY (sampleid)",
    "CREATE INDEX laion_status ON laion (status)",
    "VACUUM ANALYZE laion",
    "CHECKPOINT",
)
LAION_DRAW = """
UPDATE laion SET status = 1 WHERE sampleid IN (
    SELECT sampleid FROM laion TABLESAMPLE SYSTEM (%s) WHERE status = 0 LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING sampleid, url, text, language
"""

Draw = Callable[[], int]
Measured = tuple[float, list[tuple[float, int]]]
"""Seconds in all; of each draw milliseconds, and links drawn."""
Row = dict[str, float | str]


def measure_draw(server: Server, rows: int, draws: int) -> list[Row]:
    """Fill an empty database with `rows` candidates -> a row of figures for each way of drawing."""
    draws = max(10, min(draws, rows // BATCH // 10))
    found: list[Row] = []

    def note(who: str, how: str, measured: Measured) -> None:
        found.append({"rows": rows, **_row(who, how, measured)})
        tell("draw", found[-1])

    with connect(server.url) as admin:
        run_id = new_run(admin, f"draw-{rows}")
        _set_up(admin)
        fill(admin, run_id, rows)
        leaves = [f"tracker.{row['relation']}" for row in admin.execute("SELECT relation FROM tracker.leaf")]
        for statement in LAION_TABLE:
            admin.execute(statement.encode())
        read_through(admin, ["laion", *leaves])  # of LAION's only the first pages are drawn from
        percent = min(100.0, 100 * 25 * BATCH / rows)
        sides: dict[str, Callable[[Server], Draw]] = {"ours": _ours, "LAION": lambda on: _laion(on, percent)}
        for name, measured in _in_turns({name: make(server) for name, make in sides.items()}, draws).items():
            note(name, "full, warm", measured)
        for name, make in sides.items():
            note(name, f"full, warm, {CLIENTS} clients", _many_clients(make, server, draws))
    for name, make in sides.items():
        server.restart(cold=True)
        note(name, "full, cold", _one_client(make(server), 10, warm_up=0))
    with connect(server.url) as admin:
        admin.execute("DROP TABLE laion")
        for fill_percent in FILLS:
            thin_out(admin, run_id, fill_percent)
            read_through(admin, leaves)
            left = rows * fill_percent // 100
            measured = _one_client(_ours(server), max(1, min(draws, left // BATCH // 3)))
            note("ours", f"{fill_percent} % of the pages, warm", measured)
        _empty(admin)
    return found


def measure_leaves(server: Server, sizes: Sequence[int], draws: int) -> list[Row]:
    """The same draw from one leaf, and from as many as 500 million candidates have.

    The rows are as many in all: the largest of `sizes` that one leaf holds, or else a whole leaf.
    """
    rows = max((size for size in sizes if size <= LEAF_ROWS), default=LEAF_ROWS)
    found: list[Row] = []
    with connect(server.url) as admin:
        _set_up(admin)
        for how, leaves in ((ONE_LEAF, 1), (MANY_LEAVES, LEAVES_AT_500M)):
            run_id = new_run(admin, f"leaves-{leaves}")
            set_setting(admin, "leaf_rows", -(-rows // leaves))
            fill(admin, run_id, rows, -(-rows // leaves))
            read_through(
                admin, [f"tracker.{row['relation']}" for row in admin.execute("SELECT relation FROM tracker.leaf")]
            )
            found.append({"rows": rows, **_row("ours", how, _one_client(_ours(server), draws))})
            tell("draw", found[-1])
            _empty(admin)
    return found


def at_500_million(found: list[Row]) -> dict[str, float]:
    """What a draw costs from 500M candidates, from what was measured.

    The leaf that a draw names never has more than 20 million rows; what grows with the pool is the choice among 25
    leaves. So: the largest pool's draw, and for each leaf that 500M has more, what a leaf costs by the same number of
    rows in one leaf and in 25. Cold, as warm.
    """
    p50 = {(row["how"], int(row["rows"])): float(row["p50_ms"]) for row in found if row["who"] == "ours"}
    largest = max(rows for how, rows in p50 if how == "full, warm")
    (spread,) = (rows for how, rows in p50 if how == MANY_LEAVES)
    a_leaf = max(0.0, p50[MANY_LEAVES, spread] - p50[ONE_LEAF, spread]) / (LEAVES_AT_500M - 1)
    more = a_leaf * (LEAVES_AT_500M - -(-largest // LEAF_ROWS))
    return {f"draw_500m_{how}_ms": round(p50[f"full, {how}", largest] + more, 1) for how in ("warm", "cold")}


def _set_up(admin: Connection) -> None:
    set_setting(admin, "batch_size", BATCH)
    set_setting(admin, "lease_seconds", 3600)  # nobody beats here, and an expired batch would be drawn again


def _ours(server: Server) -> Draw:
    worker = Session.register(server.url, "download")

    def draw() -> int:
        batch = worker.draw()
        return batch.n if batch else 0

    return draw


def _laion(server: Server, percent: float) -> Draw:
    connection = connect(server.url)
    return lambda: len(connection.execute(LAION_DRAW, (percent, BATCH)).fetchall())


def _in_turns(sides: Mapping[str, Draw], draws: int) -> dict[str, Measured]:
    """One draw of each side after the other; a side's seconds are those of its own draws."""
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
    for turn in range(WARM_UP + draws):
        for name, draw in sides.items():
            one = _timed(draw)
            if turn >= WARM_UP:
                taken[name].append(one)
    return {name: (sum(ms for ms, _ in ones) / 1000, ones) for name, ones in taken.items()}


def _one_client(draw: Draw, draws: int, *, warm_up: int = WARM_UP) -> Measured:
    for _ in range(min(warm_up, draws)):  # what is almost empty has little to give
        draw()
    started = time.perf_counter()
    taken = [_timed(draw) for _ in range(draws)]
    return time.perf_counter() - started, taken


def _many_clients(make: Callable[[Server], Draw], server: Server, draws: int) -> Measured:
    taken: list[tuple[float, int]] = []

    def client(draw: Draw) -> None:
        for _ in range(max(2, draws // CLIENTS)):
            taken.append(_timed(draw))  # noqa: PERF401 — each as it ends

    threads = [threading.Thread(target=client, args=(make(server),)) for _ in range(CLIENTS)]
    started = time.perf_counter()
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    return time.perf_counter() - started, taken


def _timed(draw: Draw) -> tuple[float, int]:
    """Milliseconds, and links drawn."""
    started = time.perf_counter()
    n = draw()
    return 1000 * (time.perf_counter() - started), n


def _row(who: str, how: str, measured: Measured) -> Row:
    seconds, taken = measured
    milliseconds = sorted(ms for ms, _ in taken)
    links = sum(n for _, n in taken)
    return {
        "who": who,
        "how": how,
        "draws": len(taken),
        "p50_ms": round(statistics.median(milliseconds), 1),
        "p99_ms": round(milliseconds[min(len(milliseconds) - 1, int(0.99 * len(milliseconds)))], 1),
        "links_a_draw": round(links / len(taken)),
        "links_per_s": round(links / seconds),
    }


def _empty(admin: Connection) -> None:
    """Free the space for the next size: delete the run's candidates and batches, and close its ledger."""
    admin.execute("TRUNCATE tracker.candidate, tracker.batch, tracker.ledger, tracker.counter")
    admin.execute("DELETE FROM tracker.leaf")
    admin.execute("DELETE FROM tracker.lease")
    admin.execute("DELETE FROM tracker.job")
