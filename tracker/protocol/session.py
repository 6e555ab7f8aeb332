"""A worker's session with the tracker: register, claim, draw, heartbeat, complete, fail, release, leave.

Every method calls one SQL function, and every call may be repeated: a claim and a download worker's heartbeat carry a
request id, the end of a job carries its lease. So a call whose connection broke is repeated on a new connection, and
has its effect only once. Heartbeats have their own connection, so that a long COPY on the other one does not delay them
until the lease is lost. All methods block; under trio, call them in a thread.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal, Self, TypeVar
from uuid import UUID, uuid4

from psycopg.types.json import Jsonb

from tracker.database.database import Connection, answered_within, connect, translated
from tracker.errors import DatabaseDown
from tracker.protocol.copy_rows import Buffer, copy_into

PROTOCOL = 3
# A broken connection is retried after 0.1 s, then after twice as long each time, for one minute: Postgres restarts or
# fails over in less time, and after it the lease has expired.
FIRST_PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
# A connection that does not answer for this long counts as broken. The logins' statement_timeout is one minute, that of
# ingest ten.
ANSWER_SECONDS = 75.0
INGEST_ANSWER_SECONDS = 660.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """A leased job; `output` is the stem of its output in the store."""

    job_id: int
    lease: UUID
    queue: str
    attempt: int
    run_id: int
    run: str
    recipe: dict[str, Any]
    payload: dict[str, Any]
    output: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A leased batch of `n` candidates of one subset; `tracker.protocol.payload` reads the payload."""

    job_id: int
    lease: UUID
    attempt: int
    run_id: int
    run: str
    recipe: dict[str, Any]
    output: str
    subset: str
    n: int
    max_tries: int
    payload: str


@dataclass(frozen=True, slots=True)
class DownloadBeat:
    """The answer to a download worker's heartbeat; see tracker/functions/heartbeat_download.sql."""

    state: str
    """'active' or 'draining'."""
    blocks: int
    """The version of the blocklist."""
    since: datetime
    """The cursor for the next heartbeat."""
    rests: dict[str, tuple[float, int]] | None
    """For each host the seconds left (negative after the end) and the refusals; with 0 refusals it may be contacted
    again.
    """
    probes: dict[str, Literal["free", "probe"] | float] | None
    """For each host of the report's probes: "free", "probe", or the seconds to wait."""


@dataclass(frozen=True, slots=True)
class FilterSlot:
    """The snapshot and packs of a slot's Bloom filter: packs[i] has ordinal snapshot_ordinal + 1 + i."""

    slot: int
    ordinal: int
    snapshot_ordinal: int
    snapshot_path: str | None
    packs: list[str]


@dataclass(frozen=True, slots=True)
class Added:
    """New candidates of one subset, for one leaf: `buffer` is a COPY of `n` rows.

    A repeated call iterates over the pieces again, so `buffer` must not be an iterator.
    """

    relation: str
    subset: str
    leaf: int
    n: int
    buffer: Buffer


