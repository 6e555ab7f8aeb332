"""The table of workers, as `tracker workers` and `tracker status` show it."""

from collections.abc import Sequence

from tracker.accounts.fleet import is_in_trouble
from tracker.admin.listing import Column, Listing, span
from tracker.database.database import Row


def render(rows: Sequence[Row]) -> Listing:
    columns = [Column("worker"), Column("kind"), Column("host", shrinks=True)]
    columns += [Column(heading, right=True) for heading in ("pid", "seen", "leases", "jobs/h", "failed")]
    table = Listing([*columns, Column("state"), Column("version", optional=True), Column("machine", optional=True)])
    for row in rows:
        seen = "never" if row["seen_seconds_ago"] is None else span(row["seen_seconds_ago"])
        table.add(
            row["worker"][:8], row["kind"], row["host"], row["pid"], seen,
            row["leases"], f"{row['jobs_per_hour']:.1f}", row["failures_last_hour"],
            _state(row), row["version"], row["machine"] or "",
            note=f"burnt: {row['burnt_reason']}" if row["burnt_at"] else "", style="red" if is_in_trouble(row) else "",
        )  # fmt: skip
    return table


def _state(row: Row) -> str:
    if not row["alive"]:
        return "silent"
    if row["burnt_at"]:
        return "burnt"
    return f"stuck {span(row['progressed_seconds_ago'])}" if row["stuck"] else str(row["state"])
