"""Builds over a release, in steps: `tracker index` and `tracker dedup` seed the first one.

Invariant: options and plan are fixed when the build is seeded; SQL inserts the units of each later step when the last
unit of the step before is done (tracker/functions/complete_unit.sql). For a release, queue and target there is at most
one build in progress. When it begins, no unit of an earlier build is leased, because both would write the same files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from tracker.database.database import Connection, query, translated
from tracker.errors import TrackerError
from tracker.seeding.releases import ReleaseRun

ABANDON = "UPDATE tracker.build SET abandoned_at = now() WHERE build_id = %s AND finished_at IS NULL"
LOCK_RUN = "SELECT FROM tracker.run WHERE run_id = %s FOR NO KEY UPDATE"


@dataclass(frozen=True, slots=True)
class Build:
    """What to build; `target` distinguishes builds of the same queue over the same release."""

    queue: str
    target: str
    options: Mapping[str, Any]
    plan: Sequence[tuple[str, int]]
    """Names of the steps, in order, with their numbers of units."""


@dataclass(frozen=True, slots=True)
class SeededBuild:
    """A build that is new, in progress or finished; `step` and `units_left` describe its current step."""

    build: int
    is_new: bool
    is_finished: bool
    step: str | None
    units_left: int


def seed_build(connection: Connection, run: ReleaseRun, build: Build, *, restart: bool = False) -> SeededBuild:
    """Begin a build, unless the same one is in progress or finished; with `restart`, begin it in any case.

    Raises:
        TrackerError: another build of this target is in progress, or its units are still leased.
    """
    version = run.release.get("version")
    if not isinstance(version, str):
        raise TrackerError(f"{run.run}/release.json has no version: publish the release again")
    values = {
        "run_id": run.run_id, "queue": build.queue, "target": build.target, "version": version,
        "options": Jsonb(dict(build.options)), "plan": Jsonb([list(step) for step in build.plan]),
    }  # fmt: skip
    with translated(), connection.transaction():
        connection.execute(LOCK_RUN, (run.run_id,))
        latest = connection.execute(query("latest_build"), values).fetchone()
        if latest is not None:
            if latest["same"] and not restart and not latest["abandoned"]:
                return _seen(connection, values, is_new=False)
            if not (latest["finished"] or latest["abandoned"] or restart):
                raise TrackerError(
                    f"another {build.queue} build of {run.run} is at step {latest['step']}, with "
                    f"{latest['units_left']} units left: let it finish, or abandon it with --restart"
                )
            _abandon(connection, values | {"build_id": latest["build_id"]}, run.run)
        added = connection.execute(query("insert_build"), values).fetchone()
        assert added is not None
        connection.execute("SELECT tracker.begin_step(%s, 0::smallint)", (added["build_id"],))
        return _seen(connection, values, is_new=True)


def _seen(connection: Connection, values: Mapping[str, Any], *, is_new: bool) -> SeededBuild:
    row = connection.execute(query("latest_build"), values).fetchone()
    assert row is not None
    return SeededBuild(row["build_id"], is_new, row["finished"], row["step"], row["units_left"])


def _abandon(connection: Connection, values: Mapping[str, Any], run: str) -> None:
    """Abandon a build, so that no worker gets one of its units again."""
    connection.execute(ABANDON, (values["build_id"],))
    connection.execute(query("abandon_units"), values)
    row = connection.execute(query("leased_units"), values).fetchone()
    assert row is not None
    if row["n"]:
        raise TrackerError(
            f"{row['n']} units of the earlier {values['queue']} build of {run} are leased, and would write the same "
            f"files: pause the queue with tracker pause {values['queue']}, wait until tracker status shows none "
            "leased, and try again"
        )
