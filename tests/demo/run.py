"""The demo: the whole swarm on the mini crawl, from WAT files to filtered parquet, as real processes on this machine.

    python -m tests.demo.run [--folder .shoal/demo]

paints the crawl, starts its web and an embedded Postgres, and lets two extract, one ingest, three download and two
filter workers work at once until nothing is left. Then it audits, compares every link with what was planted, writes
report.html, publishes the run as a release with its card, writes the release's statistics.html and finds its
near-duplicates. It exits with 0 if all checks hold, 1 if one does not, 2 if the folder cannot be used, and 130 after
Ctrl-C. It never leaves a process.

Only settings that would wait for hours or for ten thousand links differ from production's; see SETTINGS.
"""

import argparse
import fcntl
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from dataset.errors import DatasetError
from dataset.formats.releases import open_release
from dataset.report.report import write_report
from dataset.store.store import Store
from tests.demo.checks import Check, check_results, read_results
from tests.demo.crawl import FULL_IMAGES, read_expected
from tests.demo.duplicate_checks import AT, PDQ_FROM, check_duplicates, check_planted
from tests.demo.index_checks import ASKED, caption_to_find, check_index
from tests.demo.progress import check_table, closing_table, live_view, one_line, stage_rows
from tests.demo.release_checks import check_release
from tests.demo.swarm import BIN, DemoError, Swarm, kill_leftovers
from tests.demo.tag_checks import check_tags, measured_rows, read_tags
from tests.demo.takedown_checks import check_takedown, url_to_remove

MARK = ".shoal-demo"  # in a folder of ours, which may be deleted
MODEL = Path(__file__).parent / "clip"
CARD = Path(__file__).with_name("card.toml")
FIRST_PORT = 18_080
SETTINGS = {
    "batch_size": 250,  # so that there are several batches for each download worker
    "again_seconds": 2,
    "bloom_capacity": 100_000,
}
TIMEOUT_SECONDS = 5  # of a download; three plants wait for its end
WORKERS = {"extract": 2, "ingest": 1, "download": 3, "filter": 2}
PLANTED = "8"  # pictures that are edited in 37 ways each
POLL_SECONDS = 1.5
PATIENCE_SECONDS = 900  # a swarm that has not ended by then never will

talk = Console(stderr=True, highlight=False)


@dataclass(frozen=True, slots=True)
class Demo:
    """What a demo was asked for."""

    folder: Path
    images: int
    port: int


def main() -> None:
    """Run the demo from the command line."""
    parser = argparse.ArgumentParser(prog="tests.demo.run", description="Run the swarm on the mini crawl.")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/demo"), help="made afresh (%(default)s)")
    parser.add_argument("--images", type=int, default=FULL_IMAGES, help="sound pictures (%(default)s)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill stops the demo as Ctrl-C does
    home = arguments.folder.absolute()
    try:
        with locked_folder(home):
            sys.exit(run(home, arguments.images))
    except DemoError as error:
        talk.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)


def run(home: Path, images: int) -> int:
    """Run the demo in a folder that is ours; the exit code. In no case a process stays."""
    swarm = Swarm(home)
    try:
        clear_folder(swarm)
        with reserved_ports(FIRST_PORT) as port:
            return 0 if work(Demo(home, images, port), swarm) else 1
    except (DemoError, DatasetError) as error:
        talk.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        talk.print("\nstopping")
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        swarm.stop()
        kill_leftovers(home)  # one that was started at the very moment of a Ctrl-C
        swarm.stop_database()


@contextmanager
def locked_folder(home: Path) -> Iterator[None]:
    """Make a folder that may be cleared, and keep other demos out of it.

    Raises:
        DemoError: it holds something that no demo has made, or a demo is at work in it.
    """
    with ExitStack() as held:
        try:
            home.mkdir(parents=True, exist_ok=True)
            if any(home.iterdir()) and not (home / MARK).exists():
                raise DemoError(f"{home} was not made by a demo and is not empty: name another with --folder")
            mark = held.enter_context((home / MARK).open("w"))
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"a demo is at work in {home}: wait for it, or name another with --folder") from None
        except OSError as error:
            raise DemoError(f"{home} cannot be used ({error.strerror}): name another with --folder") from error
        yield