class Session:
    """A registered worker; see the module's docstring."""

    def __init__(self, url: str, kind: str, worker_id: UUID, settings: Mapping[str, Any]) -> None:
        self.kind = kind
        self.worker_id = worker_id
        self.settings = settings
        self._work = _RetryingConnection(url, INGEST_ANSWER_SECONDS if kind == "ingest" else ANSWER_SECONDS)
        self._beat = _RetryingConnection(
            url, float(settings["lease_seconds"]) / 2
        )  # a second try may still renew the lease in time

    @classmethod
    def register(cls, url: str, kind: str, *, token: str | None = None) -> Self:
        """Register this process as a worker of a kind.

        Raises:
            DatabaseDown, SchemaBehind: at once and without retries, so that a wrong setting is noticed. Refused: the
            login, the token or the protocol is wrong.
        """
        with translated(), connect(url) as connection:
            row = connection.execute(
                "SELECT * FROM tracker.register(%s, %s, %s, %s, %s, %s)",
                (kind, socket.gethostname(), os.getpid(), version("shoal"), PROTOCOL, token),
            ).fetchone()
        assert row is not None
        return cls(url, kind, row["worker_id"], row["settings"])

    def heartbeat(self, progress: int) -> str:
        """Report progress, and return the worker's state: 'active' or 'draining'."""
        return str(self._beat.value("SELECT tracker.heartbeat(%s, %s)", self.worker_id, progress))

    def heartbeat_download(self, progress: int, since: datetime | None, report: Mapping[str, Any]) -> DownloadBeat:
        """Report progress and what hosts did; return what is new since the cursor (None: everything)."""
        rows = self._beat.rows(
            "SELECT * FROM tracker.heartbeat_download(%s, %s, %s, %s, %s)",
            self.worker_id, uuid4(), progress, since, Jsonb(dict(report)),
        )  # fmt: skip
        return DownloadBeat(**rows[0])

    def blocks(self, since: int) -> tuple[int, list[str], list[str]]:
        """Return the blocklist's version, and the patterns blocked and lifted since an earlier one (0: all blocked)."""
        (row,) = self._beat.rows("SELECT * FROM tracker.blocks(%s, %s)", self.worker_id, since)
        return row["version"], row["blocked"].splitlines(), row["lifted"].splitlines()

    def claim(self, want: int = 1) -> list[Job]:
        """Lease up to `want` jobs of our queue."""
        request = uuid4()
        rows = self._work.rows("SELECT * FROM tracker.claim(%s, %s, %s, %s)", self.worker_id, request, self.kind, want)
        return [Job(**row) for row in rows]

    def draw(self) -> Batch | None:
        """Draw and lease a batch of candidates; None if there are none to draw."""
        rows = self._work.rows("SELECT * FROM tracker.draw(%s, %s)", self.worker_id, uuid4())
        return Batch(**rows[0]) if rows else None

    def complete(self, job: Job | Batch, result: Mapping[str, Any]) -> None:
        """Complete a job with its result; see tracker/functions/complete_<queue>.sql. For ingest, see below.

        Raises:
            LeaseLost: another worker has the job; nothing was recorded.
            Refused: the result does not account for everything in the job.
        """
        self._work.value(f"SELECT tracker.complete_{self.kind}(%s, %s, %s)", job.job_id, job.lease, Jsonb(dict(result)))

    def complete_ingest(self, results: Sequence[tuple[Job, Mapping[str, Any]]], added: Sequence[Added]) -> None:
        """Lock the jobs, COPY the candidates and complete the jobs, all in one transaction."""

        def once(connection: Connection) -> None:
            with connection.transaction():
                held = [_held(connection, job) for job, _ in results]
                if not any(held):
                    return  # an earlier call was committed; its reply was lost
                for rows in added:
                    copy_into(connection, rows.relation, rows.buffer)
                for job, result in results:
                    connection.execute(
                        "SELECT tracker.complete_ingest(%s, %s, %s)", (job.job_id, job.lease, Jsonb(dict(result)))
                    )

        self._work.call(once)

    def complete_list(self, job: Job, result: Mapping[str, Any]) -> None:
        """Complete the job of a piece of a link list; see tracker/functions/complete_list.sql."""
        self._work.value("SELECT tracker.complete_list(%s, %s, %s)", job.job_id, job.lease, Jsonb(dict(result)))

    def hash_lists(self) -> dict[str, str]:
        """Return the hash lists in force: sha256 (hex) by path in the store."""
        rows = self._work.rows("SELECT * FROM tracker.hash_lists(%s)", self.worker_id)
        return {row["path"]: row["sha256"] for row in rows}

    def fail(self, job: Job | Batch, error: str) -> str:
        """Give the job back as failed; return 'ready' or, after the last attempt, 'dead'.

        Characters of the error that Postgres cannot store are escaped.
        """
        storable = error.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
        return str(self._work.value("SELECT tracker.fail(%s, %s, %s)", job.job_id, job.lease, storable))

    def release(self, job: Job | Batch) -> None:
        """Give the job back unfinished; no attempt is used up."""
        self._work.value("SELECT tracker.release(%s, %s)", job.job_id, job.lease)

    def is_idle(self) -> bool:
        """Return whether no more work can come to our queue."""
        return bool(self._work.value("SELECT tracker.is_idle(%s)", self.kind))

    def waits_for(self) -> dict[str, Any]:
        """Return what our queue waits for while it hands out nothing; see tracker/functions/waits_for.sql."""
        (row,) = self._work.rows("SELECT * FROM tracker.waits_for(%s)", self.kind)
        return row

    def leave(self) -> None:
        """Unregister; what this worker holds is ready for others at once."""
        self._work.value("SELECT tracker.leave(%s)", self.worker_id)

    def open_leaves(self, run_id: int) -> dict[str, tuple[int, str]]:
        """Return, by subset, the leaf that new candidates go to and its table."""
        rows = self._work.rows("SELECT * FROM tracker.open_leaves(%s)", run_id)
        return {row["subset"]: (row["leaf"], row["relation"]) for row in rows}

    def hold_slot(self) -> FilterSlot | None:
        """Take a slot of the Bloom filter; None while other workers hold all."""
        rows = self._work.rows("SELECT * FROM tracker.bloom_hold(%s)", self.worker_id)
        return FilterSlot(**rows[0]) if rows else None

    def release_slot(self) -> None:
        self._work.value("SELECT tracker.bloom_release(%s)", self.worker_id)

    def note_snapshot(self, slot: int, ordinal: int, path: str) -> None:
        self._work.value("SELECT tracker.bloom_snapshot(%s, %s, %s, %s)", self.worker_id, slot, ordinal, path)

    def settle_recipe(self, run_id: int, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Settle what the run's recipe leaves open, or compare with what is settled; return the settled recipe.

        Raises:
            RecipeRefused: the settled recipe is another one.
        """
        settled = self._work.value(
            "SELECT tracker.settle_recipe(%s, %s, %s)", self.worker_id, run_id, Jsonb(dict(recipe))
        )
        assert isinstance(settled, dict)
        return settled

    def settle_model(self, job: Job, sha256: str, config_sha256: str) -> None:
        """Settle the checksums of an embed job's model, or compare with what is settled.

        Raises:
            RecipeRefused: another model is settled.
            LeaseLost: another worker has the job.
        """
        self._work.value(
            "SELECT tracker.settle_model(%s, %s, %s, %s, %s, %s)",
            job.job_id, job.lease, job.payload["model"], job.payload["pretrained"], sha256, config_sha256,
        )  # fmt: skip

    def close(self) -> None:
        self._work.close()
        self._beat.close()


def _held(connection: Connection, job: Job) -> bool:
    row = connection.execute("SELECT tracker.lock_lease(%s, %s) AS held", (job.job_id, job.lease)).fetchone()
    return bool(row and row["held"])


class _RetryingConnection:
    """A connection that is opened when needed, and again when it broke."""

    def __init__(self, url: str, answer_seconds: float) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._lock = threading.Lock()
        self._connection: Connection | None = None

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        return self.call(lambda connection: connection.execute(statement.encode(), values).fetchall())

    def value(self, statement: str, *values: object) -> object:
        return next(iter(self.rows(statement, *values)[0].values()))

    def call(self, action: Callable[[Connection], T]) -> T:
        """Run an action on the connection, and again on a new one if it breaks.

        Raises:
            DatabaseDown: it kept breaking for a minute.
        """
        pause = FIRST_PAUSE_SECONDS
        deadline = 0.0  # counted from the first failure, because waiting for the first answer may have taken longer
        with self._lock:
            while True:
                try:
                    with translated():
                        if self._connection is None:
                            self._connection = connect(self._url)
                        with answered_within(self._connection, self._answer_seconds):
                            return action(self._connection)
                except DatabaseDown:
                    self._drop()
                    deadline = deadline or time.monotonic() + PATIENCE_SECONDS
                    if time.monotonic() + pause > deadline:
                        raise
                    time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 — thousands come back after a restart
                    pause *= 2

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
