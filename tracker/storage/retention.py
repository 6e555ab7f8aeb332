"""Retention: delete a shard's pictures once its part has existed for as long as the run keeps them.

Only the tar is deleted. The shard's parquet stays: it has the outcome of every link, which the exact audit and the
report count, and no pictures. If the run keeps `kept`, the filter worker has put the pictures of kept pairs into a tar
beside the part, and the shard's tar is deleted at once. A shard without a part keeps its tar, so a run without a filter
loses none.

Invariant: a tar is first marked in the manifest (`tar_deleting_at`), then deleted, then written off (`tar_deleted_at`,
and its bytes leave the ledger). If the tracker dies in between, the next round continues from the mark. So no tar that
the manifest lists is missing, and no marked tar stays.

Nothing is deleted in a store that lacks the shard's parquet: that would be the wrong store, and the pictures would stay
in the right one for ever.

Rejected: a queue for this (deleting 1,000 tars takes two seconds); rewriting shards afterwards (each would be read a
third time, and the tracker would have to read pictures).
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
MOST_SECONDS = 100 * 365 * SECONDS["d"]  # timestamps before Postgres's earliest would fail in every round
FOREVER, KEPT = "forever", "kept"
TARS_IN_A_ROUND = 1000
"""This bounds the time of a round; 3,000 download workers make about 20 shards in its five seconds."""

DELETES_AT_ONCE = 16
"""Concurrent deletes; an object store takes about 50 ms for each."""


@dataclass(frozen=True, slots=True)
class Deleted:
    shards: int = 0
    bytes: int = 0


def retain(connection: Connection, uri: str) -> Deleted:
    """Delete tars whose time is over, at most TARS_IN_A_ROUND of them.

    Raises:
        TrackerError: the store cannot be reached, or is not the store of the shards.
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
    """Return what would be deleted at once if a run kept its shards for this time.

    Raises:
        TrackerError: there is no such run, or the time is invalid.
    """
    with translated():
        if connection.execute("SELECT FROM tracker.run WHERE name = %s", (run,)).fetchone() is None:
            raise TrackerError(f"there is no run {run}: tracker status --json lists them")
        values = {"run": run, "keep": checked(keep_shards)}
        row = connection.execute(query("due_tars"), values).fetchone()
    assert row is not None
    return Deleted(row["shards"], row["bytes"])


def checked(keep_shards: str) -> str:
    """Return the time if it is valid: a number with a unit, `kept` or `forever`.

    Raises:
        TrackerError: it is invalid.
    """
    number, unit = keep_shards[:-1], keep_shards[-1:]
    is_time = number.isascii() and number.isdecimal() and len(number) <= 6 and unit in SECONDS
    if keep_shards not in (FOREVER, KEPT) and not (is_time and int(number) * SECONDS[unit] <= MOST_SECONDS):
        raise TrackerError(f"shards cannot be kept '{keep_shards}': give a time like 24h or 7d, or kept, or forever")
    return keep_shards


def _require_ours(store: pafs.FileSystem, uri: str, rows: Sequence[Row]) -> None:
    tables = [f"{row['path']}.parquet" for row in rows]
    try:
        found = store.get_file_info(tables)
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the store {uri} cannot be reached: {error}; nothing was deleted") from error
    for table, info in zip(tables, found, strict=True):
        if info.type != pafs.FileType.File:
            raise TrackerError(
                f"{table} is not in the store {uri}: set SHOAL_STORE to the store of the shards, nothing was deleted"
            )


def _delete(store: pafs.FileSystem, row: Row) -> bool:
    try:
        store.delete_file(f"{row['path']}.tar")
    except FileNotFoundError:
        return True  # it was deleted before, but not written off
    except (pa.ArrowException, OSError) as error:
        log.warning("tracker.tar_stays path=%s.tar error=%r", row["path"], str(error))
        return False
    return True
