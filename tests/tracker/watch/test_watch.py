"""`tracker serve` over HTTP: its page, and its behaviour if the database is down or a client is slow."""

import http.client
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from tests.tracker.filling import fill_pool, finished_job, new_run, scalar, set_setting
from tracker.admin.status import StatusView, sparkline
from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect
from tracker.database.enums import OUTCOMES, SUBSETS
from tracker.database.migrate import migrate
from tracker.duties import serve
from tracker.duties.serve import Duties
from tracker.errors import TrackerError
from tracker.protocol.session import Session
from tracker.watch import pace, site
from tracker.watch.alarms import alarms
from tracker.watch.exposition import MAX_VERDICTS
from tracker.watch.snapshot import take_snapshot
from tracker.watch.watcher import Watcher

Register = Callable[[str], Session]


def healthy_duties() -> Duties:
    return Duties(every_seconds=1.0, done_at=time.time())


@pytest.fixture
def watcher(database: str) -> Iterator[Watcher]:
    """A watcher that looks when it is told to."""
    watching = Watcher(database, healthy_duties(), every_seconds=3600)
    yield watching
    watching._close()


@contextmanager
def served(watcher: Watcher) -> Iterator[str]:
    with site.listen("127.0.0.1:0") as listening, site.answering(watcher, listening):
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def test_an_empty_database_has_a_page_metrics_and_a_status_without_any_alarm(watcher: Watcher) -> None:
    watcher.look()
    assert watcher.error is None
    seen = json.loads(watcher.answers.status)
    assert (seen["alarms"], seen["hours_left"], seen["workers"], seen["pool"]) == ([], None, [], 0)
    assert value(watcher.answers.metrics, "shoal_pool_hours_left") == float("inf")
    assert value(watcher.answers.metrics, "shoal_links_finished_total", outcome="success") == 0


def test_connections_without_a_request_are_closed_soon(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "REQUEST_SECONDS", 0.1)
    monkeypatch.setattr(site, "MAX_CONNECTIONS", 4)
    watcher.look()
    with served(watcher) as url, ExitStack() as stack:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        silent = [stack.enter_context(socket.create_connection(place, timeout=10)) for _ in range(8)]
        for number, one in enumerate(silent):
            one.sendall(b"GET / HT"[:number])  # a part of a request is none
        assert [one.recv(1) for one in silent] == [b""] * 8
        assert get(f"{url}/healthz")[0] == 200


def test_a_connection_that_has_made_a_request_is_kept_for_the_next(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "REQUEST_SECONDS", 0.1)
    watcher.look()
    with served(watcher) as url:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))
        with closing(http.client.HTTPConnection(*place, timeout=10)) as client:
            client.request("GET", "/healthz")
            assert client.getresponse().read()
            own = client.sock
            assert select.select([own], [], [], 0.3) == ([], [], [])  # nobody closes it
            client.request("GET", "/healthz")
            assert client.getresponse().status == 200
            assert client.sock is own


@pytest.mark.parametrize(("place", "url"), [("127.0.0.1:0", "http://127.0.0.1:"), ("[::1]:0", "http://[::1]:")])
def test_the_url_that_is_told_can_be_opened(place: str, url: str) -> None:
    with site.listen(place) as listening:
        assert site.url_of(listening) == f"{url}{listening.getsockname()[1]}/"


