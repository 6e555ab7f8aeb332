"""Hosts that refuse one worker rest for all of them; blocks reach every worker; burnt addresses are drained."""

import json
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.chaos.cutting_proxy import Cut
from tests.chaos.test_chaos import cutting
from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.accounts.audit import audit
from tracker.database.database import Connection
from tracker.duties.burnt_workers import Counts, find_burnt, least_share
from tracker.duties.serve import tick
from tracker.errors import Refused
from tracker.protocol.session import Batch, DownloadBeat, Session

Register = Callable[[str], Session]
Login = Callable[[str], psycopg.Connection[dict[str, object]]]


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def beat(worker: Session, since: datetime | None = None, **report: Any) -> DownloadBeat:
    return worker.heartbeat_download(1, since, {"refused": {}, "well": [], "probes": [], **report})


def left(news: DownloadBeat, host: str) -> float:
    assert news.rests is not None
    return news.rests[host][0]


def pass_time(admin: Connection, seconds: float) -> None:
    """Let every moment of the resting hosts be so much longer ago."""
    admin.execute(
        "UPDATE tracker.resting SET until = until - make_interval(secs => %(s)s), "
        "changed_at = changed_at - make_interval(secs => %(s)s), "
        "probe_until = probe_until - make_interval(secs => %(s)s)",
        {"s": seconds},
    )


def test_what_one_worker_was_refused_all_others_hear_of_once(admin: Connection, register: Register) -> None:
    one, other = register("download"), register("download")
    before = beat(other)
    assert before.rests is None
    beat(one, refused={"a.test": [1, None]})
    heard = beat(other, before.since)
    assert 58 < left(heard, "a.test") <= 60
    pass_time(admin, 10)
    assert beat(other, heard.since).rests is None
    assert 48 < left(beat(register("download")), "a.test") <= 50


@pytest.mark.parametrize("where", ["reply", "request"])
def test_a_beat_that_is_sent_again_counts_its_refusals_once(admin: Connection, database: str, where: str) -> None:
    with cutting(database) as (proxy, url), closing(Session.register(url, "download")) as worker:
        beat(worker)  # over a connection that goes on
        proxy.arm(Cut(where, b"tracker.heartbeat_download("))
        beat(worker, refused={"a.test": [1, None]})
        assert proxy.done.total() == 1
        assert scalar(admin, "SELECT refusals FROM tracker.resting") == 1
        assert left(beat(worker), "a.test") == pytest.approx(60, abs=3)
        beat(worker, refused={"a.test": [1, None]})  # another beat, another refusal
        assert scalar(admin, "SELECT refusals FROM tracker.resting") == 2


def test_refusals_of_one_time_double_a_rest_a_few_times_and_each_refused_probe_does(
    admin: Connection, register: Register
) -> None:
    worker = register("download")
    for seconds in (60, 120, 240, 480, 540, 600):
        beat(worker, refused={"a.test": [1, None]})
        assert left(beat(worker), "a.test") == pytest.approx(seconds, abs=3)
    for seconds in (960, 1920, 3600, 3600):
        pass_time(admin, 4000)
        beat(worker, refused={"a.test": [1, None]})
        assert left(beat(worker), "a.test") == pytest.approx(seconds, abs=3)


def test_a_rest_is_bounded_unless_the_host_itself_asks_for_more(register: Register) -> None:
    worker = register("download")
    beat(worker, refused={"many.test": [500, None], "wish.test": [1, 7200.0], "mad.test": [1, 1e9]})
    news = beat(worker)
    assert left(news, "many.test") == pytest.approx(3600, abs=3)
    assert left(news, "wish.test") == pytest.approx(7200, abs=3)
    assert left(news, "mad.test") == pytest.approx(86400, abs=3)


def test_a_report_of_more_hosts_than_a_hundred_or_of_no_hosts_does_no_harm(
    admin: Connection, register: Register
) -> None:
    beat(
        register("download"), refused={f"h{n}.test": [1, None] for n in range(300)} | {"": [1, None], "x" * 300: [1, 0]}
    )
    assert int(str(scalar(admin, "SELECT count(*) FROM tracker.resting"))) <= 100


