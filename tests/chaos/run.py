"""Chaos: a swarm of real worker processes on a growing crawl, a thousand faults, and at the end nothing is lost.

    python -m tests.chaos.run [--faults 1000] [--minutes 15] [--seed 1] [--folder F]

Two extract, two ingest, three download, two filter workers and `tracker serve` talk to Postgres through pgbouncer (if
it is installed) and a proxy that cuts. Faults come in the random order that the seed gives; a worker that has ended is
replaced at once. New WAT files are seeded while faults are left, so there is always work. Then the swarm drains, and
every link is compared with its planned outcome. The verdict is printed as JSON; exit 1 if it does not hold. As root,
the store gets its own disk, which can be filled; otherwise that fault is left out, and the verdict says so.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bouncer import Bouncer
from tests.chaos.crawl import HOSTS, MAX_TRIES, ChaosCrawl, Planted, recipe
from tests.chaos.cutting_proxy import CuttingProxy
from tests.chaos.faults import Fault, Injector, Machine
from tests.chaos.machine import Disk, Server
from tests.chaos.nursery import Nursery
from tests.chaos.sick_store import CONTROL
from tests.chaos.swarm import ChaosSwarm, Place
from tests.chaos.verdict import Verdict, judge
from tests.demo.small_crawl import free_port
from tests.tracker.filling import set_setting
from tracker.admin.jobs import Choice, choose, retry
from tracker.database.database import connect
from tracker.errors import DatabaseDown
from tracker.seeding.runs import seed

MODEL = Path(__file__).parents[1] / "demo" / "clip"
OWN_MOUNTS = "SHOAL_CHAOS_OWN_MOUNTS"
SETTINGS = {
    "lease_seconds": 4,  # the least
    "batch_size": 25,
    "max_tries": MAX_TRIES,
    "again_seconds": 0,
    "retry_seconds": 0,
    "bloom_capacity": 100_000,
    "bloom_rate": 1e-9,  # no link may be dropped by chance: each must have its outcome
    "bloom_snapshot_packs": 3,
}
PAUSE_SECONDS = (0.05, 0.6)  # between two faults
READY_FILES = 3  # WAT files that wait, at least, while faults are due
DRAIN_SECONDS = 240
STANDING = """
SELECT format('job %s of %s is %s, attempt %s, ready %s; held by process %s, %s, seen %s, moved %s, holding slot %s',
              job_id, queue, job.state, attempt, now() - ready_at, pid, worker.state, now() - seen_at,
              now() - progressed_at, slot_held.slot) AS said
