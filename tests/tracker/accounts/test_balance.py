"""A pile holds the queue before it until it has fallen; and the alarm says how long the pool will last."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracker.filling import fill_pool, listed_pack, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.accounts.audit import audit
from tracker.accounts.balance import Balance, balance, note_pace
from tracker.accounts.controls import change_setting
from tracker.database.database import Connection
from tracker.duties.serve import tick
from tracker.errors import TrackerError
from tracker.protocol.session import Batch, Session

Register = Callable[[str], Session]
PICTURE_BYTES = 1000


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def is_held(admin: Connection, queue: str) -> object:
    return scalar(admin, "SELECT held FROM tracker.control WHERE queue = %s", queue)


def draw(worker: Session) -> Batch:
    batch = worker.draw()
    assert batch is not None
    return batch


def complete(worker: Session, batch: Batch) -> None:
    """Every link is a picture of PICTURE_BYTES."""
    result = {"finished": {"success": batch.n}, "again": [], "returned": [], "samples": batch.n, "bytes": 1}
    worker.complete(batch, result | {"tar_bytes": PICTURE_BYTES * batch.n})


def test_extract_is_held_while_packs_pile_up_and_continues_when_they_have_fallen(
    admin: Connection, register: Register
) -> None:
    run_id = new_run(admin, wats=9)
    set_setting(admin, "packs_high", 100)
    set_setting(admin, "packs_resume", 40)
    worker = register("extract")
    for rows in (60, 40):
        (job,) = worker.claim()
        slots = [{"rows": rows, "bytes": 1}]
        worker.complete(job, {"images": rows, "candidates": rows, "slots": slots})
    assert worker.claim() == []
    assert is_held(admin, "extract")
    take = "INSERT INTO tracker.ledger (run_id, account, n, job_id) VALUES (%s, 'packed', %s, 1)"
    admin.execute(take, (run_id, -59))
    assert worker.claim() == []  # below the high mark, above the other
    admin.execute(take, (run_id, -1))
    assert len(worker.claim()) == 1


def test_a_pack_that_came_in_or_was_discarded_waits_no_longer(
    admin: Connection, register: Register, console: Console
) -> None:
    run_id = new_run(admin)
    for rows in (10, 7):
        listed_pack(admin, run_id, rows)
    worker = register("ingest")
    assert worker.hold_slot() is not None
    (job,) = worker.claim()
    waiting = "SELECT sum(n) FROM tracker.tally WHERE account = 'packed'"
    worker.complete_ingest([(job, {"duplicates": 10, "added": []})], [])
    assert scalar(admin, waiting) == 7
    admin.execute("UPDATE tracker.job SET state = 'dead', finished_at = now(), error = 'no' WHERE state = 'ready'")
    assert console.json("discard", "--queue", "ingest", "--yes")["jobs"] == 1
    assert scalar(admin, waiting) == 0


def test_with_the_filter_stopped_the_shards_stay_under_their_mark_in_samples(
    admin: Connection, register: Register
) -> None:
    fill_pool(admin, new_run(admin), 3000)
    set_setting(admin, "batch_size", 100)
    set_setting(admin, "shard_samples_high", 600)
    set_setting(admin, "shard_samples_resume", 300)
    workers = [register("download") for _ in range(20)]
    held = [(worker, batch) for worker in workers if (batch := worker.draw())]
    drawn = sum(batch.n for _, batch in held)
    last = held[-1][1].n
    assert drawn - last < 600 <= drawn  # the batch that reaches the mark is the last
    for worker, batch in held:
        complete(worker, batch)
    assert [worker.draw() for worker in workers] == [None] * 20
    assert scalar(admin, "SELECT sum(samples) FROM tracker.manifest WHERE kind = 'shard'") == drawn
    assert is_held(admin, "download")


def test_batches_in_progress_count_with_the_mean_bytes_of_a_link_so_far(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 3000)
    set_setting(admin, "batch_size", 100)
    worker = register("download")
    complete(worker, draw(worker))
    first = scalar(admin, "SELECT tar_bytes FROM tracker.manifest")
    assert isinstance(first, int)
    high = first + 500 * PICTURE_BYTES
    set_setting(admin, "shard_bytes_high", high)
    set_setting(admin, "shard_bytes_resume", first)
    held = [(worker, batch) for worker in [register("download") for _ in range(15)] if (batch := worker.draw())]
    assert 0 < len(held) < 15
    for worker, batch in held:
        complete(worker, batch)
    stored = int(str(scalar(admin, "SELECT sum(tar_bytes) FROM tracker.manifest WHERE kind = 'shard'")))
    assert high <= stored < high + held[-1][1].n * PICTURE_BYTES
    assert worker.draw() is None
    row = admin.execute("SELECT amount FROM tracker.watermarks('download') WHERE what = 'bytes in shards'").fetchone()
    assert row == {"amount": stored}


def test_before_the_first_shard_a_link_counts_as_one_of_a_whole_crawl(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 1000)
    set_setting(admin, "batch_size", 100)
    set_setting(admin, "shard_bytes_high", 14_000)
    assert draw(register("download")).n > 1
    assert register("download").draw() is None


def test_a_held_queue_says_what_holds_it(admin: Connection, register: Register, console: Console) -> None:
    fill_pool(admin, new_run(admin), 100)
    set_setting(admin, "shard_samples_high", 1)
    set_setting(admin, "shard_samples_resume", 0)
    worker = register("download")
    complete(worker, draw(worker))
    fill_pool(admin, 1, 100)
    assert worker.draw() is None
    shown = " ".join(console("status").out.split())
    assert "held: 100 samples in shards" in shown
    piles = {pile["what"]: pile for pile in console.json("status")["balance"]["piles"]}
    assert piles["samples in shards"] == {
        "queue": "download",
        "what": "samples in shards",
        "amount": 100,
        "high": 1,
        "resume": 0,
        "full": True,
    }


@pytest.mark.parametrize("wish", ["recipe = '{\"filter\": false}'", "keep_shards = 'forever'"])
def test_shards_that_are_there_to_stay_hold_nothing(admin: Connection, register: Register, wish: str) -> None:
    staying = new_run(admin, "staying")
    admin.execute(f"UPDATE tracker.run SET {wish}".encode())
    fill_pool(admin, staying, 100)
    worker = register("download")
    complete(worker, draw(worker))
    set_setting(admin, "shard_samples_high", 50)
    set_setting(admin, "shard_bytes_high", 50)
    for mark in ("shard_samples_resume", "shard_bytes_resume"):
        set_setting(admin, mark, 0)
    fill_pool(admin, staying, 100)
    complete(worker, draw(worker))
    fill_pool(admin, new_run(admin, "passing"), 100)
    complete(worker, draw(worker))
    fill_pool(admin, staying, 100)
    assert worker.draw() is None  # for the other run's shards, which will go


def test_a_high_mark_is_never_set_below_its_resume_mark(admin: Connection) -> None:
    for stem, most in (("packs", 10**12), ("pool", 10**12), ("shard_bytes", 10**18), ("shard_samples", 10**12)):
        for name, value in ((f"{stem}_high", 10), (f"{stem}_resume", most)):
            with pytest.raises(TrackerError, match="set that first"):
                change_setting(admin, name, value)
        change_setting(admin, f"{stem}_resume", 9)
        change_setting(admin, f"{stem}_high", 10)


def low(pool: int = 100, drawn: float | None = None, *, more: bool = True, came_in: int = 1000) -> Balance:
    return Balance(
        pool=pool,
        came_in=came_in,
        pool_low=50,
        pool_low_hours=6,
        drawn_per_hour=drawn,
        came_in_per_hour=None,
        more_can_come=more,
        piles=(),
    )


def test_the_alarm_depends_on_rows_and_hours_and_on_whether_more_can_come() -> None:
    assert low(pool=49).alarm is not None
    assert low(pool=50).alarm is None
    assert "runs dry: in 5.0 hours" in (low(drawn=20.0).alarm or "")
    assert low(drawn=10.0).alarm is None
    assert low(pool=0, drawn=10.0, more=False).alarm is None
    assert low(pool=49, drawn=20.0, came_in=49).alarm is None  # a small crawl's pool was never above the mark
    assert low(pool=49, came_in=50).alarm is not None


def test_a_pool_without_draws_never_runs_dry() -> None:
    assert (low(drawn=0.0).hours_left, low(drawn=0.0).runs_dry) == (None, "never")
    assert low(drawn=None).runs_dry == "not measured"
    assert low(drawn=10.0).runs_dry == "in 10.0 hours"


def test_hours_of_work_left_come_from_the_rate_that_the_ledger_shows(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin, wats=1), 1000)
    set_setting(admin, "batch_size", 100)
    set_setting(admin, "pool_low", 1000)
    assert balance(admin).drawn_per_hour is None
    assert note_pace(admin)
    assert not note_pace(admin)  # once a minute is enough
    admin.execute("UPDATE tracker.pace SET measured_at = now() - interval '30 minutes'")
    assert balance(admin).runs_dry == "never"
    drawn = draw(register("download")).n
    found = balance(admin)
    assert found.drawn_per_hour == pytest.approx(2 * drawn, rel=0.01)
    assert found.hours_left == pytest.approx((1000 - drawn) / (2 * drawn), rel=0.01)
    assert found.alarm is not None
    assert audit(admin).holds


def test_serve_says_that_the_pool_runs_low_once_a_minute(
    admin: Connection, register: Register, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill_pool(admin, new_run(admin, wats=1), 10)
    tick(admin, str(tmp_path))
    assert "tracker.pool_low" not in caplog.text  # a crawl of 10 links never had 20 million in its pool
    set_setting(admin, "pool_low", 10)
    set_setting(admin, "batch_size", 5)
    left = 10 - draw(register("download")).n
    admin.execute("DELETE FROM tracker.pace")
    for _ in range(3):
        tick(admin, str(tmp_path))
    assert caplog.text.count("tracker.pool_low") == 1
    assert f"{left} candidates" in caplog.text


def chosen(admin: Connection, times: int = 2000) -> Counter[str]:
    """The subsets that so many draws would come from, with a fixed seed."""
    with admin.transaction():
        admin.execute("SELECT setseed(0.5)")
        rows = admin.execute(
            "SELECT subset, count(*) AS n FROM "
            "(SELECT (tracker.choose_leaf()).subset::text FROM generate_series(1, %s)) AS drawn GROUP BY subset",
            (times,),
        ).fetchall()
    return Counter({row["subset"]: row["n"] for row in rows})


def test_draws_come_from_the_subsets_in_proportion_to_what_waits_times_the_weight(admin: Connection) -> None:
    run_id = new_run(admin)
    for subset, n in (("en", 600), ("multi", 300), ("nolang", 100)):
        fill_pool(admin, run_id, n, subset)
    # 2000 draws: the standard deviation of a share is at most 1.1 %.
    shares = {subset: n / 2000 for subset, n in chosen(admin).items()}
    assert shares == pytest.approx({"en": 0.6, "multi": 0.3, "nolang": 0.1}, abs=0.05)
    change_setting(admin, "weight_multi", 4)
    shares = {subset: n / 2000 for subset, n in chosen(admin).items()}
    assert shares == pytest.approx({"en": 600 / 1900, "multi": 1200 / 1900, "nolang": 100 / 1900}, abs=0.05)
    change_setting(admin, "weight_en", 0)
    assert set(chosen(admin)) == {"multi", "nolang"}


def wait_again(admin: Connection, run_id: int, subset: str, n: int) -> None:
    """So many links whose second try has been due for an hour; they came in by a pack long since."""
    admin.execute(
        "INSERT INTO tracker.again (due_at, run_id, subset, attempt, pack, pack_row, url, text) "
        "SELECT now() - interval '1 hour', %s, %s, 2, 9, i, 'http://again.example/' || i, 'caption' "
        "FROM generate_series(1, %s) AS i",
        (run_id, subset, n),
    )
    for account in ("in", "again"):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, account, subset, n, job_id) VALUES (%s, %s, %s, %s, 1)",
            (run_id, account, subset, n),
        )


def test_second_tries_are_neither_starved_nor_starve_the_pool(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 20_000, "en")
    wait_again(admin, run_id, "nolang", 100)  # of a subset whose pool has run dry
    wait_again(admin, run_id, "en", 200)
    set_setting(admin, "batch_size", 100)
    set_setting(admin, "again_share", 0.2)
    admin.execute("SELECT setseed(0.5)")
    ask = "SELECT subset::text, n, payload FROM tracker.draw(%s, gen_random_uuid())"
    again = pool = 0
    worker = register("download")
    for _ in range(40):
        row = admin.execute(ask, (worker.worker_id,)).fetchone()
        assert row is not None
        second = row["payload"].count("http://again.example/")
        assert row["subset"] == "nolang" or second <= 20
        again, pool = again + second, pool + row["n"] - second
    assert again == 300  # all of them, although the pool was never empty
    assert pool > 2000  # most draws are of the pool, although second tries were due
    assert audit(admin).holds


def test_second_tries_of_a_stopped_subset_do_not_hide_the_others(admin: Connection) -> None:
    run_id = new_run(admin)
    wait_again(admin, run_id, "en", 50)
    wait_again(admin, run_id, "multi", 1)
    admin.execute("UPDATE tracker.again SET due_at = now() - interval '1 minute' WHERE subset = 'multi'")
    set_setting(admin, "weight_en", 0)
    assert chosen(admin, 1) == {"multi": 1}