def clear_folder(swarm: Swarm) -> None:
    """Remove what an earlier demo left, its processes included; the mark stays."""
    kill_leftovers(swarm.home)
    swarm.stop_database()
    for entry in swarm.home.iterdir():
        if entry.name != MARK:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@contextmanager
def reserved_ports(first: int) -> Iterator[int]:
    """Find two neighbouring ports that nobody has, the web's and the dead one, and hold the dead one.

    Holding it without listening keeps it dead, and keeps other demos off the pair. The same ports come each time if
    they can be had: the links carry them, so it is the same crawl each time.

    Raises:
        DemoError: a thousand pairs are taken.
    """
    for port in range(first, first + 2_000, 2):
        with ExitStack() as held:
            try:
                held.enter_context(socket.socket()).bind(("", port + 1))
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what the last web closed is free
                    probe.bind(("", port))
            except OSError:
                continue
            yield port
            return
    raise DemoError(f"no two free ports between {first} and {first + 2_000}: end what listens there")


def work(demo: Demo, swarm: Swarm) -> bool:
    """Run every step; True when all checks hold."""
    started = time.monotonic()
    talk.print(f"painting {demo.images:,} pictures and making a database in {demo.folder}", soft_wrap=True)
    build(demo, swarm)
    talk.print(f"{time.monotonic() - started:4.0f} s  {' '.join(f'{n} {kind}' for kind, n in WORKERS.items())} workers")
    release(demo, swarm)
    status = watch(swarm, started)
    checks, report = judge(demo, swarm, status)
    statistics, checks_of_release = publish(demo, swarm)
    checks += checks_of_release
    checks += search(demo, swarm)
    checks += take_down(demo, swarm)
    duplicates, checks_of_duplicates = find_duplicates(demo, swarm)
    checks += checks_of_duplicates
    out = Console(highlight=False)
    out.print(closing_table(stage_rows(status)))
    out.print(check_table(checks))
    seconds = time.monotonic() - started
    out.print(f"{seconds:.0f} seconds. Open the statistics of the release first:")
    for name, path in (
        ("statistics", statistics),
        ("release", demo.folder / "store" / "releases" / "demo"),
        ("its card", demo.folder / "store" / "releases" / "demo" / "README.md"),
        ("report", report),
        ("duplicates", duplicates),
    ):
        out.print(f"  {name:<11}{path}", soft_wrap=True)
    out.print("`make search` opens its pictures in the search page.")
    return all(check.holds for check in checks)


def build(demo: Demo, swarm: Swarm) -> None:
    """Paint the crawl; meanwhile make the database, and put the model into the store."""
    crawl = ["--port", str(demo.port), "--images", str(demo.images)]
    swarm.start("crawl", [sys.executable, "-m", "tests.demo.crawl", str(demo.folder / "crawl"), *crawl])
    swarm.run("migrate", [str(BIN / "tracker"), "migrate"])
    for name, value in SETTINGS.items():
        swarm.run("set", [str(BIN / "tracker"), "set", name, str(value)])
    weights, config = MODEL / "open_clip_model.safetensors", MODEL / "open_clip_config.json"
    swarm.run(
        "models", [str(BIN / "dataset"), "models", "add", "demo", "--weights", str(weights), "--config", str(config)]
    )
    roles = [
        f"models.{role}.{key}" for role in ("en", "other") for key in ("model=demo", "pretrained=store:models/demo")
    ]
    heads = train_heads(demo, swarm)
    roles += [
        f"tags.{role}.{tag}.head={heads[tag]['head']}" for role in ("en", "other") for tag in ("punsafe", "pwatermark")
    ]
    roles.append("embeddings.keep=true")  # for the search, and for near-duplicates
    roles.append("safety.prompts=null")  # the demo's model knows none of the built-in words
    overrides = [word for role in roles for word in ("--set", role)]
    swarm.run("recipe", [str(BIN / "dataset"), "recipe", *overrides, "--out", str(demo.folder / "recipe.json")])
    swarm.wait(["crawl"])


