"""The piles between the stages with their marks, and how long the pool will last.

All numbers come from the ledger. `tracker serve` notes once a minute how much has been drawn; two notes give the rate
at which the pool empties, and the pool divided by the rate gives the hours of work left. Links that a stopped worker
returned to the pool do not count as drawn.

Rejected: computing the rate from the jobs' times (every claim would have to update an index), or from the entries of
the ledger (they are folded every few seconds).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker.database.database import Connection, query, translated

PACE_SECONDS = 60
"""Time between two notes; the error of a rate over one hour is then below 2 %."""


@dataclass(frozen=True, slots=True)
class Pile:
    """The finished work of a queue that waits for the next stage. At `high` the queue is held, until all its piles have
    fallen to `resume`.
    """

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

    `drawn_per_hour` and `came_in_per_hour` describe the last hour, or the known part of it; None means not measured,
    because `tracker serve` has not run for two minutes. `hours_left` assumes that nothing comes in; it is None when
    nothing is drawn. `more_can_come`: extract or ingest have jobs, so a low pool is a fault and not the crawl's end.
    """

    pool: int
    came_in: int
    """Candidates that have ever come in."""
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
        """Return a sentence if the pool is low although more can come, else None.

        A crawl that has not brought `pool_low` candidates yet is small, or begins: its pool never held as many.
        """
        if self.came_in < self.pool_low or not self.more_can_come:
            return None
        if not (self.is_low_in_rows or self.is_low_in_hours):
            return None
        return (
            f"the pool is low: {self.pool:,} candidates (pool_low {self.pool_low:,}), runs dry: {self.runs_dry} "
            f"(pool_low_hours {self.pool_low_hours:g}); add extract or ingest workers, or limit download"
        )

    @property
    def runs_dry(self) -> str:
        """Return in words when the pool will be empty."""
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
    """How many of the `read` rows the Bloom filter dropped, and how many of these were probably new links.

    `rate` is the setting: the largest share of new links that may be lost. `expected_rate` is the share that was
    probably lost, computed from the filter's fill when each pack came in.
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
    """Return the balance of this moment."""
    with translated():
        row = _one(connection, "balance")
        piles = [Pile(**pile) for pile in connection.execute(query("piles")).fetchall()]
    return Balance(piles=tuple(piles), **row)


def note_pace(connection: Connection) -> bool:
    """Note how much has been drawn, unless there is a note of the last minute; return whether it was noted."""
    with translated():
        return connection.execute(query("note_pace"), {"seconds": PACE_SECONDS}).rowcount > 0


def bloom_cost(connection: Connection) -> BloomCost:
    """Return what the Bloom filter has dropped, over all runs."""
    with translated():
        row = _one(connection, "bloom_cost")
    return BloomCost(**row)


def _one(connection: Connection, name: str) -> Mapping[str, Any]:
    row = connection.execute(query(name)).fetchone()
    assert row is not None
    return row
