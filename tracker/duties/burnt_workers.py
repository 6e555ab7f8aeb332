"""Workers whose address is burnt: refused (403, 429, 503) by far more hosts than the others are.

The statistic: a worker's share is the hosts that refused it among the hosts that it asked, counted once a batch and
fading by half an hour by hour. It is burnt when the lower end of its share's 99.9 % interval (Wilson's, for a share of
n trials) is over `burnt_factor` times the fleet's median share, that median taken for 1 % at least. It takes
`burnt_hosts` hosts asked, and five workers with as much evidence.

The median is of workers, not of hosts, so that many burnt workers do not make themselves the measure until they are the
half. Rejected: the fleet's mean, which they do move; a fixed limit, because the web's own share of refusals differs
between crawls from under 1 to over 10 %.
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
    """What a worker met: hosts asked, and hosts that refused; both fade, so they are no whole numbers."""

    worker: str
    asked: float
    refused: float

    @property
    def share(self) -> float:
        return self.refused / self.asked


def least_share(refused: float, asked: float) -> float:
    """The lower end of Wilson's interval for a share."""
    share, z2 = refused / asked, Z * Z
    spread = Z * sqrt(share * (1 - share) / asked + z2 / (4 * asked * asked))
    return max(0.0, (share + z2 / (2 * asked) - spread) / (1 + z2 / asked))


def find_burnt(fleet: Sequence[Counts], *, fewest_hosts: float, factor: float) -> dict[str, str]:
    """The reason, by worker, of those that are burnt."""
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
    """Mark and drain the workers that are burnt, each with an entry in the log of changes; worker and reason."""
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
