"""Drain workers whose address is burnt: far more hosts refuse them (403, 429, 503) than refuse the others.

The statistic: a worker's share is the number of hosts that refused it divided by the number of hosts it asked, counted
once per batch, with a half-life of one hour. A worker is burnt if the lower end of the share's 99.9 % interval
(Wilson's) exceeds `burnt_factor` times the median share of the fleet, where the median counts as at least 1 %. A worker
needs at least `burnt_hosts` hosts, and the fleet five such workers.

The median is over workers, not hosts, so burnt workers do not shift it until they are half of the fleet. Rejected: the
fleet's mean, because burnt workers shift it; a fixed limit, because the web's share of refusals varies between crawls
from under 1 to over 10 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median

from tracker.accounts.changes import record
from tracker.database.database import Connection, query, translated

Z = 3.29
"""Standard normal, 99.9 % two-sided."""

LEAST_SHARE = 0.01
FEWEST_WORKERS = 5


@dataclass(frozen=True, slots=True)
class Counts:
    """Hosts that a worker asked, and hosts that refused it; older counts weigh less, so both are fractions."""

    worker: str
    asked: float
    refused: float

    @property
    def share(self) -> float:
        return self.refused / self.asked


def least_share(refused: float, asked: float) -> float:
    """Return the lower end of Wilson's interval for a share."""
    share, z2 = refused / asked, Z * Z
    spread = Z * sqrt(share * (1 - share) / asked + z2 / (4 * asked * asked))
    return max(0.0, (share + z2 / (2 * asked) - spread) / (1 + z2 / asked))


def find_burnt(fleet: Sequence[Counts], *, fewest_hosts: float, factor: float) -> dict[str, str]:
    """Return the reason for each burnt worker."""
    known = [one for one in fleet if one.asked >= fewest_hosts]
    if len(known) < FEWEST_WORKERS:
        return {}
    usual = median(one.share for one in known)
    return {
        one.worker: f"refused by {100 * one.share:.0f} % of {one.asked:.0f} hosts; the fleet's median is "
        f"{100 * usual:.1f} %"
        for one in known
        if least_share(one.refused, one.asked) > factor * max(usual, LEAST_SHARE)
    }


def drain_burnt(connection: Connection) -> list[tuple[str, str]]:
    """Mark, drain and log the burnt workers; return worker and reason of each."""
    with translated():
        rows = connection.execute(query("burnt_counts")).fetchall()
        limits = connection.execute(
            "SELECT tracker.setting('burnt_hosts')::float8 AS hosts, tracker.setting('burnt_factor')::float8 AS factor"
        ).fetchone()
    assert limits is not None
    fleet = [Counts(row["worker"], row["asked"], row["refused"]) for row in rows]
    drained = []
    for worker, reason in find_burnt(fleet, fewest_hosts=limits["hosts"], factor=limits["factor"]).items():
        with translated(), connection.transaction():
            if connection.execute(query("drain_burnt"), {"worker": worker, "reason": reason}).rowcount:
                record(
                    connection, "burnt", worker,
                    before={"state": "active"}, after={"state": "draining", "reason": reason},
                )  # fmt: skip
                drained.append((worker, reason))
    return drained
