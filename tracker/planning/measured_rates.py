"""The numbers of a plan that this swarm has measured: rates per worker, shares, and workers alive."""

from collections import Counter

from tracker.database.database import Connection, query, translated
from tracker.planning.plan import STAGES, Assumptions, with_given

# With less working time, the start of the process would dominate the rate.
LEAST_SECONDS = 10.0

# The plan's number that each setting determines.
FROM_SETTINGS = {
    "batch_size": "batch_size",
    "pool_high": "pool_high",
    "shard_bytes_high": "shards_high_bytes",
    "bloom_rate": "bloom_rate",
}


def with_measured(connection: Connection, assumptions: Assumptions) -> Assumptions:
    """Replace the numbers that the ledger, the settings and the workers alive provide.

    A rate is the number of rows divided by the time for which jobs were leased, so it is the rate of one worker and
    includes its waiting for the store.
    """
    with translated():
        rows = connection.execute(query("measured")).fetchall()
        alive = {row["kind"]: float(row["n"]) for row in connection.execute(query("alive_workers"))}
        numbers = {row["name"]: row["value"] for row in connection.execute(query("numbers"))}
    seen: Counter[tuple[str, str]] = Counter({(row["account"], row["label"] or ""): row["n"] for row in rows})
    found: dict[str, float] = {number: numbers[setting] for setting, number in FROM_SETTINGS.items()}
    for stage in STAGES:
        seconds = seen["milliseconds", stage] / 1000
        moved = seen["rows_out" if stage == "extract" else "rows_in", stage]
        if seconds >= LEAST_SECONDS and moved:
            found[f"rates.{stage}"] = moved / seconds
        if stage in alive:
            found[f"workers.{stage}"] = alive[stage]
    for name, part, whole in (
        ("new_share", seen["rows_out", "ingest"], seen["rows_in", "ingest"]),
        ("success_share", seen["rows_out", "download"], seen["rows_in", "download"]),
        ("kept_share", seen["filtered", "kept"], sum(n for (account, _), n in seen.items() if account == "filtered")),
    ):
        if whole:
            found[name] = part / whole
    return with_given(assumptions, found, "measured")
