"""A small swarm for the small crawl: database, store, and workers as processes."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dataset.store.store import Store
from tests.demo.checks import Results, read_results
from tests.demo.crawl import Crawl
from tests.tracker.filling import scalar, set_setting
from tracker.accounts.audit import Audit, audit_exact
from tracker.database.database import Connection, connect
from tracker.seeding.runs import seed
from tracker.storage.manifest import outputs

# Long enough for a loaded machine; no test waits for it unless it fails.
DEADLINE_SECONDS = 120


@dataclass(slots=True)
class Swarm:
    database: str
    folder: Path
    crawl: Crawl
    recipe: dict[str, object]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> str:
        return str(self.folder / "store")

    def seed(self) -> None:
        with connect(self.database) as admin:
            set_setting(admin, "batch_size", 30)
            set_setting(admin, "again_seconds", 0)
            set_setting(admin, "max_tries", 2)
            seed(admin, [str(wat) for wat in self.crawl.wats], run="small", recipe=self.recipe)

    def start(self, kind: str, *arguments: str, database: str | None = None) -> subprocess.Popen[bytes]:
        """Start a worker process; its log is <folder>/<kind>-<n>.log."""
        if kind == "download":
            ports = [word for port in self.crawl.allow_ports for word in ("--allow-port", str(port))]
            arguments = ("--allow-network", "127.0.0.0/8", *ports, "--timeout", "3", *arguments)
        log = self.folder / f"{kind}-{len(self.workers)}.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [sys.executable, "-c", "from workers.main import main; main()", kind, *arguments],
                env=os.environ | {"SHOAL_DATABASE_URL": database or self.database, "SHOAL_STORE": self.store},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.workers.append(worker)
        return worker

    def run_until(
        self, admin: Connection, worker: subprocess.Popen[bytes], condition: str, *parameters: object
    ) -> None:
        """Wait until a query answers true; the worker has to live until then."""
        while not scalar(admin, condition, *parameters):
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError((worker.wait(0.05), self.logs()))

    def finish(self, *kinds: str) -> None:
        """Run one worker of each kind, one after the other, until it has no work left."""
        for kind in kinds:
            worker = self.start(kind, "--until-idle")
            assert worker.wait(DEADLINE_SECONDS) == 0, self.logs()

    def expire_all(self, admin: Connection) -> None:
        """Make every heartbeat an hour older, as if the workers had been silent."""
        admin.execute("UPDATE tracker.worker SET seen_at = now() - interval '1 hour' WHERE state <> 'gone'")

    def audit(self) -> Audit:
        with connect(self.database) as admin:
            return audit_exact(admin, self.store)

    def results(self) -> Results:
        """Return the result of each link from the outputs in the manifest."""
        with connect(self.database) as admin:
            return read_results(Store.open(self.store), outputs(admin))

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


def demo_recipe(model: Path) -> dict[str, object]:
    """Return the recipe with the demo's model for both roles."""
    entry = {"model": "demo", "pretrained": str(model)}
    recipe: dict[str, object] = {"models": {"en": entry | {"threshold": 0.28}, "other": entry | {"threshold": 0.26}}}
    recipe["safety"] = {"prompts": None}  # the demo's model knows none of the built-in words
    return dict(json.loads(json.dumps(recipe)))
