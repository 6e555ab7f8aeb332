"""A few faults of every kind on a real swarm, and tests of the proxy and the verdict."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.crawl import LINKS, REPEATED, ChaosCrawl
from tests.chaos.cutting_proxy import Cut, CuttingProxy
from tests.chaos.verdict import _judge_links
from tests.demo.checks import Results
from tests.tracker.filling import new_run, scalar
from tracker.database.database import Connection
from tracker.protocol.session import Session

FAULTS = 15


def test_a_swarm_under_faults_of_every_kind_loses_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos.run", "--faults", str(FAULTS), "--minutes", "0.4", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert (said["violations"], done.returncode) == ([], 0)
    assert said["faults"] > 0
    assert said["published"] == said["outcomes"]["success"] > 0
    assert sum(said["outcomes"].values()) == said["links"] == LINKS * said["wat_files"]


@contextmanager
def cutting(database: str) -> Iterator[tuple[CuttingProxy, str]]:
    """Yield a proxy before the database, and the URL through it."""
    target = conninfo_to_dict(database)
    host, port = str(target["host"]), int(target.get("port") or 5432)
    proxy = CuttingProxy(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port))
    try:
        yield proxy, make_conninfo(database, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
    finally:
        proxy.close()


@pytest.mark.parametrize(("where", "committed"), [("request", False), ("reply", True)])
def test_a_cut_comes_before_or_after_the_commit_as_requested(
    admin: Connection, database: str, where: str, committed: bool
) -> None:
    admin.execute("CREATE TABLE public.seen (n int)")
    with cutting(database) as (proxy, url), psycopg.connect(url, autocommit=True) as connection:
        proxy.arm(Cut(where, b"INSERT"))
        connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO public.seen VALUES (%s)", (7,))
        assert proxy.done.total() == 1
    assert scalar(admin, "SELECT count(*) FROM public.seen") == int(committed)


def test_a_session_survives_every_cut(admin: Connection, database: str) -> None:
    new_run(admin, wats=3)
    with cutting(database) as (proxy, url):
        worker = Session.register(url, "extract")
        jobs = []
        for where in ("request", "flight", "reply"):
            proxy.arm(Cut(where, b"tracker.claim"))
            jobs += worker.claim()
        assert proxy.cut_any(random.Random(1))
        worker.release(jobs[0])
        worker.close()
        assert proxy.done == Counter({("request", "claim"): 1, ("flight", "claim"): 1, ("reply", "claim"): 1})
    assert len({job.job_id for job in jobs}) == 3
    assert scalar(admin, "SELECT count(*) FROM tracker.lease") == 3


def test_a_wat_file_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    crawl = ChaosCrawl(tmp_path, 5, 1000, 1001)
    first = crawl.write(1).read_bytes()
    assert crawl.write(1).read_bytes() == first
    urls = {link.url for number in range(3) for link in crawl.links(number)}
    assert len(urls) == 3 * LINKS
    assert REPEATED < LINKS


WELL = {"a": "success", "b": "gone"}


@pytest.mark.parametrize(
    ("outcomes", "kept", "said"),
    [
        ({"a": ["success"]}, ["a"], "1 links were lost: b"),
        ({"a": ["success"], "b": ["gone", "gone"]}, ["a"], "1 links are final twice: b"),
        ({"a": ["success"], "b": ["not_found"]}, ["a"], "1 links ended otherwise than planted: b as not_found"),
        ({"a": ["success"], "b": ["gone"]}, [], "1 samples were not published: a"),
        ({"a": ["success"], "b": ["gone"]}, ["a", "a"], "1 samples were published twice: a"),
        ({"a": ["success"], "b": ["gone"]}, ["a", "b"], "1 samples were published that should not be: b"),
    ],
)
def test_the_verdict_names_what_is_wrong(outcomes: dict[str, list[str]], kept: list[str], said: str) -> None:
    violations: list[str] = []
    _judge_links(WELL, Results(outcomes=outcomes, kept=Counter(kept)), violations)
    assert violations == [said]


def test_the_verdict_holds_for_the_planned_outcomes() -> None:
    violations: list[str] = []
    _judge_links(WELL, Results(outcomes={"a": ["success"], "b": ["gone"]}, kept=Counter(["a"])), violations)
    assert violations == []
