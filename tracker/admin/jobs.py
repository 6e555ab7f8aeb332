"""List jobs, and retry, discard or prioritise them.

Invariant: a job is chosen by its state when it was listed, and changed only if it still has that state. So the numbers
returned may be smaller than in a preview, never larger.

The links of a discarded batch end as `discarded`. No shard has rows of them, so the batch stays, and the exact audit
counts them there. They never come back, because the Bloom filter knows their URLs. Rejected: returning them to the
pool, because a link that crashes its workers would crash them again in other batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Group, RenderableType
from rich.text import Text

from tracker.accounts.changes import MAX_IDS, record
from tracker.admin.listing import Column, Listing, text_table
from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError

UNFINISHED = ("ready", "leased", "dead")
MAX_CHOSEN = 1_000_000  # maximum number of jobs that one command changes; the next call changes further ones
MAX_SHOWN = 20  # jobs that a preview shows
LINKS_HELD = "SELECT coalesce(sum(n), 0) AS n FROM tracker.batch WHERE job_id = ANY (%s)"
STATEMENTS = {"retry": "retry", "discard": "discard", "priority": "prioritise"}


@dataclass(frozen=True, slots=True)
class Choice:
    """Select jobs by id, queue, states and run; an empty field or None selects all."""

    ids: tuple[int, ...] = ()
    queue: str | None = None
    states: tuple[str, ...] = ()
    run: str | None = None


def jobs(connection: Connection, choice: Choice, *, limit: int) -> list[Row]:
    """Return the latest jobs of a choice, with the keys of `tracker jobs --json`."""
    values = {"ids": list(choice.ids), "states": list(choice.states), "queue": choice.queue, "run": choice.run}
    with translated():
        return connection.execute(query("jobs"), values | {"limit": limit}).fetchall()


def job(connection: Connection, job_id: int) -> Row:
    """Return a job with payload, result, error, outputs and `history`, its leases so far.

    Raises:
        TrackerError: there is no such job.
    """
    with translated():
        row = connection.execute(query("job"), {"job": job_id}).fetchone()
        if row is None:
            raise TrackerError(f"there is no job {job_id}: tracker jobs lists them")
        return row | {"history": connection.execute(query("job_history"), {"job": job_id}).fetchall()}


def choose(connection: Connection, choice: Choice, verb: str, states: Sequence[str]) -> list[Row]:
    """Return the jobs of a choice that are in one of the states which the verb allows.

    Raises:
        TrackerError: a job that was named by its id does not exist, or is in another state.
    """
    chosen = jobs(connection, replace(choice, states=tuple(states)), limit=MAX_CHOSEN)
    if missing := set(choice.ids) - {row["job_id"] for row in chosen}:
        found = job(connection, min(missing))
        known = f"job {found['job_id']} is {found['state']} and in queue {found['queue']} and run {found['run']}"
        raise TrackerError(f"{known}: {verb} is for jobs that are {' or '.join(states)}")
    return chosen


def retry(connection: Connection, chosen: Sequence[Row]) -> int:
    """Make dead jobs ready again, with all their attempts; return their number."""
    return _change(connection, "retry", chosen, before={"state": "dead"}, after={"state": "ready"})


def discard(connection: Connection, chosen: Sequence[Row]) -> int:
    """End dead jobs permanently; return their number."""
    return _change(connection, "discard", chosen, before={"state": "dead"}, after={"state": "discarded"})


def links_held(connection: Connection, chosen: Sequence[Row]) -> int:
    """Return how many links the batches of these jobs contain; they end together with a discarded batch."""
    batches = [row["job_id"] for row in chosen if row["queue"] == "download"]
    with translated():
        row = connection.execute(LINKS_HELD, (batches,)).fetchone()
    assert row is not None
    return int(row["n"])


def prioritise(connection: Connection, chosen: Sequence[Row], priority: int) -> int:
    """Set the priority of jobs (higher numbers come first); return how many had another priority before."""
    known = sorted({row["priority"] for row in chosen})
    return _change(connection, "priority", chosen, before={"priority": known}, after={"priority": priority})


def _change(connection: Connection, command: str, chosen: Sequence[Row], *, before: Row, after: Row) -> int:
    values = {"ids": [row["job_id"] for row in chosen]} | after
    with translated(), connection.transaction():
        changed = [row["job_id"] for row in connection.execute(query(STATEMENTS[command]), values)]
        if changed:
            which = {"jobs": len(changed), "ids": sorted(changed)[:MAX_IDS]}
            record(connection, command, _named(changed), before=before | which, after=after)
    return len(changed)


def _named(ids: Sequence[int]) -> str:
    return f"job {ids[0]}" if len(ids) == 1 else f"{len(ids)} jobs"


def render(rows: Sequence[Row]) -> Listing:
    columns = [Column("job", right=True), Column("queue"), Column("state"), Column("run", shrinks=True)]
    columns += [Column("try", right=True), Column("priority", right=True), Column("since")]
    table = Listing([*columns, Column("host", optional=True)])
    for row in rows:
        since = (row["finished_at"] or row["created_at"]).strftime("%m-%d %H:%M:%S")
        table.add(
            row["job_id"], row["queue"], row["state"], row["run"], row["attempt"], row["priority"], since,
            row["host"] or "", note=row["error"] or "",
        )  # fmt: skip
    return table


def render_chosen(rows: Sequence[Row], links: int = 0) -> RenderableType:
    """Return a preview of a command: the first jobs, the number of jobs, and the number of links in them."""
    with_links = f", with {links:,} links" if links else ""
    return Group(render(rows[:MAX_SHOWN]), Text(f"jobs in all: {len(rows):,}{with_links}"))


def render_job(found: Row) -> RenderableType:
    facts = text_table("job", str(found["job_id"]))
    for key, value in found.items():
        if key not in {"job_id", "history"} and value not in (None, [], {}):
            facts.add_row(key, Text(str(value)))
    history = text_table("leased", "until", "ending", "worker", "host")
    for lease in found["history"]:
        moments = (lease["granted_at"], lease["ended_at"])
        cells = ["" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S") for moment in moments]
        cells += [lease["ending"] or "holds it", lease["worker"][:8], f"{lease['host']}:{lease['pid']}"]
        history.add_row(*map(Text, cells))
    return Group(facts, "", history) if found["history"] else facts