def train_heads(demo: Demo, swarm: Swarm) -> dict[str, Any]:
    """Train the demo's heads on its own model's embeddings; what is said of them, by tag."""
    out = demo.folder / "heads.json"
    swarm.run("heads", [sys.executable, "-m", "tests.demo.train_heads", str(demo.folder / "store"), str(out)])
    heads: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return heads


def release(demo: Demo, swarm: Swarm) -> None:
    """Start the web, seed the run and let the workers loose."""
    web = ["-m", "tests.demo.web", str(demo.folder / "crawl" / "web"), "--port", str(demo.port)]
    swarm.start("web", [sys.executable, *web])
    wait_for_web(demo, swarm)
    listing, recipe = demo.folder / "crawl" / "wats" / "wat.paths.gz", demo.folder / "recipe.json"
    tracker, worker = str(BIN / "tracker"), str(BIN / "worker")
    swarm.run("seed", [tracker, "seed", str(listing), "--run", "demo", "--recipe", str(recipe)])
    swarm.start("serve", [tracker, "serve", "--every-seconds", "1"])
    let_in = ["--allow-network", "127.0.0.0/8", "--allow-port", str(demo.port), "--allow-port", str(demo.port + 1)]
    more = {"download": [*let_in, "--timeout", str(TIMEOUT_SECONDS)]}
    for stage, count in WORKERS.items():
        for number in range(1, count + 1):
            command = [worker, stage, "--until-idle", *more.get(stage, [])]
            swarm.start(f"{stage} {number}", command, one_thread=stage == "filter")