def test_when_a_rest_is_over_one_worker_asks_first_and_the_others_go_when_it_is_well(
    admin: Connection, register: Register
) -> None:
    one, other = register("download"), register("download")
    beat(one, refused={"a.test": [1, None]})
    news = beat(other, probes=["a.test", "b.test"])
    assert news.probes is not None
    assert isinstance(news.probes["a.test"], float)
    assert 55 < news.probes["a.test"] <= 60
    assert news.probes["b.test"] == "free"
    pass_time(admin, 61)
    assert beat(other, probes=["a.test"]).probes == {"a.test": "probe"}
    waiting = beat(one, probes=["a.test"])
    assert waiting.probes is not None
    assert 15 < float(waiting.probes["a.test"]) <= 20
    assert (beat(one, waiting.since, well=["a.test"]).rests or {}).get("a.test", [0, 1])[1] == 1  # not its probe
    beat(other, well=["a.test"])
    assert (beat(one, waiting.since).rests or {})["a.test"][1] == 0
    assert beat(one, probes=["a.test"]).probes == {"a.test": "free"}
    assert beat(register("download")).rests is None


def test_a_worker_that_died_with_the_probe_delays_no_other(admin: Connection, register: Register) -> None:
    dead, other = register("download"), register("download")
    beat(dead, refused={"a.test": [1, None]})
    pass_time(admin, 61)
    assert beat(dead, probes=["a.test"]).probes == {"a.test": "probe"}
    pass_time(admin, 21)
    assert beat(other, probes=["a.test"]).probes == {"a.test": "probe"}


def test_a_rest_that_has_long_been_over_is_forgotten(admin: Connection, register: Register) -> None:
    beat(register("download"), refused={"a.test": [1, None], "b.test": [1, 80000.0]})
    pass_time(admin, 22_000)
    tick(admin, "unused")
    assert [row["host"] for row in admin.execute("SELECT host FROM tracker.resting")] == ["b.test"]


def drawn(admin: Connection, worker: Session, n: int = 10) -> Batch:
    fill_pool(admin, new_run(admin), n)
    batch = worker.draw()
    assert batch is not None
    return batch


def result(finished: int, **more: Any) -> dict[str, Any]:
    return {"finished": {"not_found": finished}, "again": [], "returned": [], "samples": 0, "bytes": 0, **more}


def test_links_kept_for_later_use_up_no_try_and_come_back_when_their_host_has_rested(
    admin: Connection, register: Register
) -> None:
    worker = register("download")
    batch = drawn(admin, worker)
    worker.complete(batch, result(7, again=[1], later=[[3, 500.0], [5, 1e9]]))
    rows = admin.execute(
        "SELECT attempt, pack_row, extract(epoch FROM due_at - now())::float8 AS seconds FROM tracker.again ORDER BY 3"
    ).fetchall()
    assert [row["attempt"] for row in rows] == [1, 2, 1]
    assert [row["seconds"] for row in rows] == [pytest.approx(s, abs=3) for s in (500, 600, 86400)]
    assert scalar(admin, "SELECT rows FROM tracker.manifest WHERE kind = 'shard'") == 8
    assert audit(admin).holds


def test_a_lists_other_columns_come_along_whichever_way_a_link_waits(admin: Connection, register: Register) -> None:
    worker = register("download")
    fill_pool(admin, new_run(admin), 10)
    admin.execute("UPDATE tracker.candidate SET extra = '{\"n\":' || pack_row || '}'")
    batch = worker.draw()
    assert batch is not None
    worker.complete(batch, result(0, again=[0, 1], later=[[2, 9.0], [3, 9.0]], returned=[4, 5, 6, 7, 8, 9]))
    for table in ("again", "candidate"):
        rows = admin.execute(f"SELECT pack_row, extra FROM tracker.{table}".encode()).fetchall()
        assert [row["extra"] for row in rows] == [f'{{"n":{row["pack_row"]}}}' for row in rows]
    admin.execute("UPDATE tracker.again SET due_at = now()")
    drawn_again = worker.draw()
    assert drawn_again is not None
    assert sorted(line.split("\t")[6] for line in drawn_again.payload.split("\n")) == [
        f'{{"n":{i}}}' for i in range(10)
    ]


