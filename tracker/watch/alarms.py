"""The present faults of the swarm, as sentences; docker/monitoring/alerts.yml has the same bounds."""

from collections.abc import Iterator, Mapping
from typing import Any

from tracker.watch import pace
from tracker.watch.bounds import FULL_DISK, LONG_SECONDS, OLDEST_XID, UNFOLDED_ENTRIES, UNFOLDED_SECONDS

SOON_HOURS = 6.0


def alarms(seen: Mapping[str, Any]) -> list[str]:
    """Return the alarms of a snapshot, the worst first."""
    return [*_server(seen), *_pool(seen), *_queues(seen), *_builds(seen), *_workers(seen)]


def _server(seen: Mapping[str, Any]) -> Iterator[str]:
    server = seen["server"]
    disk = server["disk"]
    if disk and disk["free_bytes"] < (1 - FULL_DISK) * disk["size_bytes"]:
        yield f"the database's disk has {disk['free_bytes'] / 2**30:,.0f} GiB left: Postgres stops when it cannot write"
    if server["oldest_xid_age"] > OLDEST_XID:
        yield f"the oldest transaction id is {server['oldest_xid_age']:,} transactions old: see tracker doctor"
    if server["horizon_seconds"] > LONG_SECONDS:
        yield f"a transaction has been open for {server['horizon_seconds']:,.0f} s: see tracker doctor"
    if server["ledger_lag_seconds"] > UNFOLDED_SECONDS and server["ledger_entries"] > UNFOLDED_ENTRIES:
        lag = server["ledger_lag_seconds"]
        yield f"the ledger has not been folded for {lag:,.0f} s: keep one tracker serve running"


def _pool(seen: Mapping[str, Any]) -> Iterator[str]:
    if not seen["in"] or not _has_more(seen):
        return
    if seen["balance"]["alarm"]:
        yield seen["balance"]["alarm"]
        return
    came, ended = seen["rates"]["ingest"]["rows_out_per_second"], seen["rates"]["download"]["rows_in_per_second"]
    hours = pace.hours_until(float(seen["settings"]["pool_low"]), seen["pool"], came, ended)
    if hours is not None and hours < SOON_HOURS:
        yield f"at this pace the pool is under pool_low in {hours:.1f} hours: start extract and ingest workers"


def _has_more(seen: Mapping[str, Any]) -> bool:
    """Return whether more packs can come; a pool that becomes empty at the end of a run is not an alarm."""
    return any(seen["queues"][queue]["ready"] + seen["queues"][queue]["leased"] for queue in ("extract", "ingest"))


def _queues(seen: Mapping[str, Any]) -> Iterator[str]:
    for name, queue in seen["queues"].items():
        if queue["dead"]:
            yield f"dead jobs of {name}: {queue['dead']:,}; see tracker jobs --state dead"
        waits = queue["ready"] or (name == "download" and seen["pool"])
        if waits and not seen["alive"][name] and not (queue["paused"] or queue["held"] or queue["max_leased"] == 0):
            yield f"work waits for {name}, and no such worker is alive"


def _builds(seen: Mapping[str, Any]) -> Iterator[str]:
    for build in seen["builds"]:
        if build["failed"]:
            units = "1 unit" if build["failed"] == 1 else f"{build['failed']:,} units"
            have = "has" if build["failed"] == 1 else "have"
            queue = build["queue"]
            yield (
                f"the {queue} build of {build['run']} stands still: {units} of step {build['step']} {have} failed; see "
                f"tracker jobs --queue {queue} --state dead, then tracker retry"
            )


def _workers(seen: Mapping[str, Any]) -> Iterator[str]:
    if stuck := sum(row["stuck"] or False for row in seen["workers"]):
        yield f"workers that are alive but stuck: {stuck}; see tracker workers"
