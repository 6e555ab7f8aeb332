"""The verdict: compare the planned outcomes, the ledger and the store."""

import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from dataset.store.store import Store
from tests.chaos.crawl import Planted
from tests.demo.checks import Results, read_results
from tracker.accounts.audit import audit_exact
from tracker.database.database import Connection
from tracker.storage.manifest import outputs, write_manifest
from tracker.storage.sweep import sweep

EXAMPLES = 3
ENDINGS = {"pack": (".parquet",), "shard": (".parquet", ".tar"), "part": (".parquet", ".scores.parquet")}


@dataclass(slots=True)
class Verdict:
    """`violations` are sentences; without any the verdict holds."""

    violations: list[str] = field(default_factory=list)
    links: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    published: int = 0
    jobs: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    rows_of_further_tries: int = 0
    """Rows in shards that are not final: a link that failed for a passing reason, planned or brought by a fault."""
    orphans: int = 0
    """Files that no manifest lists: what killed workers left."""
    orphans_after_sweep: int = 0

    @property
    def holds(self) -> bool:
        return not self.violations


def judge(admin: Connection, folder: Path, planted: Iterable[Planted]) -> Verdict:
    """Compare everything with the plan; then sweep the store."""
    links = {link.url: link.outcome for link in planted}
    verdict = Verdict(links=len(links))
    say = verdict.violations
    _judge_ledger(admin, folder, verdict)
    listed = outputs(admin)
    found = read_results(Store.open(str(folder)), listed)
    verdict.outcomes = dict(sorted(Counter(outcome for one in found.outcomes.values() for outcome in one).items()))
    verdict.published = found.kept.total()
    rows = sum(output["rows"] for output in listed.to_pylist() if output["kind"] == "shard")
    verdict.rows_of_further_tries = rows - sum(map(len, found.outcomes.values()))
    _judge_links(links, found, say)
    write_manifest(admin, str(folder))
    there = _files(folder)
    should = {f"{output['path']}{ending}" for output in listed.to_pylist() for ending in ENDINGS[output["kind"]]}
    _name(say, sorted(should - there), "files that the manifest lists are missing")
    verdict.orphans = len(_orphans(there, should))
    _sweep(admin, folder)
    left = _orphans(_files(folder), should)
    verdict.orphans_after_sweep = len(left)
    _name(say, sorted(left), "files are left that no manifest lists")
    _name(say, sorted(should - _files(folder)), "files that the manifest lists were swept away")
    return verdict


def _judge_ledger(admin: Connection, folder: Path, verdict: Verdict) -> None:
    audited = audit_exact(admin, str(folder))
    verdict.violations += audited.differences
    data = audited.to_json()
    for place in ("pool", "again", "leased"):
        if data[place]:
            verdict.violations.append(f"{data[place]} links are still in {place}")
    states = admin.execute("SELECT queue || ' ' || state AS name, count(*) AS n FROM tracker.job GROUP BY 1 ORDER BY 1")
    verdict.jobs = {row["name"]: row["n"] for row in states}
    unfinished = {name: n for name, n in verdict.jobs.items() if not name.endswith(" done")}
    if unfinished:
        verdict.violations.append(f"jobs are not done: {unfinished}")
    endings = admin.execute(
        "SELECT coalesce(ending::text, 'held') AS name, count(*) AS n FROM tracker.lease GROUP BY 1"
    )
    verdict.leases = {row["name"]: row["n"] for row in endings}


def _judge_links(links: dict[str, str], found: Results, say: list[str]) -> None:
    _name(say, [url for url in links if url not in found.outcomes], "links were lost")
    _name(say, [url for url, ends in found.outcomes.items() if len(ends) > 1], "links are final twice")
    _name(say, [url for url in found.outcomes if url not in links], "links are final that nobody planted")
    wrong = [f"{url} as {ends[0]}" for url, ends in found.outcomes.items() if links.get(url) != ends[0]]
    _name(say, wrong, "links ended otherwise than planted")
    kept = {url for url, outcome in links.items() if outcome == "success"}
    _name(say, sorted(kept - found.kept.keys()), "samples were not published")
    _name(say, sorted(found.kept.keys() - kept), "samples were published that should not be")
    _name(say, [url for url, n in found.kept.items() if n > 1], "samples were published twice")
    _name(say, [key for key, n in found.keys.items() if n > 1], "samples were scored twice")


def _name(say: list[str], wrong: list[str], what: str) -> None:
    if wrong:
        say.append(f"{len(wrong)} {what}: {'; '.join(wrong[:EXAMPLES])}")


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _orphans(there: set[str], should: set[str]) -> set[str]:
    """Return files that are neither listed, nor the manifest, nor a current snapshot of the Bloom filter."""
    return {path for path in there - should if path != "manifest.parquet" and not path.startswith("bloom/")}


def _sweep(admin: Connection, folder: Path) -> None:
    """Run `tracker sweep` as if a day had passed; its age limit protects writers, and here no writer is left."""
    past = time.time() - timedelta(days=1).total_seconds()
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (past, past))
    sweep(admin, str(folder), older_than=timedelta(hours=2), delete=True, show=0, on_files=lambda _: None)