@pytest.mark.parametrize("later", [[[3, 1.0], [3, 1.0]], [[10, 1.0]], [[1, 1.0], [2, 1.0]], [[-1, 1.0], [2, 1.0]]])
def test_links_kept_for_later_are_accounted_for_once_each(
    admin: Connection, register: Register, later: list[list[float]]
) -> None:
    worker = register("download")
    batch = drawn(admin, worker)
    with pytest.raises(Refused, match="do not account"):
        worker.complete(batch, result(7 if len(later) == 2 else 9, again=[1], later=later))
    assert scalar(admin, "SELECT count(*) FROM tracker.again") == 0


def test_a_completed_batch_reports_refusals_and_does_not_store_them_in_the_job(
    admin: Connection, register: Register
) -> None:
    worker = register("download")
    batch = drawn(admin, worker)
    worker.complete(batch, result(10, refused={"a.test": [3, None]}, hosts={"asked": 8, "refused": 2}))
    assert left(beat(worker), "a.test") == pytest.approx(240, abs=3)
    kept = scalar(admin, "SELECT result FROM tracker.job WHERE job_id = %s", batch.job_id)
    assert kept == {"finished": {"not_found": 10}, "samples": 0, "bytes": 0, "hosts": {"asked": 8, "refused": 2}}
    counted = admin.execute("SELECT hosts_asked, hosts_refused FROM tracker.worker").fetchone()
    assert counted == {"hosts_asked": 8, "hosts_refused": 2}


def test_blocks_are_set_listed_lifted_and_logged(console: Console, tmp_path: Path) -> None:
    more = tmp_path / "list.txt"
    more.write_text("# court order 7\nads.example  # all of it\n\nexample.org/private\n")
    assert console.json("block", "Example.COM", "--file", more, "--reason", "they asked")["blocked"] == [
        "ads.example", "example.com", "example.org/private/",
    ]  # fmt: skip
    assert console.json("block", "example.com", "--reason", "again")["blocked"] == []
    assert console.json("unblock", "http://example.org/private/")["unblocked"] == ["example.org/private/"]
    rows = console.json("blocks")["blocks"]
    assert [(row["pattern"], row["reason"]) for row in rows] == [
        ("ads.example", "they asked"), ("example.com", "they asked"),
    ]  # fmt: skip
    assert "they asked" in console("blocks").out
    logged = console.json("log")["changes"]
    assert [(entry["command"], entry["subject"]) for entry in logged] == [
        ("unblock", "example.org/private/"), ("block", "3 patterns"),
    ]  # fmt: skip
    assert logged[1]["after"]["reason"] == "they asked"


def test_a_list_with_one_bad_pattern_changes_nothing(console: Console) -> None:
    assert "leave off the *" in console.refusal("block", "good.example", "*.bad.example", "--reason", "x")
    assert "needs a reason" in console.refusal("block", "good.example", "--reason", " ")
    assert "good.example is not blocked" in console.refusal("unblock", "good.example")
    assert "nothing to block" in console.refusal("block", "--reason", "x")
    assert "cannot be read" in console.refusal("block", "--file", "/nowhere", "--reason", "x")
    assert console.json("blocks") == {"blocks": []}


def test_workers_fetch_what_is_new_in_the_list_only(console: Console, register: Register) -> None:
    worker = register("download")
    assert beat(worker).blocks == 0
    console.json("block", "a.example", "b.example/x", "--reason", "r")
    assert beat(worker).blocks == 1
    version, blocked, lifted = worker.blocks(0)
    assert (version, sorted(blocked), lifted) == (1, ["a.example", "b.example/x/"], [])
    console.json("block", "c.example", "--reason", "r")
    console.json("unblock", "a.example")
    assert beat(worker).blocks == 3
    assert worker.blocks(1) == (3, ["c.example"], ["a.example"])
    assert worker.blocks(3) == (3, [], [])
    assert worker.blocks(0)[0] == 3
    console.json("unblock", "c.example", "b.example/x")
    assert worker.blocks(0) == (4, [], [])