FROM tracker.job LEFT JOIN tracker.worker USING (worker_id)
LEFT JOIN tracker.bloom AS slot_held ON slot_held.holder = worker_id
WHERE job.state IN ('ready', 'leased') ORDER BY job_id LIMIT 20
"""
TIMEOUT_SECONDS = 8  # of a link; more than a worker is stopped for would be as good as none


@dataclass(slots=True)
class Chaos:
    """One run in `folder`."""

    folder: Path
    choice: random.Random
    crawl: ChaosCrawl
    machine: Machine
    swarm: ChaosSwarm
    injector: Injector
    files: int = 0
    """WAT files seeded."""
    skipped: list[str] = field(default_factory=list)

    def feed(self) -> None:
        """Seed WAT files until enough of them wait."""
        with connect(self.machine.server.url) as admin:
            row = admin.execute(
                "SELECT count(*) AS n FROM tracker.job WHERE queue IN ('extract', 'ingest') AND state = 'ready'"
            ).fetchone()
            assert row is not None
            while row["n"] < READY_FILES:
                path = self.crawl.write(self.files)
                seed(admin, [str(path)], run="chaos", recipe=recipe(MODEL))
                self.files += 1
                row["n"] += 1

    def rage(self, faults: int, until: float) -> None:
        """Inject the faults until all have happened or the time is up."""
        plan: list[Fault] = []
        while self.injector.total < faults and time.monotonic() < until:
            self.swarm.fill()
            self.injector.tick()
            self.feed()
            plan = plan or self.injector.plan(faults - self.injector.total)
            fault = plan.pop()
            if not self.injector.inject(fault):
                plan.insert(0, fault)
            time.sleep(self.choice.uniform(*PAUSE_SECONDS))

    def drain(self) -> bool:
        """Let the swarm finish without faults; return False if it does not."""
        self.injector.heal()
        until = time.monotonic() + DRAIN_SECONDS
        while time.monotonic() < until:
            self.swarm.fill()
            with connect(self.machine.server.url) as admin:
                if dead := choose(admin, Choice(), "retry", ("dead",)):
                    retry(admin, dead)
                row = admin.execute("SELECT tracker.is_idle('filter') AS idle").fetchone()
                if row and row["idle"]:
                    return True
            time.sleep(0.25)
        return False

    def standing(self) -> list[str]:
        """Return who holds the unfinished jobs, and let every worker log the stacks of its threads."""
        for pid in self.swarm.living:
            self.swarm.signal(pid, signal.SIGUSR1)
        with connect(self.machine.server.url) as admin:
            return [row["said"] for row in admin.execute(STANDING)]

    def stop(self) -> None:
        """Ask every worker to stop, and wait for all."""
        until = time.monotonic() + 30
        self.swarm.note_ended()
        for pid in self.swarm.living:
            self.swarm.signal(pid, signal.SIGTERM)
        while self.swarm.living and time.monotonic() < until:
            time.sleep(0.05)
            self.swarm.note_ended()

    def planted(self) -> list[Planted]:
        return [link for number in range(self.files) for link in self.crawl.links(number)]


@contextmanager
def chaos(folder: Path, chance: int) -> Iterator[Chaos]:
    """Set up everything in `folder`, and remove it afterwards."""
    skipped = []
    with ExitStack() as held:
        store, logs, wats = folder / "store", folder / "logs", folder / "wats"
        for made in (store, logs, wats):
            made.mkdir()
        server = Server(folder / "home")
        held.callback(server.close)
        bouncer = disk = None
        if Bouncer.program():
            bouncer = Bouncer(server.url, folder / "bouncer")
            held.callback(bouncer.close)
        else:
            skipped.append(f"{Fault.BOUNCER}: pgbouncer is not installed")
        if os.environ.get(OWN_MOUNTS):
            disk = Disk(store)
            held.callback(disk.close)
        else:
            skipped.append(f"{Fault.STORE_FULL}: only root may mount a disk for it")
        proxy = CuttingProxy(("127.0.0.1", bouncer.port) if bouncer else server.socket)
        held.callback(proxy.close)
        crawl = ChaosCrawl(wats, chance, _web(held), free_port())
        with connect(server.url) as admin:
            for name, value in SETTINGS.items():
                set_setting(admin, name, value)
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable&gssencmode=disable"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        control = folder / "store-is-ill"
        settings = {"SHOAL_DATABASE_URL": url, "SHOAL_STORE": str(store), "SHOAL_HOME": str(folder / "none")}
        nursery = Nursery(inherited | settings | {CONTROL: str(control), "OMP_NUM_THREADS": "1"})
        held.callback(nursery.close)
        swarm = ChaosSwarm(nursery, logs, _places(crawl))
        machine = Machine(server, bouncer, disk, proxy, control)
        choice = random.Random(chance)
        injector = Injector(machine, swarm, choice, SETTINGS["lease_seconds"])
        yield Chaos(folder, choice, crawl, machine, swarm, injector, skipped=skipped)


def _web(held: ExitStack) -> int:
    port = free_port()
    web = subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.web", "--port", str(port), "--hosts", str(HOSTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert web.stdin is not None
    assert web.stdout is not None
    held.callback(web.wait, 30)
    held.callback(web.stdout.close)
    held.callback(web.stdin.close)
    if not web.stdout.readline():
        raise RuntimeError("the web did not start: see what it said above")
    return port


def _places(crawl: ChaosCrawl) -> list[Place]:
    let_in = ["--allow-network", "127.0.0.0/8", "--allow-port", str(crawl.port), "--allow-port", str(crawl.dead_port)]
    download = ("download", *let_in, "--timeout", str(TIMEOUT_SECONDS), "--concurrency", "16")
    many = {"extract": 2, "ingest": 2, "download": 3, "filter": 2}
    arguments = {"download": download}
    places = [
        Place(f"{kind}-{number}", "worker", arguments.get(kind, (kind,)))
        for kind, n in many.items()
        for number in range(n)
    ]
    return [*places, Place("serve-0", "tracker", ("serve", "--every-seconds", "1"))]


def run(folder: Path, faults: int, minutes: float, chance: int) -> dict[str, object]:
    """Run in an empty folder; return the verdict as it is printed, `holds` first."""
    started = time.monotonic()
    with chaos(folder, chance) as made:
        made.feed()
        made.rage(faults, started + 60 * minutes)
        raged = time.monotonic()
        standing = [] if made.drain() else [f"the swarm was not idle {DRAIN_SECONDS} seconds after the last fault"]
        if standing:
            standing += made.standing()
        made.stop()
        with connect(made.machine.server.url) as admin:
            verdict = judge(admin, folder / "store", made.planted())
        verdict.violations += standing
        return _said(made, verdict) | {
            "seconds_of_faults": round(raged - started),
            "seconds": round(time.monotonic() - started),
            "seed": chance,
        }


def _said(made: Chaos, verdict: Verdict) -> dict[str, object]:
    cuts = {f"{where} {verb}": n for (where, verb), n in sorted(made.machine.proxy.done.items())}
    return {
        "holds": verdict.holds,
        "violations": verdict.violations,
        "faults": made.injector.total,
        "faults_by_kind": made.injector.counts(),
        "cuts": cuts,
        "skipped": made.skipped,
        "processes": dict(sorted(made.swarm.endings.items())),
        "wat_files": made.files,
    } | {name: value for name, value in asdict(verdict).items() if name != "violations"}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="tests.chaos.run", description="Break a swarm, and prove that nothing is lost."
    )
    parser.add_argument("--faults", type=int, default=1000, help="how many (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15, help="no fault after so long (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the crawl and of the plan (%(default)s)")
    parser.add_argument("--folder", type=Path, help="a new folder that is kept; default: a temporary one")
    arguments = parser.parse_args()
    _own_mounts()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)  # everything is taken down
    with ExitStack() as held:
        if arguments.folder:
            folder = arguments.folder.absolute()
            folder.mkdir(parents=True)
        else:
            folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="shoal-chaos-")))
        folder.chmod(0o755)
        try:
            said = run(folder, arguments.faults, arguments.minutes, arguments.seed)
        except DatabaseDown as error:
            sys.exit(f"chaos: {error}")
        except KeyboardInterrupt:
            sys.exit(130)
    print(json.dumps(said, indent=2))
    sys.exit(0 if said["holds"] else 1)


def _own_mounts() -> None:
    """As root, continue in a separate mount namespace, so that mounts vanish with this process."""
    unshare = shutil.which("unshare")
    if os.geteuid() or OWN_MOUNTS in os.environ or not unshare:
        return
    able = subprocess.run([unshare, "--mount", "true"], check=False, capture_output=True).returncode == 0
    if able:
        os.environ[OWN_MOUNTS] = "1"
        os.execv(unshare, [unshare, "--mount", sys.executable, "-m", "tests.chaos.run", *sys.argv[1:]])


if __name__ == "__main__":
    main()
