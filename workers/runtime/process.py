"""A worker process: it reads its settings, registers, and runs the loop to its end."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import trio
import typer

from dataset.store.store import Store
from tracker.database.database import connect, database_url
from tracker.database.version import require_head
from tracker.settings import Settings
from workers.runtime import metrics, progress_bar
from workers.runtime.context import WorkContext
from workers.runtime.instrumented_session import InstrumentedSession
from workers.runtime.loop import Stage, StopWhen, run
from workers.runtime.supervisor import log_format, own_port, supervise

OpenStage = Callable[[Mapping[str, Any]], AbstractContextManager[Stage[Any]]]
"""Called with the tracker's settings."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """The options of a worker process that are independent of its stage."""

    stop_when: StopWhen
    processes: int
    metrics_port: int | None
    metrics_host: str

    def work(self, kind: str, open_stage: OpenStage) -> None:
        """Work until the loop ends; with several processes, start and supervise them instead.

        Raises: TrackerError, StoreError when the database or store is unusable; typer.Exit with the processes' code.
        """
        logging.basicConfig(format=log_format(os.environ), stream=sys.stderr)
        logging.getLogger("shoal").setLevel(logging.INFO)  # not the root logger: open_clip logs a dozen lines per model
        settings = Settings.from_environment()
        url = database_url(settings)
        if self.processes > 1:
            raise typer.Exit(supervise(self.processes, sys.argv[1:]))
        store = check_database_and_store(settings, url)
        with metrics.serve(kind, own_port(self.metrics_port, os.environ), self.metrics_host):
            session = InstrumentedSession.register(url, kind, token=settings.token)
            try:
                trio.run(_run, open_stage, session, store, self.stop_when)
            finally:
                session.close()


def check_database_and_store(settings: Settings, url: str) -> Store:
    """Check that the database is reachable and migrated; return the open store.

    Raises: TrackerError, StoreError.
    """
    with connect(url) as connection:
        require_head(connection)
    return Store.open(settings.store)


async def _run(open_stage: OpenStage, session: InstrumentedSession, store: Store, stop_when: StopWhen) -> None:
    context = WorkContext(session, store)
    with open_stage(session.settings) as stage:
        session.meter = stage
        with progress_bar.shown(context, session, stage.unit):
            await run(stage, context, stop_when)