def test_another_classs_login_hears_nothing_of_the_web(admin: Connection, login: Login, register: Register) -> None:
    with login("filter") as connection:
        for call in ("heartbeat_download(gen_random_uuid(), NULL, 1, NULL, '{}')", "blocks(gen_random_uuid(), 0)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM tracker.{call}".encode())
    with login("download") as connection:
        for call in ("note_refusals('{}')", "count_hosts(gen_random_uuid(), '{}')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT tracker.{call}".encode())
        filtering = register("filter")
        with pytest.raises(psycopg.Error, match="may not work on queue filter"):
            connection.execute(
                "SELECT * FROM tracker.heartbeat_download(%s, NULL, 1, NULL, '{}')", (filtering.worker_id,)
            )


def test_a_share_of_few_hosts_proves_nothing() -> None:
    assert least_share(10, 20) < 0.25
    assert 0.4 < least_share(500, 1000) < 0.5
    assert least_share(0, 1000) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("asked", "refused", "is_burnt"),
    [(1000, 400, True), (1000, 50, False), (250, 30, False), (250, 60, True), (150, 150, False), (1000, 130, False)],
)
def test_a_worker_is_burnt_that_is_surely_refused_three_times_as_often_as_the_others(
    asked: float, refused: float, is_burnt: bool
) -> None:
    fleet = [Counts(f"w{n}", 1000.0, 30.0 + 2 * n) for n in range(9)]  # median 38 of 1,000, with itself 40
    burnt = find_burnt([*fleet, Counts("me", asked, refused)], fewest_hosts=200, factor=3)
    assert list(burnt) == (["me"] if is_burnt else [])


def test_no_worker_is_burnt_in_a_small_fleet_or_if_all_are_refused() -> None:
    assert (
        find_burnt([Counts("a", 900, 5), Counts("b", 900, 5), Counts("c", 900, 900)], fewest_hosts=200, factor=3) == {}
    )
    assert find_burnt([Counts(str(n), 900, 500 + n) for n in range(20)], fewest_hosts=200, factor=3) == {}


def test_several_burnt_workers_do_not_make_themselves_the_measure() -> None:
    fleet = [Counts(f"good{n}", 1000, 20) for n in range(6)] + [Counts(f"bad{n}", 1000, 700) for n in range(4)]
    assert sorted(find_burnt(fleet, fewest_hosts=200, factor=3)) == ["bad0", "bad1", "bad2", "bad3"]


def test_a_burnt_worker_is_drained_shown_and_logged(admin: Connection, register: Register, console: Console) -> None:
    fill_pool(admin, new_run(admin), 5000)
    set_setting(admin, "batch_size", 200)
    workers = [register("download") for _ in range(6)]
    for n, worker in enumerate(workers):
        batch = worker.draw()
        assert batch is not None
        hosts = {"asked": 1000, "refused": 600 if n == 3 else 20}
        worker.complete(batch, result(batch.n, hosts=hosts))
    tick(admin, "unused")
    states = [beat(worker).state for worker in workers]
    assert states == ["active"] * 3 + ["draining"] + ["active"] * 2
    rows = {row["worker"]: row for row in console.json("workers")["workers"]}
    burnt = rows[str(workers[3].worker_id)]
    assert burnt["burnt_reason"] == "refused by 60 % of 1000 hosts; the fleet's median is 2.0 %"
    assert "burnt: refused by 60 %" in " ".join(console("workers").out.split())
    (entry,) = console.json("log", "--command", "burnt")["changes"]
    assert entry["subject"] == str(workers[3].worker_id)
    assert json.dumps(entry["after"])
    tick(admin, "unused")
    assert len(console.json("log", "--command", "burnt")["changes"]) == 1


def test_what_was_counted_fades(admin: Connection, register: Register) -> None:
    worker = register("download")
    admin.execute("UPDATE tracker.worker SET hosts_asked = 1000, hosts_counted_at = now() - interval '2 hours'")
    worker.complete(drawn(admin, worker), result(10, hosts={"asked": 50, "refused": 60}))
    row = admin.execute("SELECT hosts_asked, hosts_refused FROM tracker.worker").fetchone()
    assert row == {"hosts_asked": pytest.approx(300, abs=1), "hosts_refused": 50}
    admin.execute("UPDATE tracker.worker SET hosts_counted_at = '2000-01-01'")
    tick(admin, "unused")