def wait_for_web(demo: Demo, swarm: Swarm) -> None:
    """Wait until the web listens on the last of its addresses."""
    host = json.loads((demo.folder / "crawl" / "web" / "routes.json").read_text())["hosts"][-1]
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and "web" not in swarm.ended():
        try:
            socket.create_connection((host, demo.port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise DemoError(f"the web does not listen on port {demo.port}:\n{swarm.tail('web')}")


def watch(swarm: Swarm, started: float) -> dict[str, Any]:
    """Show the swarm's progress until its workers have ended; the last status.

    Raises:
        DemoError: a worker failed, or nothing moves any more.
    """
    workers = [name for name in swarm.processes if name.split(" ")[0] in WORKERS]
    with Live(console=talk, auto_refresh=False, transient=True) as live:
        while True:
            ended = swarm.ended()
            for name, code in ended.items():
                if code != 0 or name not in workers:
                    raise DemoError(f"{name} ended with exit code {code}:\n{swarm.tail(name)}")
            status = read_status(swarm)
            if status["errors"] and any(queue["dead"] for queue in status["queues"].values()):
                raise DemoError("a job is dead: " + "; ".join(sorted({job["error"] for job in status["errors"]})))
            seconds = time.monotonic() - started
            if talk.is_terminal:
                live.update(live_view(status, seconds), refresh=True)
            else:
                talk.print(one_line(status, seconds), soft_wrap=True)
            if len(ended) == len(workers):
                return status
            if seconds > PATIENCE_SECONDS:
                raise DemoError(
                    f"the swarm has not ended after {seconds:.0f} seconds; its logs are in {swarm.home}/logs"
                )
            time.sleep(POLL_SECONDS)


def read_status(swarm: Swarm) -> dict[str, Any]:
    """Return the output of `tracker status`."""
    status: dict[str, Any] = json.loads(swarm.run("status", [str(BIN / "tracker"), "status", "--json"]))
    return status


def judge(demo: Demo, swarm: Swarm, status: dict[str, Any]) -> tuple[list[Check], Path]:
    """Audit, write manifest and report, and compare every link with what was planted."""
    swarm.run("manifest", [str(BIN / "tracker"), "manifest"])
    store = Store.open(str(demo.folder / "store"))
    manifest = store.read_table("manifest.parquet")
    report = demo.folder / "report.html"
    found = read_tags(store, manifest)
    measured = measured_rows(found, json.loads((demo.folder / "heads.json").read_text(encoding="utf-8")))
    write_report(store, report, "Shoal: the mini crawl", stage_rows(status), measured)
    checks = check_results(read_expected(demo.folder / "crawl"), read_results(store, manifest)) + check_tags(found)
    dead = sum(queue["dead"] for queue in status["queues"].values())
    return [audited(swarm), Check("no job is dead", dead == 0, f"{dead} dead"), *checks], report


def publish(demo: Demo, swarm: Swarm) -> tuple[Path, list[Check]]:
    """Publish the run as a release with its card, write its statistics page, and check all three."""
    page = demo.folder / "statistics.html"
    swarm.run("publish", [str(BIN / "dataset"), "publish", "demo", "--input", "demo", "--card", str(CARD)])
    swarm.run("stats", [str(BIN / "dataset"), "stats", "demo", "--html", str(page)])
    store = Store.open(str(demo.folder / "store"))
    return page, check_release(store, store.read_table("manifest.parquet"), open_release(store, "demo"), page)


def search(demo: Demo, swarm: Swarm) -> list[Check]:
    """Build the index of the release, look for a caption with and without a filter, and check what is found."""
    dataset = str(BIN / "dataset")
    release = open_release(Store.open(str(demo.folder / "store")), "demo")
    swarm.run("embeddings", [dataset, "embeddings", "demo", "--model", "demo"])
    built = json.loads(swarm.run("index", [dataset, "index", "build", "demo", "--json"]))
    row, caption = caption_to_find(release)
    asked = [dataset, "search", "demo", caption, "--k", str(ASKED), "--all", "--json"]
    found, safe = (
        [json.loads(line) for line in swarm.run("search", [*asked, *more]).splitlines()]
        for more in ((), ("--filter", "safe"))
    )
    return check_index(row, caption, sum(release.record.rows.values()), built, found, safe)


def take_down(demo: Demo, swarm: Swarm) -> list[Check]:
    """Take one pair down, from the release and from the crawl, and look whether anything is left of it."""
    store = Store.open(str(demo.folder / "store"))
    url = url_to_remove(open_release(store, "demo"))
    takedown = [str(BIN / "dataset"), "takedown"]
    swarm.run("takedown", [*takedown, "add", "--url", url, "--reason", "demo"])
    swarm.run("apply", [*takedown, "apply", "demo"])
    verified = json.loads(swarm.run("verify", [*takedown, "verify", "demo", "--json"]))["releases"]
    return check_takedown(store, url, verified, audit=audited(swarm))


def find_duplicates(demo: Demo, swarm: Swarm) -> tuple[Path, list[Check]]:
    """Find near-duplicates by embeddings and hashes, compare them with the crawl's copies, and plant more copies."""
    dedup = [str(BIN / "dataset"), "dedup"]
    hashes = ["--with-pdq", "--pdq-from", str(PDQ_FROM)]
    swarm.run("dedup", [*dedup, "demo", "--model", "demo", "--at", str(AT), *hashes, "--workers", "1"])
    planted = json.loads(swarm.run("plant", [*dedup, "plant", "demo", "--pictures", PLANTED, "--json"]))
    page = demo.folder / "near-duplicates.html"
    swarm.run("dedup report", [*dedup, "report", "demo", "--out", str(page)])
    store = Store.open(str(demo.folder / "store"))
    checks = check_duplicates(read_expected(demo.folder / "crawl"), open_release(store, "demo"))
    return page, [*checks, check_planted(planted)]


def audited(swarm: Swarm) -> Check:
    """Run `tracker audit --exact`; its exit code 1 means that the audit does not hold, not that the command failed."""
    command = [str(BIN / "tracker"), "audit", "--exact", "--json"]
    asked = subprocess.run(command, env=dict(swarm.environment), capture_output=True, text=True, check=False)
    if not asked.stdout:
        raise DemoError(f"audit failed:\n{asked.stderr.strip()}")
    found = json.loads(asked.stdout)
    waiting = f"pool {found['pool']:,} + again {found['again']:,} + leased {found['leased']:,}"
    said = f"in {found['in']:,} = {waiting} + finished {sum(found['finished'].values()):,}"
    differences = "".join(f"; {difference}" for difference in found.get("differences", []))
    return Check("the exact audit holds", bool(found["holds"]), said + differences)


if __name__ == "__main__":
    main()
