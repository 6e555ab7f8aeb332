"""The draw: uniform over the pool's pages, exact in its accounts, and safe against a lost reply."""

import threading
from collections import Counter
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tracker.accounts.audit import audit
from tracker.accounts.pool import open_leaves
from tracker.database.database import Connection, connect, translated
from tracker.errors import LeaseLost, Refused
from tracker.protocol.payload import read_payload
from tracker.protocol.session import Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]

DRAWS = 100
TENTHS = 10
# 100 draws look at about 2,500 pages: a tenth gets 250 of them, standard deviation 15; 6 and 14 % are over six away.
FEWEST, MOST = 0.06, 0.14

# The statement of the original download worker, on a table of our shape.
LAION = """
SELECT pack_row FROM tracker.{relation}
WHERE pack_row IN (SELECT pack_row FROM tracker.{relation} TABLESAMPLE SYSTEM (%s) LIMIT %s FOR UPDATE SKIP LOCKED)
"""


def tenths(rows: list[int], n: int) -> list[float]:
    """The share of the rows that lies in each tenth of the table, in its order on disk."""
    counted = Counter(row * TENTHS // n for row in rows)
    return [counted[tenth] / len(rows) for tenth in range(TENTHS)]


def test_a_draw_is_uniform_over_the_pages_of_the_pool(admin: Connection, register: Register) -> None:
    n = 100_000
    run_id = new_run(admin)
    fill_pool(admin, run_id, n)
    set_setting(admin, "batch_size", 1000)
    worker = register("download")
    drawn: list[int] = []
    for _ in range(DRAWS):
        with admin.transaction(force_rollback=True):
            row = admin.execute("SELECT payload FROM tracker.draw(%s, %s)", (worker.worker_id, uuid4())).fetchone()
            assert row is not None
            drawn += [line.pack_row for line in read_payload(row["payload"])]
    assert 0.9 < len(drawn) / (DRAWS * 1000) < 1.1
    assert all(FEWEST < share < MOST for share in tenths(drawn, n))


def test_the_original_statement_is_not_uniform(admin: Connection) -> None:
    n = 100_000
    leaf = fill_pool(admin, new_run(admin), n)
    drawn: list[int] = []
    for _ in range(DRAWS):
        # As in production: the sample is 25 times what LIMIT lets through.
        rows = admin.execute(LAION.format(relation=f"candidate_en_{leaf}").encode(), (25.0, 1000)).fetchall()
        drawn += [row["pack_row"] for row in rows]
    shares = tenths(drawn, n)
    assert shares[0] > 0.9
    assert sum(shares[2:]) == 0


def test_a_draw_takes_its_rows_from_one_leaf_and_books_what_it_took(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    first = fill_pool(admin, run_id, 3000)
    set_setting(admin, "leaf_rows", 1)
    leaves = [first]
    for _ in range(2):
        assert f"candidate_en_{leaves[-1]}" not in open_leaves(admin, run_id)
        newest = scalar(admin, "SELECT max(leaf) FROM tracker.leaf WHERE subset = 'en'")
        assert isinstance(newest, int)
        leaves.append(fill_pool(admin, run_id, 3000, leaf=newest))
    assert len(set(leaves)) == 3
    set_setting(admin, "batch_size", 500)
    batch = register("download").draw()
    assert batch is not None
    left = {leaf: scalar(admin, f"SELECT count(*) FROM tracker.candidate_en_{leaf}") for leaf in leaves}
    (touched,) = [leaf for leaf in leaves if left[leaf] != 3000]
    lines = read_payload(batch.payload)
    assert left[touched] == 3000 - batch.n
    assert len(lines) == batch.n
    assert len({line.pack_row for line in lines}) == batch.n
    booked = "SELECT sum(n) FROM tracker.ledger WHERE account = %s AND job_id = %s"
    assert scalar(admin, booked, "pool", batch.job_id) == -batch.n
    assert scalar(admin, booked, "leased", batch.job_id) == batch.n
    assert audit(admin).holds


def test_every_candidate_is_drawn_once_until_the_pool_is_empty(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    for subset in ("en", "multi", "nolang"):
        fill_pool(admin, run_id, 700, subset)
    set_setting(admin, "batch_size", 100)
    worker = register("download")
    drawn: Counter[tuple[str, int]] = Counter()
    while batch := worker.draw():
        drawn.update((batch.subset, line.pack_row) for line in read_payload(batch.payload))
    assert drawn == Counter({(subset, i): 1 for subset in ("en", "multi", "nolang") for i in range(700)})
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0


def test_a_batch_holds_one_subset(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 50, "en")
    fill_pool(admin, run_id, 50, "multi")
    worker = register("download")
    seen = {batch.subset for batch in (worker.draw(), worker.draw()) if batch}
    assert seen == {"en", "multi"}


def test_a_subset_of_weight_zero_is_not_drawn(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 50, "en")
    fill_pool(admin, run_id, 50, "multi")
    set_setting(admin, "weight_en", 0)
    worker = register("download")
    first = worker.draw()
    assert first is not None
    assert first.subset == "multi"
    assert worker.draw() is None


def test_an_empty_pool_gives_nothing_and_reads_no_leaf(admin: Connection, register: Register) -> None:
    new_run(admin)
    worker = register("download")
    assert worker.draw() is None
    assert scalar(admin, "SELECT count(*) FROM tracker.job") == 0


def test_asking_again_after_a_lost_reply_gives_the_same_batch(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 500)
    set_setting(admin, "batch_size", 100)
    worker, request = register("download"), uuid4()
    ask = "SELECT * FROM tracker.draw(%s, %s)"
    first = admin.execute(ask, (worker.worker_id, request)).fetchall()
    assert admin.execute(ask, (worker.worker_id, request)).fetchall() == first
    assert scalar(admin, "SELECT count(*) FROM tracker.batch") == 1


def test_a_dead_workers_batch_is_drawn_before_a_new_one(admin: Connection, register: Register, expire: Expire) -> None:
    fill_pool(admin, new_run(admin), 500)
    set_setting(admin, "batch_size", 100)
    silent = register("download")
    lost = silent.draw()
    assert lost is not None
    expire(silent)
    taken = register("download").draw()
    assert taken is not None
    assert (taken.job_id, taken.payload) == (lost.job_id, lost.payload)
    assert scalar(admin, "SELECT count(*) FROM tracker.batch") == 1


def report(finished: dict[str, int], again: list[int], returned: list[int]) -> dict[str, object]:
    return {
        "finished": finished,
        "again": again,
        "returned": returned,
        "samples": finished.get("success", 0),
        "bytes": 1,
    }


def test_each_link_of_a_batch_ends_waits_or_returns(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 100)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    again, returned = [3, 99], [7, 8, 9]
    worker.complete(batch, report({"success": 60, "not_found": 35}, again, returned))
    links = {line.position: line for line in read_payload(batch.payload)}
    waiting = admin.execute("SELECT url, attempt, due_at > now() AS later FROM tracker.again").fetchall()
    assert {(row["url"], row["attempt"], row["later"]) for row in waiting} == {(links[i].url, 2, True) for i in again}
    back = admin.execute("SELECT url, text, attempt FROM tracker.candidate").fetchall()
    assert {(row["url"], row["text"], row["attempt"]) for row in back} == {
        (links[i].url, links[i].text, 1) for i in returned
    }
    found = audit(admin)
    assert found.holds
    data = found.to_json()
    assert (data["in"], data["pool"], data["again"], data["leased"]) == (100, 3, 2, 0)
    assert data["finished"] == {"success": 60, "not_found": 35}
    assert scalar(admin, "SELECT payload ->> 'shard' FROM tracker.job WHERE queue = 'filter'") == batch.output
    assert scalar(admin, "SELECT rows FROM tracker.manifest WHERE kind = 'shard'") == 97
    assert scalar(admin, "SELECT count(*) FROM tracker.batch") == 0


@pytest.mark.parametrize(
    ("finished", "again", "returned"),
    [
        ({"success": 9}, [], []),
        ({"success": 11}, [], []),
        ({"success": 11, "gone": -1}, [], []),
        ({"success": 8}, [1, 1], []),
        ({"success": 8}, [1], [1]),
        ({"success": 9}, [10], []),
        ({"success": 9}, [-1], []),
        ({"made_up": 10}, [], []),
    ],
)
def test_forged_counts_are_refused_and_change_nothing(
    admin: Connection, register: Register, finished: dict[str, int], again: list[int], returned: list[int]
) -> None:
    fill_pool(admin, new_run(admin), 10)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    with pytest.raises(Exception, match=r"account for its 10 links|invalid input value for enum"):
        worker.complete(batch, report(finished, again, returned))
    assert scalar(admin, "SELECT state::text FROM tracker.job WHERE job_id = %s", batch.job_id) == "leased"
    assert audit(admin).to_json()["leased"] == 10


def test_the_last_try_of_a_link_is_final(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 1)
    set_setting(admin, "max_tries", 2)
    set_setting(admin, "again_seconds", 0)
    worker = register("download")
    first = worker.draw()
    assert first is not None
    worker.complete(first, report({}, [0], []))
    second = worker.draw()
    assert second is not None
    assert read_payload(second.payload)[0].attempt == 2
    with pytest.raises(Refused, match="last try"):
        worker.complete(second, report({}, [0], []))
    worker.complete(second, report({"timeout": 1}, [], []))
    assert audit(admin).to_json()["finished"] == {"timeout": 1}


def test_second_tries_go_first_but_only_up_to_their_share(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 3000)  # of few pages, one draw may take all
    set_setting(admin, "again_seconds", 0)
    set_setting(admin, "batch_size", 50)
    set_setting(admin, "again_share", 0.2)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    worker.complete(batch, report({}, list(range(batch.n)), []))
    following = worker.draw()
    assert following is not None
    tries = Counter(line.attempt for line in read_payload(following.payload))
    assert tries[2] == 10
    assert tries[1] > 0


def test_a_batch_that_was_taken_over_cannot_be_completed_by_the_first_worker(
    admin: Connection, register: Register, expire: Expire
) -> None:
    fill_pool(admin, new_run(admin), 10)
    late, other = register("download"), register("download")
    lost = late.draw()
    assert lost is not None
    expire(late)
    taken = other.draw()
    assert taken is not None
    other.complete(taken, report({"success": 10}, [], []))
    with pytest.raises(LeaseLost):
        late.complete(lost, report({"gone": 10}, [], []))
    assert audit(admin).to_json()["finished"] == {"success": 10}
    assert scalar(admin, "SELECT count(*) FROM tracker.manifest") == 1


def test_two_draws_of_the_same_pages_share_no_row(admin: Connection, database: str, register: Register) -> None:
    fill_pool(admin, new_run(admin), 300)
    one, two = register("download"), register("download")
    ask = "SELECT payload FROM tracker.draw(%s, %s)"
    with connect(database) as other, admin.transaction():
        first = admin.execute(ask, (one.worker_id, uuid4())).fetchall()
        # The whole leaf is locked by the first draw, which has not committed: the second gets nothing and waits not.
        with translated():
            assert other.execute(ask, (two.worker_id, uuid4())).fetchall() == []
    assert len(read_payload(first[0]["payload"])) == 300


def test_second_tries_of_a_run_that_has_run_dry_do_not_wait_for_the_others(
    admin: Connection, register: Register
) -> None:
    dry = new_run(admin, "dry")
    fill_pool(admin, dry, 5)
    set_setting(admin, "again_seconds", 0)
    worker = register("download")
    first = worker.draw()
    assert first is not None
    worker.complete(first, report({}, [0, 1, 2, 3, 4], []))
    fill_pool(admin, new_run(admin, "full"), 3000)
    set_setting(admin, "batch_size", 50)
    set_setting(admin, "again_share", 1)
    second = worker.draw()
    assert second is not None
    assert (second.run, second.n) == ("dry", 5)


def test_a_draw_is_bounded_when_an_ingest_commits_between_its_count_and_its_sample(
    admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 20_000)
    admin.execute("UPDATE tracker.ledger SET n = 120")  # what the draw has counted before the commit
    set_setting(admin, "batch_size", 100)
    batch = register("download").draw()
    assert batch is not None
    assert batch.n == 2 * 100 + 1000


def test_the_same_request_twice_in_flight_gets_one_batch(admin: Connection, database: str, register: Register) -> None:
    fill_pool(admin, new_run(admin), 500)
    set_setting(admin, "batch_size", 100)
    worker, request = register("download"), uuid4()
    ask = "SELECT job_id FROM tracker.draw(%s, %s)"
    second: list[dict[str, object]] = []

    def ask_again() -> None:
        with connect(database) as other:
            second.extend(other.execute(ask, (worker.worker_id, request)).fetchall())

    with admin.transaction():
        first = admin.execute(ask, (worker.worker_id, request)).fetchall()
        thread = threading.Thread(target=ask_again)
        thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        with connect(database) as looking:
            while scalar(looking, waiting) == 0:
                assert thread.is_alive()
    thread.join()
    assert second == first
    assert scalar(admin, "SELECT count(*) FROM tracker.batch") == 1


def test_a_draw_does_without_the_lock_that_only_a_superuser_can_grant(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 100)
    admin.execute("REVOKE EXECUTE ON FUNCTION pg_try_advisory_xact_lock(int, int) FROM shoal_owner, PUBLIC")
    batch = register("download").draw()
    assert batch is not None
    assert batch.n == 100


def test_opening_leaves_does_not_hold_up_a_draw(admin: Connection, database: str, register: Register) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 10)
    set_setting(admin, "leaf_rows", 1)
    worker = register("download")
    with connect(database) as other, other.transaction():
        open_leaves(other, run_id)
        admin.execute("SET statement_timeout = '5s'")
        assert admin.execute("SELECT n FROM tracker.draw(%s, %s)", (worker.worker_id, uuid4())).fetchall() == [
            {"n": 10}
        ]
