"""Take a snapshot at intervals, in one thread, and keep the responses for all clients as bytes.

However many clients there are, the database is queried only at intervals, and for at most a twentieth of the time:
after a slow snapshot, the next one is taken later.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tracker import strict_json
from tracker.database.database import Connection, connect, translated
from tracker.duties.serve import Duties
from tracker.errors import TrackerError
from tracker.watch.exposition import Round, exposition, worker_state
from tracker.watch.snapshot import take_snapshot

log = logging.getLogger("shoal.tracker")

EVERY_SECONDS = 5.0
MOST_OF_THE_TIME = 0.05
POINTS = 720  # points of a chart; one per snapshot, so one hour
MAX_LISTED = 50  # workers on the page, those in trouble first
LATE_SECONDS = 60.0  # if a snapshot is this much late, the database hangs
TROUBLE = {"stuck": 0, "silent": 1, "draining": 2, "active": 3}


@dataclass(frozen=True, slots=True)
class Answers:
    """The responses until the next snapshot."""

    metrics: bytes
    status: bytes


class Watcher:
    """Take snapshots until stopped; `answers` is always complete."""

    def __init__(self, url: str, duties: Duties, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._url = url
        self._duties = duties
        self._every_seconds = every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._history: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._connection: Connection | None = None
        self._due_at = time.time()
        self.error: str | None = "the first snapshot is not taken yet"
        self.answers = self._answers(Round(None, time.time(), 0.0, None))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until a snapshot in progress is done."""
        self._stop.set()
        self._thread.join()

    def trouble(self, now: Callable[[], float] = time.time) -> str | None:
        """Return why the tracker is not healthy, or None."""
        if self.error is not None:
            return self.error
        if self._duties.error is not None:
            return self._duties.error
        if now() > self._due_at + LATE_SECONDS:
            return f"a snapshot of the database is more than {LATE_SECONDS:,.0f} s late: the database hangs"
        if self._duties.done_at is None or now() - self._duties.done_at > self._duties.patience_seconds:
            return f"the tracker's duties have not been done for {self._duties.patience_seconds:,.0f} s"
        return None

    def look(self) -> None:
        """Take a snapshot and prepare the responses, also when the database is down."""
        started, seen = time.monotonic(), None
        try:
            if self._connection is None:
                self._connection = connect(self._url)
            with translated(), self._connection.transaction():
                # All numbers come from one snapshot, and a query that hangs must not block the page.
                self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                self._connection.execute("SET LOCAL statement_timeout = '60s'")
                seen = take_snapshot(self._connection)
            self.error = None
        except (TrackerError, OSError) as error:
            self._close()
            self.error = str(error)
        seconds = time.monotonic() - started
        if seen is not None:
            self._history.append(_point(seen))
        self.answers = self._answers(Round(seen, time.time(), seconds, self._duties.done_at))

    def _run(self) -> None:
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                self.look()
            except Exception as error:  # the page shows the error, and the next snapshot may succeed
                log.exception("watcher.failed")
                self._close()
                self.error = f"{type(error).__name__}: {error}"
            took = time.monotonic() - started
            pause = max(self._every_seconds - took, took / MOST_OF_THE_TIME - took)
            self._due_at = time.time() + pause
            self._stop.wait(pause)
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answers(self, of: Round) -> Answers:
        said: dict[str, Any] = {"at": of.taken_at, "error": self.error, "history": list(self._history)}
        if of.seen is not None:
            said |= _brief(of.seen)
        return Answers(exposition(of), strict_json.dumps(said, default=str).encode())


def _point(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return one point of the charts: sums, from which the page computes differences."""
    return {
        "at": round(time.time(), 1),
        "pool": seen["pool_by_subset"],
        "in": seen["in"],
        "finished": sum(seen["finished"].values()),
        "samples": seen["queues"]["download"]["rows_out"],
        "kept": seen["filtered"].get("kept", 0),
        "alive": seen["alive"],
    }


def _brief(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows: no recipes, and at most MAX_LISTED workers, those in trouble first."""
    workers = [dict(row) | {"looks": worker_state(row)} for row in seen["workers"]]
    workers.sort(key=lambda row: (TROUBLE[row["looks"]], row["kind"], row["host"]))
    left_out = {"runs", "settings", "workers"}
    return {key: value for key, value in seen.items() if key not in left_out} | {
        "workers": workers[:MAX_LISTED],
        "workers_in_all": len(workers),
        "runs": [row["name"] for row in seen["runs"]],
        "watermarks": {mark: seen["settings"][f"pool_{mark}"] for mark in ("low", "resume", "high")},
    }
