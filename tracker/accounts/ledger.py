"""The ledger: how many links came in, where they wait and how they ended, as +N and -N entries that are folded into
counters.

This equation, the law of conservation, holds for each run and subset:

    in = pool + again + leased + finished

Folding moves entries into counters in one statement, so a sum over both never misses an entry.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from tracker.database.database import Connection, query, translated

PLACES = ("pool", "again", "leased")


@dataclass(slots=True)
class Account:
    """The candidates of one run and subset, by where they are."""

    came_in: int = 0
    pool: int = 0
    again: int = 0
    leased: int = 0
    finished: dict[str, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """Return how many links are missing by the law of conservation; negative if some are counted twice."""
        return self.came_in - self.pool - self.again - self.leased - sum(self.finished.values())


Accounts = dict[tuple[str, str], Account]  # by run's name and subset


def fold(connection: Connection) -> int:
    """Fold the ledger into the counters; return the number of entries."""
    with translated(), connection.transaction():
        connection.execute("SET LOCAL ROLE shoal_owner")
        # One fold at a time. Not an advisory lock, because any login can take one.
        connection.execute("LOCK TABLE tracker.counter IN SHARE ROW EXCLUSIVE MODE")
        row = connection.execute(query("fold")).fetchone()
    return int(row["folded"]) if row else 0


def accounts(connection: Connection) -> Accounts:
    """Return what the ledger says, by run and subset."""
    found: Accounts = defaultdict(Account)
    with translated():
        for row in connection.execute(query("accounts")):
            of = found[row["run"], row["subset"]]
            match row["account"]:
                case "in":
                    of.came_in += row["n"]
                case "finished":
                    of.finished[row["label"]] = of.finished.get(row["label"], 0) + row["n"]
                case place:
                    setattr(of, place, getattr(of, place) + row["n"])
    return dict(found)


def total(of: Accounts) -> Account:
    """Return the sum over all runs and subsets."""
    whole = Account()
    for one in of.values():
        whole.came_in += one.came_in
        for place in PLACES:
            setattr(whole, place, getattr(whole, place) + getattr(one, place))
        for outcome, n in one.finished.items():
            whole.finished[outcome] = whole.finished.get(outcome, 0) + n
    return whole
