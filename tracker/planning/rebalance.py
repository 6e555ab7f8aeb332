"""Find the swarm's bottleneck, and propose changes that balance the stages: workers, watermarks, weights, dead leases.

Rates are measured by the ledger. The bottleneck is the stage that moves the fewest links per second; the other kinds
need only as many workers as keep up with it, plus a fifth. The tracker can make the changes of settings itself; people
start and stop workers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tracker.accounts.changes import record
from tracker.accounts.controls import change_setting
from tracker.accounts.fleet import evict, workers
from tracker.database.database import Connection, Row, query, translated
from tracker.database.enums import SUBSETS
from tracker.planning.measured_rates import with_measured
from tracker.planning.plan import ORDINARY, STAGES, Assumptions, Stage

RESERVE = 1.2
# The alarm for a low pool must come early enough to repair what has stopped; LAION's batches mixed badly below 4 %.
LEAST_HOURS = 6.0
LOW_SHARE = 0.04
# Draw fewer links of a subset if more of its shards wait for the filter than this many times the mean.
PILED_UP = 2.0
LEAST_PILE = 10


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of worker; `links_per_second` is in candidates that enter the pool, so that stages can be compared."""

    stage: Stage
    alive: int
    rate: float
    links_per_second: float
    enough: int


@dataclass(frozen=True, slots=True)
class Change:
    setting: str
    before: float
    after: float
    why: str


@dataclass(slots=True)
class Proposal:
    bottleneck: Stage | None
    kinds: list[Kind]
    changes: list[Change] = field(default_factory=list)
    silent: list[Row] = field(default_factory=list)
    unmeasured: list[Stage] = field(default_factory=list)


def propose(connection: Connection) -> Proposal:
    """Return what would balance the swarm, without changing anything."""
    known = with_measured(connection, ORDINARY)
    with translated():
        settings = {row["name"]: row["value"] for row in connection.execute(query("numbers"))}
        waiting = {row["subset"]: row["n"] for row in connection.execute(query("shards_waiting"))}
    kinds, bottleneck = _kinds(known)
    proposal = Proposal(bottleneck, kinds)
    proposal.unmeasured = [stage for stage in STAGES if known.rates[stage].source != "measured"]
    proposal.silent = [row for row in workers(connection) if not row["alive"]]
    drawn = next(kind.links_per_second for kind in kinds if kind.stage == "download")
    proposal.changes = [*_watermarks(settings, drawn), *_weights(settings, waiting)]
    return proposal


def apply(connection: Connection, proposal: Proposal) -> int:
    """Make the proposed changes and evict silent workers; return how many jobs are ready again."""
    with translated(), connection.transaction():
        for change in proposal.changes:
            change_setting(connection, change.setting, change.after)
        returned = evict(connection, proposal.silent)
        record(
            connection,
            "rebalance",
            "swarm",
            before={change.setting: change.before for change in proposal.changes},
            after={change.setting: change.after for change in proposal.changes} | {"jobs_returned": returned},
        )
    return returned


def _kinds(known: Assumptions) -> tuple[list[Kind], Stage | None]:
    """Return each kind's rate in new candidates per second, and the slowest kind that has workers."""
    # The number of rows that a stage processes for each new candidate.
    new, success = known.new_share.value, known.success_share.value
    rows: Mapping[Stage, float] = {
        "extract": 1 / new if new else 0.0,
        "ingest": 1 / new if new else 0.0,
        "download": 1.0,
        "filter": success,
    }
    alive = {
        stage: int(known.workers[stage].value) if known.workers[stage].source == "measured" else 0 for stage in STAGES
    }
    flow = {
        stage: alive[stage] * known.rates[stage].value / rows[stage] if rows[stage] else math.inf for stage in STAGES
    }
    working = [stage for stage in STAGES if alive[stage]]
    slowest = sorted(working, key=lambda stage: flow[stage])[:1]
    bottleneck = slowest[0] if slowest else None
    aim = flow[bottleneck] if bottleneck else 0.0
    kinds = []
    for stage in STAGES:
        rate = known.rates[stage].value
        enough = alive[stage] if stage == bottleneck else math.ceil(aim * RESERVE * rows[stage] / rate) if rate else 0
        kinds.append(Kind(stage, alive[stage], rate, flow[stage], enough))
    return kinds, bottleneck


def _watermarks(settings: Mapping[str, float], drawn: float) -> list[Change]:
    """Propose marks that leave LEAST_HOURS of draws below the low mark, and room for hysteresis above it."""
    low, resume, high = settings["pool_low"], settings["pool_resume"], settings["pool_high"]
    wanted = {}
    least = math.ceil(max(LEAST_HOURS * 3600 * drawn, LOW_SHARE * resume))
    if low < least:
        wanted["pool_low"] = (low, least, f"{LEAST_HOURS:.0f} hours of draws, or {LOW_SHARE:.0%} of the pool")
    if resume < 2 * least:
        wanted["pool_resume"] = (resume, 2 * least, "ingest must continue long before the alarm for a low pool")
    new_resume = max(resume, 2 * least)
    if high < RESERVE * new_resume:
        wanted["pool_high"] = (high, math.ceil(RESERVE * new_resume), "a fifth above the resume mark")
    # From the top down, because a mark must stay below the next one.
    order = ("pool_high", "pool_resume", "pool_low")
    return [Change(name, *wanted[name]) for name in order if name in wanted]


def _weights(settings: Mapping[str, float], waiting: Mapping[str, int]) -> list[Change]:
    """Propose to draw half as many links of a subset while its shards pile up, and as many as before afterwards."""
    drawn: Sequence[str] = [subset for subset in SUBSETS if settings[f"weight_{subset}"] > 0]
    mean = sum(waiting.get(subset, 0) for subset in drawn) / len(drawn) if drawn else 0.0
    found = []
    for subset in drawn:
        weight, n = settings[f"weight_{subset}"], waiting.get(subset, 0)
        if len(drawn) > 1 and n >= LEAST_PILE and n > PILED_UP * mean:
            found.append(Change(f"weight_{subset}", weight, weight / 2, f"{n} of its shards wait for the filter"))
        elif weight < 1 and n < LEAST_PILE:
            found.append(Change(f"weight_{subset}", weight, min(1.0, 2 * weight), "its shards no longer pile up"))
    return found
