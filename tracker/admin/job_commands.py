"""The commands for jobs: jobs, job, retry, discard, priority."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from tracker.admin import jobs as queue_jobs
from tracker.admin.console import Json, Queue, Yes, agree, app, open_tracker, show, tell
from tracker.admin.jobs import Choice
from tracker.database.database import Connection, Row
from tracker.database.enums import JOB_STATES

State = StrEnum("State", {name: name for name in JOB_STATES})  # type: ignore[misc]

Ids = Annotated[list[int] | None, typer.Argument(help="Ids of jobs.", min=1)]
OfQueue = Annotated[Queue | None, typer.Option("--queue", help="Only jobs of this queue.")]
OfRun = Annotated[str | None, typer.Option("--run", help="Only jobs of this run.")]
Preview = Annotated[bool, typer.Option("--preview", help="Show what would change, and change nothing.")]
EveryDead = Annotated[bool, typer.Option("--all", help="All dead jobs.")]
SMALLEST, LARGEST = -(2**15), 2**15 - 1  # a smallint


@app.command("jobs")
def list_jobs(
    queue: OfQueue = None,
    state: Annotated[list[State] | None, typer.Option(help="Only jobs in this state. Repeatable.")] = None,
    run: OfRun = None,
    limit: Annotated[int, typer.Option(min=1, help="How many jobs to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, the latest first."""
    choice = Choice(queue=_value(queue), states=tuple(one.value for one in state or ()), run=run)
    with open_tracker() as connection:
        rows = queue_jobs.jobs(connection, choice, limit=limit)
    show({"jobs": rows}, as_json, lambda: queue_jobs.render(rows))


@app.command("job")
def show_job(job_id: Annotated[int, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Show a job: its payload, result, error and history."""
    with open_tracker() as connection:
        found = queue_jobs.job(connection, job_id)
    show(found, as_json, lambda: queue_jobs.render_job(found))


@app.command()
def retry(
    jobs: Ids = None,
    queue: OfQueue = None,
    run: OfRun = None,
    every: EveryDead = False,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Make dead jobs ready again, with all their attempts."""
    choice = _choice(jobs, queue, run, every)
    with open_tracker() as connection:
        chosen = queue_jobs.choose(connection, choice, "retry", ("dead",))
        _do(chosen, connection, queue_jobs.retry, "jobs ready again", preview=preview, as_json=as_json)


@app.command()
def discard(
    jobs: Ids = None,
    queue: OfQueue = None,
    run: OfRun = None,
    every: EveryDead = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End dead jobs permanently.

    They are kept as discarded, with their error. The links of a download batch end as discarded.
    """
    choice = _choice(jobs, queue, run, every)
    with open_tracker() as connection:
        chosen = queue_jobs.choose(connection, choice, "discard", ("dead",))
        links = queue_jobs.links_held(connection, chosen)
        agree(
            {"jobs": chosen, "links": links},
            "Discard these permanently?",
            yes=yes,
            as_json=as_json,
            text=lambda: queue_jobs.render_chosen(chosen, links),
        )
        _do(chosen, connection, queue_jobs.discard, "jobs discarded", preview=False, as_json=as_json)


@app.command(context_settings={"ignore_unknown_options": True})
def priority(
    number: Annotated[int, typer.Argument(min=SMALLEST, max=LARGEST, help="Default 0; higher numbers come first.")],
    jobs: Ids = None,
    queue: OfQueue = None,
    run: OfRun = None,
    every: Annotated[bool, typer.Option("--all", help="All jobs that have not ended.")] = False,
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Change the priority of jobs that have not ended.

    Jobs that follow from them inherit it.
    """
    choice = _choice(jobs, queue, run, every)

    def prioritise(connection: Connection, chosen: Sequence[Row]) -> int:
        return queue_jobs.prioritise(connection, chosen, number)

    with open_tracker() as connection:
        chosen = queue_jobs.choose(connection, choice, "priority", queue_jobs.UNFINISHED)
        _do(chosen, connection, prioritise, f"jobs that now have priority {number}", preview=preview, as_json=as_json)


def _choice(jobs: list[int] | None, queue: Queue | None, run: str | None, every: bool) -> Choice:
    if not (jobs or queue or run or every):
        raise typer.BadParameter("choose jobs: give ids, --queue, --run or --all")
    return Choice(ids=tuple(jobs or ()), queue=_value(queue), run=run)


def _do(
    chosen: Sequence[Row],
    connection: Connection,
    verb: Callable[[Connection, Sequence[Row]], int],
    done: str,
    *,
    preview: bool,
    as_json: bool,
) -> None:
    if preview:
        show({"changed": False, "jobs": chosen}, as_json, lambda: queue_jobs.render_chosen(chosen))
        return
    n = verb(connection, chosen)
    tell({"changed": True, "jobs": n}, as_json, f"{done}: {n:,}")


def _value(queue: Queue | None) -> str | None:
    return queue.value if queue else None
