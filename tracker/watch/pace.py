"""The rates at which the swarm works, and how long the pool lasts at these rates.

Rates come from the leases that ended in the last minutes (queries/minutes.sql), so a command that has just started
knows them too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tracker.database.enums import QUEUES

MINUTES = 30  # length of the history; minutes.sql reads the same number
# A batch of 10,000 links takes about 10 minutes, so that even one worker shows a rate.
RATE_MINUTES = 15
COUNTED = ("jobs", "failures", "rows_in", "rows_out")

# for each queue and each quantity, MINUTES numbers, the latest last
Minutes = Mapping[str, Mapping[str, Sequence[int]]]


def by_minute(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[int]]]:
    """Return the rows of minutes.sql as one number per minute, the latest last."""
    lines = {queue: {counted: [0] * MINUTES for counted in COUNTED} for queue in QUEUES}
    for row in rows:
        if 0 <= row["minute"] < MINUTES:
            for counted in COUNTED:
                lines[row["queue"]][counted][-1 - row["minute"]] = row[counted]
    return lines


def rates(minutes: Minutes) -> dict[str, dict[str, float]]:
    """Return jobs per hour and rows per second of each queue, since its first end in the last RATE_MINUTES."""
    return {queue: _rate(of) for queue, of in minutes.items()}


def _rate(of: Mapping[str, Sequence[int]]) -> dict[str, float]:
    recent = {counted: list(of[counted][-RATE_MINUTES:]) for counted in COUNTED}
    at_work = [n > 0 for n in recent["jobs"]]
    seconds = 60.0 * (len(at_work) - at_work.index(True)) if any(at_work) else 60.0
    return {
        "jobs_per_hour": 3600 * sum(recent["jobs"]) / seconds,
        "rows_in_per_second": sum(recent["rows_in"]) / seconds,
        "rows_out_per_second": sum(recent["rows_out"]) / seconds,
        "failures": float(sum(of["failures"])),
    }


def hours_until(mark: float, pool: int, in_per_second: float, ended_per_second: float) -> float | None:
    """Return the hours until the pool falls to a mark at this pace; None if it does not shrink."""
    shrinks_by = ended_per_second - in_per_second
    return (pool - mark) / shrinks_by / 3600 if shrinks_by > 0 else None


def targets(settings: Mapping[str, Any], came_in: Mapping[str, int]) -> dict[str, int]:
    """Return how many candidates of each subset the pool should hold.

    The sum is the resume mark, to which the pool falls before ingest continues. A subset's share of it is its share of
    what came in, because draws take from the subsets in proportion to what waits.
    """
    whole = sum(came_in.values())
    return {subset: round(float(settings["pool_resume"]) * n / whole) if whole else 0 for subset, n in came_in.items()}
