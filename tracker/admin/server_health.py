"""The doctor's findings on the server: its settings, clock and disk, and whether vacuum keeps up.

The bounds are those at which a large swarm gets slow or loses work; docker/postgresql.conf has recommended values, with
reasons.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracker.admin.findings import Finding, Level
from tracker.database.database import Connection, query
from tracker.watch.bounds import (
    BUSY_CONNECTIONS,
    CLOCK_SECONDS,
    DEAD_ROWS,
    DEAD_SHARE,
    ENDLESS_SECONDS,
    FULL_DISK,
    LONG_SECONDS,
    OLDEST_XID,
    UNFOLDED_ENTRIES,
    UNFOLDED_SECONDS,
)

OLDEST_SERVER, NEWEST_SERVER = 15, 18
MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Need:
    """The condition that a setting must meet, and the harm if it does not."""

    name: str
    is_met: Callable[[str], bool]
    level: Level
    harm: str
    remedy: str


def _is_on(value: str) -> bool:
    return value != "off"


def _at_least(least: int) -> Callable[[str], bool]:
    return lambda value: int(value) >= least


# pg_settings counts shared_buffers in units of 8 kB, max_wal_size in MB, and times in the setting's own unit.
NEEDS = (
    Need("fsync", _is_on, Level.BAD, "a power cut can destroy the database", "set fsync = on"),
    Need("full_page_writes", _is_on, Level.BAD, "a crash can leave torn pages", "set full_page_writes = on"),
    Need("synchronous_commit", _is_on, Level.BAD, "a crash can lose transactions that workers were told are committed",
         "set synchronous_commit = on"),
    Need("autovacuum", _is_on, Level.BAD, "the pool's tables grow without limit", "set autovacuum = on"),
    Need("track_counts", _is_on, Level.BAD, "autovacuum does not know when to run", "set track_counts = on"),
    Need("server_encoding", lambda value: value == "UTF8", Level.BAD, "captions in other scripts are refused",
         "create the database with ENCODING 'UTF8'"),
    Need("password_encryption", lambda value: value == "scram-sha-256", Level.WARNING,
         "new passwords are stored as MD5", "set password_encryption = 'scram-sha-256', and rotate the passwords"),
    Need("shared_buffers", _at_least(256 * MEBIBYTE // 8192), Level.WARNING,
         "a draw of cold pages takes ten times as long", "set it to a quarter of the machine's memory"),
    Need("max_wal_size", _at_least(2048), Level.WARNING, "ingest forces checkpoints all the time",
         "set max_wal_size = 4GB or more"),
    Need("wal_compression", lambda value: value not in {"on", "pglz"}, Level.WARNING,
         "compression with pglz takes a third of a draw's time", "set wal_compression = off, or lz4 if Postgres "
         "supports it"),
    Need("autovacuum_naptime", lambda value: int(value) <= 30, Level.WARNING,
         "freed space is reusable later than ingest needs it", "set autovacuum_naptime = 10s"),
)  # fmt: skip


def examine_server(connection: Connection) -> Iterator[Finding]:
    """Yield the findings that do not need Shoal's schema."""
    yield _version(connection.info.server_version)
    yield from _settings(connection)
    yield _connections(connection)
    yield _clock(connection)
    yield from _disk(connection)
    yield from horizon(connection)


def examine_tables(connection: Connection) -> Iterator[Finding]:
    """Yield the findings on Shoal's tables: vacuum and the ledger."""
    yield from _vacuum(connection)
    row = connection.execute(query("server")).fetchone()
    assert row is not None
    lag = row["ledger_lag_seconds"]
    if lag > UNFOLDED_SECONDS and row["ledger_entries"] > UNFOLDED_ENTRIES:
        said = f"the ledger has not been folded for {lag:,.0f} s, which makes counting slow"
        yield Finding("ledger", Level.WARNING, said, "keep one tracker serve running")
    else:
        yield Finding("ledger", Level.GOOD, "the ledger is folded")


def horizon(connection: Connection, *, long_seconds: float = LONG_SECONDS) -> Iterator[Finding]:
    """Find what prevents vacuum from freeing deleted rows: long transactions, forgotten replication slots."""
    if not _sees_others(connection):
        said = "this login can see only its own transactions"
        yield Finding(
            "horizon", Level.WARNING, said, "GRANT pg_read_all_stats to it, or run tracker doctor as a superuser"
        )
        return
    held = [row for row in connection.execute(query("doctor_horizon")) if row["seconds"] >= long_seconds]
    for row in held:
        level = Level.BAD if row["seconds"] >= ENDLESS_SECONDS else Level.WARNING
        whose = " ".join(f"{row['holder']} {row['login']}".split())
        since = "for ever" if row["seconds"] == float("inf") else f"for {row['seconds']:,.0f} s"
        yield Finding("horizon", level, f"{whose} ({row['state']}) has been holding it {since}", row["remedy"])
    if not held:
        yield Finding("horizon", Level.GOOD, "no transaction has been open for a long time")


