"""A worker process from its settings to its end: it registers, works in its loop, and takes its leave."""

import logging
import os
import sys
from collections.abc import Callable
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
from workers.runtime.context import Desk
from workers.runtime.instrumented_session import WatchedSession
from workers.runtime.loop import Patience, Stage, run
from workers.runtime.supervisor import log_format, own_port, supervise

OpenStage = Callable[[], AbstractContextManager[Stage[Any]]]


@dataclass(frozen=True, slots=True)
class Running:
    """How a worker runs, whatever its kind."""

    patience: Patience
    processes: int
    metrics_port: int | None
    metrics_host: str

    def work(self, kind: str, opened: OpenStage) -> None:
        """Work until the loop ends; with several processes, be their parent.

        Raises: TrackerError, StoreError when there is nothing to work with; typer.Exit with what the processes say.
        """
        logging.basicConfig(format=log_format(os.environ), stream=sys.stderr)
        logging.getLogger("shoal").setLevel(logging.INFO)  # ours alone: open_clip tells a dozen steps of each model
        settings = Settings.from_environment()
        url = database_url(settings)
        if self.processes > 1:
            raise typer.Exit(supervise(self.processes, sys.argv[1:]))
        with connect(url) as connection:
            require_head(connection)
        store = Store.open(settings.store)
        with metrics.told(kind, own_port(self.metrics_port, os.environ), self.metrics_host):
            session = WatchedSession.register(url, kind, token=settings.token)
            try:
                trio.run(_run, opened, session, store, self.patience)
            finally:
                session.close()


async def _run(opened: OpenStage, session: WatchedSession, store: Store, patience: Patience) -> None:
    desk = Desk(session, store)
    with opened() as stage, progress_bar.shown(desk, session):
        await run(stage, desk, patience)
