"""Databases and stores of a swarm whose first stages are finished. Tests begin with copies of them."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from psycopg.conninfo import make_conninfo

from tests.demo.crawl import Crawl
from tests.swarm.swarm import Swarm
from tracker.database.database import connect

STAGES = ("extract", "ingest", "download", "filter")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    database: str  # its name on the server
    store: Path


@dataclass(slots=True)
class Checkpoints:
    """The checkpoints after each stage. Each is made from the one before, when a test first asks for it."""

    server: str
    template: str  # the name of a migrated database
    folder: Path
    crawl: Crawl
    recipe: dict[str, object]
    made: dict[str, Checkpoint] = field(default_factory=dict)

    def after(self, stage: str) -> Checkpoint:
        """Return the checkpoint of a seeded swarm that has finished all stages up to this one."""
        if stage not in self.made:
            position = STAGES.index(stage)
            self.made[stage] = self._make(stage, self.after(STAGES[position - 1]) if position else None)
        return self.made[stage]

    def _make(self, stage: str, earlier: Checkpoint | None) -> Checkpoint:
        name = f"shoal_{stage}_{uuid4().hex[:8]}"
        with connect(self.server) as connection:
            source = earlier.database if earlier else self.template
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {source}".encode())
        folder = self.folder / stage
        folder.mkdir()
        swarm = Swarm(make_conninfo(self.server, dbname=name), folder, self.crawl, self.recipe)
        if earlier is None:
            swarm.seed()
        else:
            shutil.copytree(earlier.store, swarm.store)
        try:
            swarm.finish(stage)
        finally:
            swarm.close()
        return Checkpoint(name, Path(swarm.store))

    def close(self) -> None:
        with connect(self.server) as connection:
            for checkpoint in self.made.values():
                connection.execute(f"DROP DATABASE {checkpoint.database} WITH (FORCE)".encode())
