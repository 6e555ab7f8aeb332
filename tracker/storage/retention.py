"""Retention: a shard's pictures go once its part has been in for as long as the run keeps them.

What goes is the tar. The shard's parquet stays: it has the outcome of every link, which the exact audit and the report
count, and nothing that anybody could look at. Under `kept` the filter worker has put the pictures of kept pairs into a
tar beside the part, before its part was in; then the shard's own goes at once. A shard without a part keeps its tar, so
of a run without a filter nothing is deleted.

Invariant: the manifest gives a tar up first (`tar_deleting_at`), then it is deleted, then it is written off
(`tar_deleted_at`, and its bytes out of the ledger). Whoever dies in between leaves the mark, and the next round goes on
from it: no tar that the manifest vouches for is missing, and none that it gave up stays.

The tracker deletes nothing in a store that does not hold the shard's parquet: it would be another one, and the pictures
would stay in the right one for ever.

Rejected: a queue of its own for it (deleting 1,000 tars is two seconds' work); rewriting shards afterwards (each would
be read a third time, and who rewrites needs to know pictures).
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError
from tracker.storage.open import open_store

log = logging.getLogger("shoal.tracker")

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
MOST_SECONDS = (
    100 * 365 * SECONDS["d"]
)  # a hundred years: earlier than Postgres's first moment is an error in every round
FOREVER, KEPT = "forever", "kept"
TARS_IN_A_ROUND = 1000
"""A serve's round does other duties, too; 3,000 download workers make some 20 shards in its five seconds."""

DELETES_AT_ONCE = 16
"""An object store takes some 50 ms for each."""


@dataclass(frozen=True, slots=True)
class Deleted:
    shards: int = 0
    bytes: int = 0


def retain(connection: Connection, uri: str) -> Deleted:
    """Delete the tars whose time is over, at most TARS_IN_A_ROUND of them.

    Raises:
        TrackerError: the store cannot be reached, or is not the one that the shards are in.
    """
    with translated():
        connection.execute(query("give_up_tars"), {"most": TARS_IN_A_ROUND})
        given_up = connection.execute(query("given_up_tars"), {"most": TARS_IN_A_ROUND}).fetchall()
    if not given_up:
        return Deleted()
    store = open_store(uri)
    _require_ours(store, uri, given_up)
    with ThreadPoolExecutor(DELETES_AT_ONCE) as threads:
        done = list(threads.map(lambda row: _delete(store, row), given_up))
    gone = [row["output_id"] for row, is_gone in zip(given_up, done, strict=True) if is_gone]
    stays = [row["output_id"] for row, is_gone in zip(given_up, done, strict=True) if not is_gone]
    with translated():
        connection.execute(query("put_off_tars"), {"ids": stays})
        row = connection.execute(query("write_off_tars"), {"ids": gone}).fetchone()
    assert row is not None
    return Deleted(row["shards"], row["bytes"])


def due(connection: Connection, run: str, keep_shards: str) -> Deleted:
    """What would be deleted at once if a run kept its shards for so long.

    Raises:
        TrackerError: there is no such run, or that is no time.
    """
    with translated():
        if connection.execute("SELECT FROM tracker.run WHERE name = %s", (run,)).fetchone() is None:
            raise TrackerError(f"there is no run {run}: tracker status --json lists them")
        values = {"run": run, "keep": checked(keep_shards)}
        row = connection.execute(query("due_tars"), values).fetchone()
    assert row is not None
    return Deleted(row["shards"], row["bytes"])


def checked(keep_shards: str) -> str:
    """The word as the database takes it.

    Raises:
        TrackerError: it is neither a time nor one of the two words.
    """
    number, unit = keep_shards[:-1], keep_shards[-1:]
    is_time = number.isascii() and number.isdecimal() and len(number) <= 6 and unit in SECONDS
    if keep_shards not in (FOREVER, KEPT) and not (is_time and int(number) * SECONDS[unit] <= MOST_SECONDS):
        raise TrackerError(f"'{keep_shards}' is no time to keep shards: give one like 24h or 7d, or kept, or forever")
    return keep_shards


def _require_ours(store: pafs.FileSystem, uri: str, rows: Sequence[Row]) -> None:
    tables = [f"{row['path']}.parquet" for row in rows]
    try:
        found = store.get_file_info(tables)
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the store {uri} cannot be reached: {error}; mend it, nothing was deleted") from error
    for table, info in zip(tables, found, strict=True):
        if info.type != pafs.FileType.File:
            raise TrackerError(
                f"{table} is not in the store {uri}: set SHOAL_STORE to the store of the shards, nothing was deleted"
            )


def _delete(store: pafs.FileSystem, row: Row) -> bool:
    try:
        store.delete_file(f"{row['path']}.tar")
    except FileNotFoundError:
        return True  # whoever deleted it died before it was written off
    except (pa.ArrowException, OSError) as error:
        log.warning("tracker.tar_stays path=%s.tar error=%r", row["path"], str(error))
        return False
    return True