def _sees_others(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_has_role('pg_read_all_stats', 'USAGE') AS sees").fetchone()
    return bool(row and row["sees"])


def _version(number: int) -> Finding:
    major = number // 10_000
    if major < OLDEST_SERVER:
        return Finding("version", Level.BAD, f"PostgreSQL {major} is too old", f"upgrade to {NEWEST_SERVER}")
    if major > NEWEST_SERVER:
        return Finding("version", Level.WARNING, f"PostgreSQL {major} has not been tested", f"use {NEWEST_SERVER}")
    return Finding("version", Level.GOOD, f"PostgreSQL {major}")


def _settings(connection: Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT name, setting, current_setting(name) AS said FROM pg_settings WHERE name = ANY (%s)",
        ([need.name for need in NEEDS],),
    )
    there = {row["name"]: row for row in rows}
    for need in NEEDS:
        is_met = need.is_met(there[need.name]["setting"])
        said = f"{need.name} is {there[need.name]['said']}"
        if is_met:
            yield Finding("setting", Level.GOOD, said)
        else:
            yield Finding("setting", need.level, f"{said}: {need.harm}", need.remedy)


def _connections(connection: Connection) -> Finding:
    row = connection.execute(query("doctor_connections")).fetchone()
    assert row is not None
    said = f"{row['n']} of {row['most']} connections are in use"
    if row["n"] > BUSY_CONNECTIONS * row["most"]:
        return Finding("connections", Level.WARNING, said, "put pgbouncer in transaction mode before the workers")
    return Finding("connections", Level.GOOD, said)


def _clock(connection: Connection) -> Finding:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds").fetchone()
    after = time.time()
    assert row is not None
    # The server read its clock between our two readings.
    off = max(before - row["seconds"], row["seconds"] - after, 0.0)
    if off > CLOCK_SECONDS:
        return Finding(
            "clock", Level.WARNING, f"the server's clock is {off:,.0f} s from this machine's", "run NTP on both"
        )
    return Finding("clock", Level.GOOD, "the server's clock agrees with this machine's")


def _disk(connection: Connection) -> Iterator[Finding]:
    """Check the server's disk if the server runs on this machine; SQL cannot read the free space."""
    if not connection.info.host.startswith("/"):
        return
    row = connection.execute("SELECT setting FROM pg_settings WHERE name = 'data_directory'").fetchone()
    if row is None:  # only the admin's roles may read this setting
        return
    try:
        usage = shutil.disk_usage(row["setting"])
    except OSError:
        return
    said = f"{usage.free / 2**30:,.0f} GiB of {usage.total / 2**30:,.0f} are free"
    if usage.used > FULL_DISK * usage.total:
        yield Finding("disk", Level.BAD, said, "free some space: Postgres stops when it cannot write")
    else:
        yield Finding("disk", Level.GOOD, said)


def _vacuum(connection: Connection) -> Iterator[Finding]:
    wrong = []
    for row in connection.execute(query("doctor_tables")):
        table = f"tracker.{row['name']}"
        if row["switched_off"]:
            remedy = f"ALTER TABLE {table} RESET (autovacuum_enabled)"
            wrong.append(Finding("vacuum", Level.BAD, f"autovacuum is switched off for {table}", remedy))
        if row["dead"] > DEAD_ROWS + DEAD_SHARE * row["live"]:
            said = f"{table} has {row['dead']:,} dead rows and {row['live']:,} live ones"
            wrong.append(
                Finding("vacuum", Level.WARNING, said, f"run VACUUM {table}, and look at the finding about the horizon")
            )
    age = connection.execute("SELECT age(datfrozenxid) AS n FROM pg_database WHERE datname = current_database()")
    row = age.fetchone() or {"n": 0}
    if row["n"] > OLDEST_XID:
        said = f"the oldest transaction id is {row['n']:,} transactions old; Postgres stops writing at 2.1 billion"
        wrong.append(
            Finding("vacuum", Level.BAD, said, "end the transaction that holds the horizon, then run VACUUM (FREEZE)")
        )
    yield from wrong or [Finding("vacuum", Level.GOOD, "autovacuum keeps up")]