def test_where_a_list_has_checksums_the_shares_of_live_changed_and_dead_links_are_shown(
    admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    assert take_snapshot(admin)["links"] is None
    admin.execute("""UPDATE tracker.run SET recipe = '{"extra": {"s": "string"}, "sha256_column": "s"}'""")
    fill_pool(admin, run_id, 100)
    set_setting(admin, "batch_size", 100)
    download = register("download")
    batch = download.draw()
    assert batch is not None
    ends = {"success": batch.n - 6, "changed": 2, "not_found": 3, "opted_out": 1}
    download.complete(batch, {"finished": ends, "again": [], "returned": [], "samples": batch.n - 6, "bytes": 9})
    seen = take_snapshot(admin)
    assert seen["links"] == {"live": batch.n - 6, "changed": 2, "dead": 3, "not_wanted": 1}
    screen = io.StringIO()
    Console(width=80, file=screen).print(StatusView(seen))
    shown = screen.getvalue()
    assert re.search(rf"changed +{2 / batch.n:.1%}", shown), shown


def test_metrics_tell_what_the_ledger_the_queues_and_the_workers_say(
    admin: Connection, register: Register, expire: Callable[[Session], None], watcher: Watcher, tmp_path: Path
) -> None:
    run_id = new_run(admin, wats=4)
    fill_pool(admin, run_id, 300)
    fill_pool(admin, run_id, 100, "multi")
    for name, n in (("batch_size", 100), ("pool_resume", 800), ("pool_low", 10)):
        set_setting(admin, name, n)
    first, second, silent = register("download"), register("extract"), register("extract")
    batch = first.draw()
    assert batch is not None
    ends = {"success": batch.n - 3, "timeout": 3}
    first.complete(batch, {"finished": ends, "again": [], "returned": [], "samples": batch.n - 3, "bytes": 9})
    assert second.claim()
    (lost,) = silent.claim()
    admin.execute("UPDATE tracker.job SET state = 'dead', finished_at = now(), error = 'x' WHERE job_id = 1")
    expire(silent)
    serve.tick(admin, str(tmp_path))
    watcher.look()
    text = watcher.answers.metrics
    assert value(text, "shoal_links_in_total") == 400
    assert sum(value(text, "shoal_pool_links", subset=s) for s in SUBSETS) == 400 - batch.n
    assert [value(text, "shoal_pool_target_links", subset=s) for s in ("en", "multi")] == [600, 200]
    assert value(text, "shoal_links_finished_total", outcome="success") == batch.n - 3
    assert value(text, "shoal_links_finished_total", outcome="timeout") == 3
    states = {state: value(text, "shoal_jobs", queue="extract", state=state) for state in ("ready", "expired", "dead")}
    assert (states, lost.job_id) == ({"ready": 2, "expired": 1, "dead": 1}, 2)
    assert value(text, "shoal_workers", queue="extract", state="silent") == 1
    assert value(text, "shoal_workers", queue="download", state="active") == 1
    assert value(text, "shoal_jobs_done_total", queue="download") == 1
    assert value(text, "shoal_rows_out_total", queue="download") == batch.n - 3
    assert value(text, "shoal_pool_watermark_links", mark="low") == 10
    assert value(text, "shoal_database_size_bytes") > 1e6
    assert value(text, "shoal_ledger_lag_seconds") == 0
    said = json.loads(watcher.answers.status)["alarms"]
    assert "dead jobs of extract: 1; see tracker jobs --state dead" in said
    assert "work waits for ingest, and no such worker is alive" not in said


def test_labels_are_bounded_however_many_verdicts_workers_name(admin: Connection, watcher: Watcher) -> None:
    run_id = new_run(admin)
    job = finished_job(admin, run_id)
    admin.execute(
        "INSERT INTO tracker.ledger (run_id, account, label, subset, n, job_id) "
        "SELECT %s, 'filtered', 'forged ' || i, 'en', i, %s FROM generate_series(1, 200) AS i",
        (run_id, job),
    )
    watcher.look()
    verdicts = {labels: n for (name, labels), n in samples(watcher.answers.metrics).items() if "judged_total" in name}
    assert len(verdicts) == MAX_VERDICTS + 1
    assert sum(verdicts.values()) == 200 * 201 // 2
    outcomes = [labels for name, labels in samples(watcher.answers.metrics) if name == "shoal_links_finished_total"]
    assert len(outcomes) == len(OUTCOMES)


def test_every_answer_comes_from_one_look_however_many_ask(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    monkeypatch.setattr(watcher, "look", lambda: looks.append(time.monotonic()))
    with served(watcher) as url:
        answers = [get(f"{url}{path}")[0] for path in ("/", "/metrics", "/status.json") for _ in range(20)]
    assert set(answers) == {200}
    assert len(looks) == 1


def test_clients_that_send_nothing_or_read_nothing_do_not_hinder_others_nor_the_end(watcher: Watcher) -> None:
    watcher.look()
    with served(watcher) as url:
        port = int(url.rpartition(":")[2])
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for one in idle[:25]:
            one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")  # and never reads
        for one in idle[25:]:
            one.sendall(b"GET /")
        assert get(f"{url}/metrics")[0] == 200
        started = time.monotonic()
    assert time.monotonic() - started < 2 * site.CLOSING_SECONDS + 2
    for one in idle:
        one.close()


def test_what_is_not_there_is_404_and_nothing_can_be_changed(watcher: Watcher) -> None:
    with served(watcher) as url:
        assert get(f"{url}/other")[0] == 404
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{url}/status.json", b"{}"), timeout=10)
        assert refused.value.code == 405
        refused.value.close()


def test_the_page_loads_nothing_from_elsewhere_and_puts_no_text_in_as_markup() -> None:
    page = site.page_bytes().decode()
    assert "innerHTML" not in page
    assert "insertAdjacentHTML" not in page
    assert [line for line in page.splitlines() if "http" in line and "www.w3.org" not in line] == []


def test_health_is_503_with_the_reason_when_the_duties_are_not_done(watcher: Watcher) -> None:
    watcher.look()
    assert watcher.trouble() is None
    assert "hangs" in (watcher.trouble(lambda: time.time() + 3600) or "")
    watcher._due_at = watcher._duties.done_at = time.time() + 3600
    assert watcher.trouble() is None
    watcher._duties.done_at -= 7200
    assert "duties have not been done" in (watcher.trouble() or "")
    watcher._duties.error = "cannot reach the database"
    watcher.look()
    with served(watcher) as url:
        code, said = get(f"{url}/healthz")
    assert (code, json.loads(said)) == (503, {"healthy": False, "reason": "cannot reach the database"})


def test_a_look_that_fails_is_told_and_the_next_one_may_go_well(
    watcher: Watcher, admin: Connection, database: str
) -> None:
    admin.execute("ALTER TABLE tracker.bloom RENAME TO elsewhere")
    watcher.look()
    assert "run tracker migrate" in (watcher.trouble() or "")
    assert value(watcher.answers.metrics, "shoal_database_up") == 0
    assert ("shoal_links_in_total", frozenset()) not in samples(watcher.answers.metrics)
    admin.execute("ALTER TABLE tracker.elsewhere RENAME TO bloom")
    watcher.look()
    assert watcher.trouble() is None


@contextmanager
def serving(home: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    code = "from tracker.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--every-seconds", "0.2", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SHOAL_HOME": str(home)} | environment,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http.listening" in line, line
        yield process, line.split("url=")[1].strip()
    finally:
        process.kill()
        process.communicate()


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)  # another process is waited for


def test_health_goes_503_when_postgres_stops_and_200_when_it_is_back_and_sigterm_ends_it(home: Path) -> None:
    url = embedded_postgres.start(home)
    try:
        migrate(url)
        with serving(home, "--http", "127.0.0.1:0", SHOAL_DATABASE_URL=url) as (process, place):
            until(lambda: get(f"{place}healthz")[0] == 200)
            assert b"<title>Shoal</title>" in get(place)[1]
            embedded_postgres.stop(home, mode="immediate")
            until(lambda: get(f"{place}healthz")[0] == 503)
            assert "database" in json.loads(get(f"{place}healthz")[1])["reason"]
            until(lambda: value(get(f"{place}metrics")[1], "shoal_database_up") == 0)
            embedded_postgres.start(home)
            until(lambda: get(f"{place}healthz")[0] == 200)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
    finally:
        embedded_postgres.stop(home, mode="immediate")


@pytest.mark.parametrize("place", ["nowhere", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_invalid_address_is_one_sentence(place: str) -> None:
    with pytest.raises(TrackerError, match=r"give --http HOST:PORT|cannot listen"):
        site.listen(place)


def test_a_place_that_is_taken_is_refused_when_it_was_named_and_passed_over_when_not(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.listen("127.0.0.1:0") as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(TrackerError, match="give another --http"), site.shown(database, healthy_duties(), place):
            pass
        monkeypatch.setattr(site, "HTTP_PLACE", place)
        with site.shown(database, healthy_duties(), None):
            pass


def test_only_a_pool_that_falls_to_its_mark_within_hours_is_an_alarm(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin, wats=1), 7200)
    set_setting(admin, "pool_low", 3600)
    seen = take_snapshot(admin)
    assert "pool_low" not in "".join(seen["alarms"])
    seen["rates"]["download"]["rows_in_per_second"] = 1.0
    assert "at this pace the pool is under pool_low in 1.0 hours: start extract and ingest workers" in alarms(seen)
    seen["rates"]["ingest"]["rows_out_per_second"] = 1.0
    assert "pool_low" not in "".join(alarms(seen))
    set_setting(admin, "pool_low", 7200)
    set_setting(admin, "batch_size", 100)
    drawn = register("download").draw()
    assert drawn is not None
    assert f"the pool is low: {7200 - drawn.n:,} candidates (pool_low 7,200)" in "".join(alarms(take_snapshot(admin)))


def test_a_rate_is_since_the_first_job_of_the_last_minutes() -> None:
    minutes = pace.by_minute(
        [{"queue": "download", "minute": m, "jobs": 1, "failures": 0, "rows_in": 600, "rows_out": 60} for m in (0, 1)]
    )
    assert pace.rates(minutes)["download"] == {
        "jobs_per_hour": 60.0,
        "rows_in_per_second": 10.0,
        "rows_out_per_second": 1.0,
        "failures": 0.0,
    }
    assert pace.rates(minutes)["extract"]["rows_in_per_second"] == 0


def test_a_hurried_admin_sees_rates_targets_and_alarms_in_the_terminal(
    admin: Connection, database: str, register: Register
) -> None:
    fill_pool(admin, new_run(admin, wats=1), 100)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    worker.complete(
        batch, {"finished": {"success": batch.n}, "again": [], "returned": [], "samples": batch.n, "bytes": 1}
    )
    with connect(database) as connection:
        seen = take_snapshot(connection)
    assert seen["minutes"]["download"]["rows_in"][-1] == batch.n == 100
    console = Console(width=220, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    console.print(StatusView(seen))
    said = console.export_text()
    console.file.close()
    assert "! work waits for extract, and no such worker is alive" in said
    assert "▁▁▁█" in said
    assert scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'completed'") == 1
    assert sparkline([0, 0, 0]) == "▁▁▁"


def test_a_ledger_that_nobody_folds_is_an_alarm_once_adding_it_up_takes_time(admin: Connection) -> None:
    new_run(admin, wats=1)
    post = "SELECT tracker.post(1, 1, 'jobs', 'extract', NULL, 1)"
    admin.execute(post.encode())
    admin.execute("UPDATE tracker.ledger SET posted_at = now() - interval '1 hour'")
    assert "has not been folded" not in "".join(take_snapshot(admin)["alarms"])
    admin.execute("SELECT setval(pg_get_serial_sequence('tracker.ledger', 'entry_id'), 200000)")
    admin.execute(post.encode())
    assert "the ledger has not been folded for 3,600 s" in "".join(take_snapshot(admin)["alarms"])
