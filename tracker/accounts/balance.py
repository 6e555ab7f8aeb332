"""The balance of what comes in and goes out: what piles up against its marks, and how long the pool will last.

All numbers come from the ledger. `tracker serve` notes once a minute how much has been drawn; two such notes give the
rate at which the pool empties, and the pool over the rate the hours of work left. The rate counts what left for good:
links that a stopped worker returned are in the pool again.

Rejected: the rate from the jobs' own times (an index that every claim would have to write), and from the ledger's
entries (they are folded every few seconds).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker.database.database import Connection, query, translated

PACE_SECONDS = 60
"""Between two notes: of an hour's rate the error is then below 2 %."""


@dataclass(frozen=True, slots=True)
class Pile:
    """What piles up behind a queue, and the marks: the queue is held from `high` on until all of it is at `resume`."""

    queue: str
    what: str
    amount: int
    high: int
    resume: int

    @property
    def is_full(self) -> bool:
        return self.amount >= self.high


@dataclass(frozen=True, slots=True)
class Balance:
    """The pool in rows and in hours of work left, and the piles between the stages.

    `drawn_per_hour` and `came_in_per_hour` are of the last hour, or of what is known of it; None: not measured, for
    `tracker serve` has not run for two minutes. `hours_left` is None when nothing is drawn: then the pool lasts for
    ever. It counts on nothing coming in. `more_can_come`: extract or ingest have jobs, so a low pool is a fault and not
    the end of the crawl.
    """

    pool: int
    pool_low: int
    pool_low_hours: float
    drawn_per_hour: float | None
    came_in_per_hour: float | None
    more_can_come: bool
    piles: tuple[Pile, ...]

    @property
    def hours_left(self) -> float | None:
        return self.pool / self.drawn_per_hour if self.drawn_per_hour else None

    @property
    def is_low_in_rows(self) -> bool:
        return self.pool < self.pool_low

    @property
    def is_low_in_hours(self) -> bool:
        return self.hours_left is not None and self.hours_left < self.pool_low_hours

    @property
    def alarm(self) -> str | None:
        """One sentence when the pool runs low although more can come, else None."""
        if not self.more_can_come or not (self.is_low_in_rows or self.is_low_in_hours):
            return None
        return (
            f"the pool is low: {self.pool:,} candidates (pool_low {self.pool_low:,}), runs dry: {self.runs_dry} "
            f"(pool_low_hours {self.pool_low_hours:g}); add extract or ingest workers, or limit download"
        )

    @property
    def runs_dry(self) -> str:
        """When the pool will be empty, in words."""
        if self.drawn_per_hour is None:
            return "not measured"
        return "never" if self.hours_left is None else f"in {self.hours_left:,.1f} hours"

    def to_json(self) -> dict[str, object]:
        return {
            "pool": self.pool,
            "pool_low": self.pool_low,
            "pool_low_hours": self.pool_low_hours,
            "drawn_per_hour": self.drawn_per_hour,
            "came_in_per_hour": self.came_in_per_hour,
            "hours_left": self.hours_left,
            "runs_dry": self.runs_dry,
            "more_can_come": self.more_can_come,
            "alarm": self.alarm,
            "piles": [
                {"queue": pile.queue, "what": pile.what, "amount": pile.amount, "high": pile.high}
                | {"resume": pile.resume, "full": pile.is_full}
                for pile in self.piles
            ],
        }


@dataclass(frozen=True, slots=True)
class BloomCost:
    """What the Bloom filter dropped of the `read` rows, and how many links among them it is expected to have lost.

    `rate` is the setting: the most of new links that may be lost. `expected_rate` is what was expected to be lost, over
    all that was new, from the stages' fill when each pack came in.
    """

    rate: float
    read: int
    dropped: int
    expected_wrong: float

    @property
    def expected_rate(self) -> float:
        new = self.read - self.dropped + self.expected_wrong
        return self.expected_wrong / new if new else 0.0


def balance(connection: Connection) -> Balance:
    """The balance of this moment."""
    with translated():
        row = _one(connection, "balance")
        piles = [Pile(**pile) for pile in connection.execute(query("piles")).fetchall()]
    return Balance(piles=tuple(piles), **row)


def note_pace(connection: Connection) -> bool:
    """Note how much has been drawn, unless that was done within the last minute; whether it was noted."""
    with translated():
        return connection.execute(query("note_pace"), {"seconds": PACE_SECONDS}).rowcount > 0


def bloom_cost(connection: Connection) -> BloomCost:
    """What the Bloom filter has cost, over all runs."""
    with translated():
        row = _one(connection, "bloom_cost")
    return BloomCost(**row)


def _one(connection: Connection, name: str) -> Mapping[str, Any]:
    row = connection.execute(query(name)).fetchone()
    assert row is not None
    return row
