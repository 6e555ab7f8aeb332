"""Compare ingest, from claim to commit, with a bare COPY of the same rows.

Both go into tables of one embedded Postgres with its usual settings: ingest into the pool's leaves, through the
worker's own stage and session; COPY into tables like them, in one transaction, what Postgres itself gives as the binary
form of those rows. What ingest does besides is to read the packs, hash and look up their URLs, shuffle, and prepare the
rows. Its rate counts the rows that came in, not those that it dropped. A round is six groups of packs that are shuffled
together, so that one can be read while another is copied; the first is read and the last copied alone, which a worker
that never runs dry does once. Between two sides dirty pages are written out, and autovacuum lets these tables be: both
would fall now on one side, now on the other (rounds of 0.32 and of 0.93 one after the other).
"""

import shutil
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import trio
from psycopg.sql import SQL, Composed, Identifier

from dataset.store.store import Store
from tests.tracker.filling import listed_pack, new_run
from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect
from tracker.database.migrate import migrate
from tracker.protocol.copy_rows import COLUMNS, copy_into
from tracker.protocol.session import Session
from workers.ingest.stage import Ingest
from workers.runtime.context import WorkContext

DUPLICATES = 0.1  # of a pack's URLs, known from the round before


def measure_ingest(home: Path, pack: pa.Table, packs: int, rounds: int) -> dict[str, float]:
    """Ingest `packs` packs like this one a round, and COPY their buffers -> the ratio and both rates."""
    shutil.rmtree(home, ignore_errors=True)
    url = embedded_postgres.start(home.absolute())
    try:
        migrate(url)
        with connect(url) as admin:
            return _measured(
                admin, Session.register(url, "ingest"), Store.open(str(home / "store")), pack, packs, rounds
            )
    finally:
        embedded_postgres.stop(home.absolute(), mode="immediate")
        shutil.rmtree(home)


def _measured(
    admin: Connection, session: Session, store: Store, pack: pa.Table, packs: int, rounds: int
) -> dict[str, float]:
    run_id = new_run(admin, "bench")
    stage, context = Ingest(), WorkContext(session, store)
    relations = [relation for _, relation in session.open_leaves(run_id).values()]
    for relation in relations:
        admin.execute(_of("ALTER TABLE tracker.{} SET (autovacuum_enabled = false)", relation))
    ratios, ingest_rates, copy_rates = [], [], []
    for turn in range(rounds + 1):  # the first warms up: it makes the filter, and has no duplicates
        first_pack = _write_packs(admin, run_id, store, pack, packs, turn)
        admin.execute("CHECKPOINT")
        ingest_seconds = _ingest(stage, context)
        buffers = {relation: _copied(admin, relation, first_pack) for relation in relations}
        rows, copy_seconds = _copy(admin, buffers)
        if turn:
            ratios.append(copy_seconds / ingest_seconds)
            ingest_rates.append(rows / ingest_seconds)
            copy_rates.append(rows / copy_seconds)
            print(f"  {rows:,} rows: ingest {ingest_seconds:.2f} s, COPY {copy_seconds:.2f} s, {ratios[-1]:.0%}")
    session.close()
    return {
        "ingest_vs_copy": statistics.median(ratios),
        "ingest_rows_per_second": statistics.median(ingest_rates),
        "copy_rows_per_second": statistics.median(copy_rates),
    }


def _write_packs(admin: Connection, run_id: int, store: Store, pack: pa.Table, packs: int, turn: int) -> int:
    """Write packs whose URLs are new, but for the first tenth -> the id of the first."""
    known = int(len(pack) * DUPLICATES)
    listed = []
    for number in range(packs):
        urls = [
            pc.binary_join_element_wise(part, f"pack={number}&turn={of}", "?")
            for part, of in ((pack["url"][:known], turn - 1), (pack["url"][known:], turn))
        ]
        path = f"packs/{turn}-{number}"
        chunks = [chunk for column in urls for chunk in column.chunks]
        store.write_table(f"{path}.parquet", pack.set_column(0, "url", pa.chunked_array(chunks)))
        listed.append(listed_pack(admin, run_id, len(pack), path))
    return listed[0]


def _ingest(stage: Ingest, context: WorkContext) -> float:
    """Ingest what waits -> seconds."""
    start = time.perf_counter()
    while held := stage.claim(context):
        trio.run(stage.work, held, context)
    return time.perf_counter() - start


def _copied(admin: Connection, relation: str, first_pack: int) -> bytes:
    """Return the rows of these packs in COPY's format."""
    columns = SQL(", ").join(map(Identifier, COLUMNS))
    rows = SQL("COPY (SELECT {} FROM tracker.{} WHERE pack >= {}) TO STDOUT (FORMAT binary)")
    with admin.cursor() as cursor, cursor.copy(rows.format(columns, Identifier(relation), first_pack)) as copy:
        return b"".join(copy)


def _copy(admin: Connection, buffers: Mapping[str, bytes]) -> tuple[int, float]:
    """Copy the buffers, each in one piece, into fresh tables like the pool's leaves -> rows, seconds."""
    for relation in buffers:
        admin.execute(_of("DROP TABLE IF EXISTS tracker.{}", f"bare_{relation}"))
        like = _of("(LIKE tracker.{} INCLUDING ALL) WITH (autovacuum_enabled = false)", relation)
        admin.execute(_of("CREATE TABLE tracker.{} ", f"bare_{relation}") + like)
    admin.execute("CHECKPOINT")
    start = time.perf_counter()
    with admin.transaction():
        for relation, buffer in buffers.items():
            copy_into(admin, f"bare_{relation}", buffer)
    seconds = time.perf_counter() - start
    counts = [admin.execute(_of("SELECT count(*) AS n FROM tracker.{}", f"bare_{name}")).fetchone() for name in buffers]
    return sum(row["n"] for row in counts if row), seconds


def _of(statement: str, relation: str) -> Composed:
    return SQL(statement).format(Identifier(relation))
