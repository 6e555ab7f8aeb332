"""The draw beside LAION's statement, in one run: python -m tests.benchmarks.bench_draw [--rows N] [--draws N]

Both take batches of 10,000 from a pool of the same candidates, in turn, each draw committed before the next begins.
Ours stores the payload, books it in the ledger and returns it; LAION's marks the rows in place and returns them,
on the table that it had (bigint key, btree on status). Last line: one JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.tracker.filling import finished_job, new_run, set_setting
from tracker import embedded
from tracker.database import Connection, connect
from tracker.migrate import migrate
from tracker.session import Session

BATCH = 10_000
# A URL of 92 and a caption of 60 characters, the means of LAION-400M's published rows rounded.
CANDIDATE = """
'https://host-' || i % 100003 || '.example.com/' || repeat('path/', 8) || md5(i::text) || '.jpg' AS url,
'a caption of some length ' || md5(i::text) AS text
"""
OURS = """
INSERT INTO tracker.{relation} (pack, pack_row, leaf, run_id, attempt, subset, language, url, text)
SELECT 1, i, %(leaf)s, %(run_id)s, 1, 'en', 'en', url, text
FROM (SELECT i, {candidate} FROM generate_series(0, %(rows)s - 1) AS i) AS made
"""
LAION_TABLE = """
CREATE TABLE laion AS SELECT i::bigint AS sampleid, url, text, 'en' AS language, 0::smallint AS status
FROM (SELECT i, {candidate} FROM generate_series(0, {rows} - 1) AS i) AS made;
ALTER TABLE laion ADD PRIMARY KEY (sampleid);
CREATE INDEX laion_status ON laion (status);
VACUUM ANALYZE laion;
"""
# The percentage is scaled as in production: 0.05 of 500 million rows are 25 batches, of which LIMIT lets one through.
LAION_DRAW = """
UPDATE laion SET status = 1 WHERE sampleid IN (
    SELECT sampleid FROM laion TABLESAMPLE SYSTEM (%s) WHERE status = 0 LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING sampleid, url, text, language
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--draws", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        url = embedded.start(Path(folder))
        try:
            migrate(url)
            with connect(url) as admin:
                run(admin, url, arguments.rows, arguments.draws)
        finally:
            embedded.stop(Path(folder), mode="immediate")


def run(admin: Connection, url: str, rows: int, draws: int) -> None:
    fill(admin, rows)
    worker = Session.register(url, "download")
    percent = min(100.0, 100 * 25 * BATCH / rows)

    def ours() -> int:
        batch = worker.draw()
        assert batch is not None
        return batch.n

    def laion() -> int:
        return len(admin.execute(LAION_DRAW, (percent, BATCH)).fetchall())

    taken: dict[str, list[tuple[float, int]]] = {"ours": [], "laion": []}
    for _ in range(draws):
        for name, draw in (("ours", ours), ("laion", laion)):
            taken[name].append(timed(draw))
    worker.close()
    show(rows, taken)


def fill(admin: Connection, rows: int) -> None:
    run_id = new_run(admin)
    set_setting(admin, "batch_size", BATCH)
    row = admin.execute("SELECT leaf, relation FROM tracker.leaf WHERE subset = 'en'").fetchone()
    assert row is not None
    statement = OURS.format(relation=row["relation"], candidate=CANDIDATE.replace("%", "%%"))
    admin.execute(statement.encode(), {"leaf": row["leaf"], "run_id": run_id, "rows": rows})
    job = finished_job(admin, run_id)
    booked = "INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id) VALUES (%s, %s, 'en', %s, %s, %s)"
    admin.execute(booked, (run_id, "in", None, rows, job))
    admin.execute(booked, (run_id, "pool", row["leaf"], rows, job))
    admin.execute(f"VACUUM ANALYZE tracker.{row['relation']}".encode())
    for statement in LAION_TABLE.format(candidate=CANDIDATE, rows=rows).split(";")[:-1]:
        admin.execute(statement.encode())
    admin.execute("CHECKPOINT")


def timed(draw: Callable[[], int]) -> tuple[float, int]:
    """Milliseconds, and links drawn."""
    started = time.perf_counter()
    n = draw()
    return 1000 * (time.perf_counter() - started), n


def show(rows: int, taken: dict[str, list[tuple[float, int]]]) -> None:
    table = Table("draw of about 10,000", title=f"{rows:,} candidates, one client, warm", title_justify="left")
    for heading in ("p50 ms", "p99 ms", "links a draw", "links/s"):
        table.add_column(heading, justify="right")
    p50: dict[str, float] = {}
    for name, draws in taken.items():
        milliseconds = sorted(ms for ms, _ in draws)
        links = sum(n for _, n in draws)
        p50[name] = statistics.median(milliseconds)
        p99 = milliseconds[min(len(milliseconds) - 1, int(0.99 * len(milliseconds)))]
        rate = links / sum(milliseconds) * 1000
        table.add_row(name, f"{p50[name]:.0f}", f"{p99:.0f}", f"{links / len(draws):,.0f}", f"{rate:,.0f}")
    Console().print(table)
    figures = {
        "rows": rows,
        "draw_p50_ms": round(p50["ours"], 1),
        "draw_vs_laion": round(p50["laion"] / p50["ours"], 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
