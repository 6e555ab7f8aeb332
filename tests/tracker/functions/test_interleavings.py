"""Two connections with open transactions: the second one waits, skips the locked rows, or is refused."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from psycopg.types.json import Jsonb

from tests.tracker.filling import fill_pool, listed_pack, new_run, scalar, set_setting
from tests.tracker.functions.test_ingest_verbs import added, claim_one, result
from tracker.accounts.audit import audit, audit_exact
from tracker.accounts.controls import change_setting
from tracker.accounts.fleet import evict, find
from tracker.database.database import Connection, connect, translated
from tracker.errors import LeaseLost, TrackerError
from tracker.protocol.copy_rows import COLUMNS, COPY, copy_into
from tracker.protocol.payload import read_payload
from tracker.protocol.session import Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]

DONE = {"images": 0, "candidates": 0, "slots": [{"rows": 0, "bytes": 0}]}
CLAIM = "SELECT job_id FROM tracker.claim(%s, %s, 'extract')"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@contextmanager
def meanwhile(database: str, act: Callable[[Connection], object]) -> Iterator[list[object]]:
    """Let another connection act, and go on once it waits for a lock; what came of it, when the block has ended."""
    found: list[object] = []

    def run() -> None:
        with connect(database) as other:
            try:
                with translated():
                    found.append(act(other))
            except TrackerError as error:
                found.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    with connect(database) as looking:
        while scalar(looking, WAITING) == 0:
            assert thread.is_alive()
    yield found
    thread.join()


def test_a_claim_passes_by_a_job_that_is_just_being_completed(
    admin: Connection, database: str, register: Register, expire: Expire
) -> None:
    new_run(admin, wats=1)
    late, other = register("extract"), register("extract")
    (job,) = late.claim()
    expire(late)
    with connect(database) as completing, completing.transaction():
        completing.execute("SELECT tracker.complete_extract(%s, %s, %s)", (job.job_id, job.lease, Jsonb(DONE)))
        assert other.claim() == []
    assert other.claim() == []
    assert scalar(admin, "SELECT state::text FROM tracker.job WHERE job_id = %s", job.job_id) == "done"


@pytest.mark.parametrize("verb", ["complete_extract", "release", "fail"])
def test_what_comes_while_the_job_is_taken_over_waits_and_is_refused(
    admin: Connection, database: str, register: Register, expire: Expire, verb: str
) -> None:
    new_run(admin, wats=1)
    late, other = register("extract"), register("extract")
    (job,) = late.claim()
    expire(late)
    last = {"complete_extract": (Jsonb(DONE),), "release": (), "fail": ("it broke",)}[verb]
    statement = f"SELECT tracker.{verb}({', '.join(['%s'] * (2 + len(last)))})"
    taking = connect(database)
    with taking, taking.transaction():
        taken = taking.execute(CLAIM, (other.worker_id, uuid4())).fetchall()
        between = meanwhile(database, lambda own: own.execute(statement.encode(), (job.job_id, job.lease, *last)))
        found = between.__enter__()
    between.__exit__(None, None, None)
    assert [row["job_id"] for row in taken] == [job.job_id]
    assert found == [LeaseLost]
    row = admin.execute("SELECT state::text, attempt, worker_id FROM tracker.job").fetchone()
    assert row == {"state": "leased", "attempt": 2, "worker_id": other.worker_id}


def test_a_release_that_comes_first_leaves_nothing_to_take_over(
    admin: Connection, database: str, register: Register, expire: Expire
) -> None:
    new_run(admin, wats=1)
    late, other = register("extract"), register("extract")
    (job,) = late.claim()
    expire(late)
    with connect(database) as releasing, releasing.transaction():
        releasing.execute("SELECT tracker.release(%s, %s)", (job.job_id, job.lease))
        assert other.claim() == []
    (again,) = other.claim()
    assert (again.job_id, again.attempt) == (job.job_id, 1)
    assert scalar(admin, "SELECT ending::text FROM tracker.lease WHERE lease = %s", job.lease) == "released"


def test_a_draw_that_is_rolled_back_gives_every_row_to_the_next(
    admin: Connection, database: str, register: Register
) -> None:
    fill_pool(admin, new_run(admin), 40)
    one, two = register("download"), register("download")
    with connect(database) as first, first.transaction(force_rollback=True):
        first.execute("SELECT * FROM tracker.draw(%s, %s)", (one.worker_id, uuid4()))
        assert two.draw() is None
    batch = two.draw()
    assert batch is not None
    assert {line.pack_row for line in read_payload(batch.payload)} == set(range(40))
    assert audit(admin).holds


def test_a_draw_that_finds_its_leaf_taken_turns_to_another(
    admin: Connection, database: str, register: Register
) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 40, "en")
    fill_pool(admin, run_id, 5, "multi")
    change_setting(admin, "weight_multi", 0)
    one, two = register("download"), register("download")
    with connect(database) as first, first.transaction():
        first.execute("SELECT * FROM tracker.draw(%s, %s)", (one.worker_id, uuid4()))
        change_setting(admin, "weight_multi", 0.0001)  # the leaf of en is chosen first, and nothing is left there
        batch = two.draw()
    assert batch is not None
    assert (batch.subset, batch.n) == ("multi", 5)
    assert two.draw() is None
    assert audit(admin).holds


def test_two_draws_that_overlap_share_no_row_and_lose_none(
    admin: Connection, database: str, register: Register
) -> None:
    set_setting(admin, "batch_size", 300)
    fill_pool(admin, new_run(admin), 4000)
    one, two = register("download"), register("download")
    ask = "SELECT payload FROM tracker.draw(%s, %s)"
    with connect(database) as first, connect(database) as second, first.transaction(), second.transaction():
        drawn = [
            [
                line.pack_row
                for row in own.execute(ask, (worker.worker_id, uuid4()))
                for line in read_payload(row["payload"])
            ]
            for own, worker in ((first, one), (second, two))
        ]
    assert not set(drawn[0]) & set(drawn[1])
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 4000 - len(drawn[0]) - len(drawn[1])
    assert audit(admin).holds


def test_a_copy_whose_connection_is_closed_leaves_no_row_and_the_job_to_others(
    admin: Connection, database: str, register: Register, expire: Expire
) -> None:
    listed_pack(admin, new_run(admin), 10)
    worker = register("ingest")
    job = claim_one(worker)
    rows = added(worker, job, 10)
    whole = rows.buffer
    assert isinstance(whole, bytes)
    statement = COPY.format(leaf=Identifier(rows.relation), columns=SQL(", ").join(map(Identifier, COLUMNS)))
    dying = connect(database)
    dying.autocommit = False
    dying.execute("SELECT tracker.lock_lease(%s, %s)", (job.job_id, job.lease))

    def copy_half() -> None:
        with dying.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(whole[: len(whole) // 2])
            dying.pgconn.finish()  # as the kernel does when the process dies
            copy.write(whole[len(whole) // 2 :])

    with pytest.raises(psycopg.OperationalError):
        copy_half()
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0
    expire(worker)
    other = register("ingest")
    again = claim_one(other)
    other.complete_ingest([(again, result(rows))], [rows])
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10
    assert audit(admin).holds


def test_a_copy_without_a_job_fails_the_exact_audit_by_its_rows(
    admin: Connection, database: str, register: Register, tmp_path: object
) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 3)
    listed_pack(admin, run_id, 10)
    worker = register("ingest")
    rows = added(worker, claim_one(worker), 10)
    with connect(database) as rogue, rogue.transaction():
        copy_into(rogue, rows.relation, rows.buffer)
    differences = audit_exact(admin, str(tmp_path)).differences
    assert "run test, en: pool holds 13 rows, the ledger says 3" in differences


def test_a_slot_is_not_given_to_a_worker_that_is_being_evicted(
    admin: Connection, database: str, register: Register
) -> None:
    listed_pack(admin, new_run(admin), 1)
    old, new = register("ingest"), register("ingest")
    with connect(database) as evicting:
        with evicting.transaction():
            evicting.execute("SELECT FROM tracker.worker WHERE worker_id = %s FOR NO KEY UPDATE", (old.worker_id,))
            asking = "SELECT slot FROM tracker.bloom_hold(%s)"
            between = meanwhile(database, lambda own: own.execute(asking.encode(), (old.worker_id,)).fetchall())
            found = between.__enter__()
            evicting.execute("UPDATE tracker.worker SET state = 'gone' WHERE worker_id = %s", (old.worker_id,))
        between.__exit__(None, None, None)
    assert found == [[]]
    assert new.hold_slot() is not None


def test_a_worker_that_leaves_during_its_own_claim_keeps_no_job(
    admin: Connection, database: str, register: Register
) -> None:
    new_run(admin, wats=1)
    leaving, other = register("extract"), register("extract")
    with connect(database) as claiming:
        with claiming.transaction():
            claiming.execute(CLAIM, (leaving.worker_id, uuid4()))
            asking = "SELECT tracker.leave(%s) AS n"
            between = meanwhile(database, lambda own: own.execute(asking.encode(), (leaving.worker_id,)).fetchone())
            found = between.__enter__()
        between.__exit__(None, None, None)
    assert found == [{"n": 1}]
    assert len(other.claim()) == 1


def test_an_eviction_and_a_completion_of_one_worker_wait_for_each_other_in_one_order(
    admin: Connection, database: str, register: Register
) -> None:
    fill_pool(admin, new_run(admin), 10)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    told = {"finished": {"gone": 10}, "again": [], "returned": [], "samples": 0, "bytes": 1}
    with connect(database) as completing:
        with completing.transaction():
            asking = "SELECT tracker.complete_download(%s, %s, %s)"
            completing.execute(asking.encode(), (batch.job_id, batch.lease, Jsonb(told)))
            between = meanwhile(database, lambda own: evict(own, find(own, str(worker.worker_id))))
            found = between.__enter__()
            # as count_hosts does: whoever has ended a job may still write its worker's row
            completing.execute("UPDATE tracker.worker SET hosts_asked = 1 WHERE worker_id = %s", (worker.worker_id,))
        between.__exit__(None, None, None)
    assert found == [0]


def test_a_claim_that_comes_late_does_not_hold_its_job_for_ever(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    set_setting(admin, "stall_seconds", 10)
    worker, other = register("extract"), register("extract")
    admin.execute(CLAIM, (worker.worker_id, uuid4()))  # its worker has given up waiting for the reply
    admin.execute("UPDATE tracker.worker SET progressed_at = now() - interval '1 hour'")
    assert worker.claim() == []
    other.heartbeat(1)
    assert len(other.claim()) == 1


def test_who_asks_takes_nothing_back_from_itself(admin: Connection, register: Register, expire: Expire) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (job,) = worker.claim()
    expire(worker)  # its beats were held up, its other connection is well
    assert worker.claim() == []
    worker.complete(job, DONE)


def test_two_that_wait_while_ingest_is_held_leave_each_other_the_slot(admin: Connection, register: Register) -> None:
    listed_pack(admin, new_run(admin), 1)
    first, second = register("ingest"), register("ingest")
    assert first.hold_slot() is not None
    for _ in range(2):
        admin.execute("UPDATE tracker.worker SET progressed_at = now() - interval '1 day'")
        assert first.hold_slot() is not None
        assert second.hold_slot() is None
