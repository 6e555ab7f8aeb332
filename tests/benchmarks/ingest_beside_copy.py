"""Ingest, from claim to commit, beside a bare COPY of the very buffers that it copied.

Both go into tables of one embedded Postgres with its usual settings: ingest into the pool's leaves, through the
worker's own stage and session; COPY into tables like them, in one transaction. What ingest does besides is to read the
packs, hash and look up their URLs, shuffle, and prepare the buffers. Its rate counts the rows that came in, not those
that it dropped. A round is six groups of packs that are shuffled together, so that one can be read while another is
copied; the first is read and the last copied alone, which a worker that never runs dry does once.
"""

import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import trio

from dataset.store import Store
from tests.tracker.filling import listed_pack, new_run
from tracker import embedded
from tracker.copy_rows import copy_into
from tracker.database import Connection, connect
from tracker.migrate import migrate
from tracker.session import Added, Job, Session
from workers.desk import Desk
from workers.ingest import Ingest

DUPLICATES = 0.1  # of a pack's URLs, known from the round before


def measure_ingest(home: Path, pack: pa.Table, packs: int, rounds: int) -> dict[str, float]:
    """Ingest `packs` packs like this one a round, and COPY their buffers -> the ratio and both rates."""
    shutil.rmtree(home, ignore_errors=True)
    url = embedded.start(home.absolute())
    try:
        migrate(url)
        with connect(url) as admin:
            return _measured(
                admin, Session.register(url, "ingest"), Store.open(str(home / "store")), pack, packs, rounds
            )
    finally:
        embedded.stop(home.absolute(), mode="immediate")
        shutil.rmtree(home)


def _measured(
    admin: Connection, session: Session, store: Store, pack: pa.Table, packs: int, rounds: int
) -> dict[str, float]:
    run_id = new_run(admin, "bench")
    stage, desk = Ingest(), Desk(session, store)
    ratios, ingest_rates, copy_rates = [], [], []
    for turn in range(rounds + 1):  # the first warms up: it makes the filter, and has no duplicates
        _write_packs(admin, run_id, store, pack, packs, turn)
        buffers, ingest_seconds = _ingest(stage, desk)
        copy_seconds = _copy(admin, buffers)
        rows = sum(one.n for one in buffers)
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


def _write_packs(admin: Connection, run_id: int, store: Store, pack: pa.Table, packs: int, turn: int) -> None:
    """Write packs whose URLs are new, but for the first tenth."""
    known = int(len(pack) * DUPLICATES)
    for number in range(packs):
        urls = [
            pc.binary_join_element_wise(part, f"pack={number}&turn={of}", "?")
            for part, of in ((pack["url"][:known], turn - 1), (pack["url"][known:], turn))
        ]
        path = f"packs/{turn}-{number}"
        chunks = [chunk for column in urls for chunk in column.chunks]
        store.write_table(f"{path}.parquet", pack.set_column(0, "url", pa.chunked_array(chunks)))
        listed_pack(admin, run_id, len(pack), path)


def _ingest(stage: Ingest, desk: Desk) -> tuple[Sequence[Added], float]:
    """Ingest what waits -> the buffers that were copied, and seconds."""
    buffers: list[Added] = []
    complete = Session.complete_ingest

    def watched(self: Session, results: Sequence[tuple[Job, dict[str, object]]], added: Sequence[Added]) -> None:
        buffers.extend(added)
        complete(self, results, added)

    seconds = 0.0
    with patch.object(Session, "complete_ingest", watched):
        while True:
            start = time.perf_counter()
            held = stage.claim(desk)
            if not held:
                return buffers, seconds
            trio.run(stage.work, held, desk)
            seconds += time.perf_counter() - start


def _copy(admin: Connection, added: Sequence[Added]) -> float:
    """Copy the buffers, each in one piece, into fresh tables like the pool's leaves -> seconds."""
    for relation in {one.relation for one in added}:
        admin.execute(f"DROP TABLE IF EXISTS tracker.bare_{relation}".encode())
        admin.execute(f"CREATE TABLE tracker.bare_{relation} (LIKE tracker.{relation} INCLUDING ALL)".encode())
    buffers = [(one.relation, one.buffer if isinstance(one.buffer, bytes) else b"".join(one.buffer)) for one in added]
    start = time.perf_counter()
    with admin.transaction():
        for relation, buffer in buffers:
            copy_into(admin, f"bare_{relation}", buffer)
    return time.perf_counter() - start
