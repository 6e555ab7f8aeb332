"""Millions of candidates in the pool: one prepared buffer, copied as often as it takes.

A URL has 92 bytes and a caption 60, the means of LAION-400M's published rows rounded. The copies repeat the URLs;
drawing, storing and deleting rows does not depend on them.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tests.copy_buffer import copy_buffer
from tests.tracker.filling import finished_job
from tracker.accounts.ledger import fold
from tracker.accounts.pool import open_leaves
from tracker.database.database import Connection
from tracker.protocol.copy_rows import copy_into

CHUNK = 500_000
LEAF_ROWS = 20_000_000


def candidates(n: int, *, pack: int = 1) -> pa.Table:
    """`n` rows as ingest has them before COPY: pack, pack_row, language, url, text."""
    digits = [f"{number:032x}" for number in np.random.default_rng(pack).integers(0, 2**63, n)]
    return pa.table(
        {
            "pack": pa.array(np.full(n, pack, np.int64)),
            "pack_row": pa.array(np.arange(n, dtype=np.int32)),
            "language": ["en"] * n,
            "url": [
                f"https://host-{i % 100_003:06}.example.com/images/2022/05/{name}.jpg" for i, name in enumerate(digits)
            ],
            "text": [f"a caption of some length {name[:30]}" for name in digits],
        }
    )


def fill(admin: Connection, run_id: int, rows: int, leaf_rows: int = LEAF_ROWS) -> None:
    """Copy `rows` candidates into leaves of `leaf_rows` of subset en, and book them."""
    table = candidates(min(CHUNK, rows))
    for of_leaf in _parts(rows, leaf_rows):
        leaf, relation = _leaf(admin, run_id)
        for n in _parts(of_leaf, CHUNK):
            buffer = copy_buffer(table.slice(0, n), leaf=leaf, run_id=run_id, subset="en")
            with admin.transaction():
                copy_into(admin, relation, buffer)
        book(admin, run_id, leaf, of_leaf)
        admin.execute(f"VACUUM (FREEZE, ANALYZE) tracker.{relation}".encode())
        fold(admin)
        open_leaves(admin, run_id)
    admin.execute("CHECKPOINT")


def book(admin: Connection, run_id: int, leaf: int, n: int) -> None:
    """Note `n` more candidates (or fewer, below 0) in a leaf, as they came in."""
    job = finished_job(admin, run_id)
    for account, of in (("in", None), ("pool", leaf)):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id) VALUES (%s, %s, 'en', %s, %s, %s)",
            (run_id, account, of, n, job),
        )


def thin_out(admin: Connection, run_id: int, percent: int) -> None:
    """Empty all but `percent` of the leaves' pages, as draws do, and free them."""
    for row in admin.execute("SELECT leaf, relation FROM tracker.leaf WHERE subset = 'en' ORDER BY leaf").fetchall():
        gone = admin.execute(
            f"DELETE FROM tracker.{row['relation']} "
            f"WHERE (hashint8((ctid::text::point)[0]::bigint) & 1023) >= 1024 * {percent} / 100".encode()
        ).rowcount
        book(admin, run_id, row["leaf"], -gone)
        admin.execute(f"VACUUM (FREEZE, ANALYZE, TRUNCATE FALSE) tracker.{row['relation']}".encode())
    fold(admin)


def read_through(admin: Connection, relations: list[str]) -> None:
    """Bring tables into the cache."""
    for relation in relations:
        admin.execute(f"SELECT sum(length(url)) FROM {relation}".encode())


def _leaf(admin: Connection, run_id: int) -> tuple[int, str]:
    row = admin.execute(
        "SELECT leaf, relation FROM tracker.leaf WHERE run_id = %s AND subset = 'en' ORDER BY leaf DESC LIMIT 1",
        (run_id,),
    ).fetchone()
    assert row is not None
    return row["leaf"], row["relation"]


def _parts(whole: int, most: int) -> Iterator[int]:
    while whole > 0:
        yield min(whole, most)
        whole -= most
