"""Ingest's transaction locks the lease, copies and completes the job, or has no effect at all."""

from collections.abc import Callable
from uuid import uuid4

import pyarrow as pa
import pytest
from psycopg.types.json import Jsonb

from tests.copy_buffer import copy_buffer
from tests.tracker.filling import fill_pool, listed_pack, new_run, scalar, set_setting
from tracker.accounts.audit import audit
from tracker.database.database import Connection, connect, translated
from tracker.errors import LeaseLost, Refused
from tracker.protocol.copy_rows import copy_into
from tracker.protocol.session import Added, Job, Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]


def added(worker: Session, job: Job, n: int) -> Added:
    leaf, relation = worker.open_leaves(job.run_id)["en"]
    pack = job.payload["pack"]
    columns = {"language": ["en"] * n, "url": [f"http://a.example/{i}" for i in range(n)], "text": ["a caption"] * n}
    table = pa.table({"pack": pa.array([pack] * n, pa.int64()), "pack_row": pa.array(range(n), pa.int32()), **columns})
    return Added(relation, "en", leaf, n, copy_buffer(table, leaf=leaf, run_id=job.run_id, subset="en"))


def result(rows: Added, duplicates: int = 0) -> dict[str, object]:
    return {"duplicates": duplicates, "added": [{"subset": "en", "leaf": rows.leaf, "n": rows.n}]}


def claim_one(worker: Session) -> Job:
    assert worker.hold_slot() is not None
    (job,) = worker.claim()
    return job


def test_a_pack_comes_in_whole(admin: Connection, register: Register) -> None:
    pack = listed_pack(admin, new_run(admin), 12)
    worker = register("ingest")
    job = claim_one(worker)
    rows = added(worker, job, 10)
    worker.complete_ingest([(job, result(rows, duplicates=2))], [rows])
    worker.complete_ingest([(job, result(rows, duplicates=2))], [rows])  # the reply was lost
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10
    found = audit(admin)
    assert found.holds
    assert (found.to_json()["in"], found.to_json()["pool"]) == (10, 10)
    assert scalar(admin, "SELECT output_id FROM tracker.bloom_pack WHERE ordinal = 1") == pack


def test_an_ingest_worker_that_lost_its_lease_between_copy_and_complete_cannot_commit(
    admin: Connection, database: str, register: Register, expire: Expire
) -> None:
    listed_pack(admin, new_run(admin), 10)
    late = register("ingest")
    job = claim_one(late)
    rows = added(late, job, 10)
    other = register("ingest")
    taken: list[Job] = []

    def ingest_late(connection: Connection) -> None:
        with translated(), connection.transaction():
            copy_into(connection, rows.relation, rows.buffer)
            expire(late)
            taken.append(claim_one(other))
            complete = "SELECT tracker.complete_ingest(%s, %s, %s)"
            connection.execute(complete, (job.job_id, job.lease, Jsonb(result(rows))))

    with connect(database) as connection, pytest.raises(LeaseLost):
        ingest_late(connection)
    assert [again.job_id for again in taken] == [job.job_id]
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0
    other.complete_ingest([(taken[0], result(rows))], [rows])
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10
    assert audit(admin).holds


def test_a_worker_that_lost_the_filters_slot_cannot_commit(
    admin: Connection, register: Register, expire: Expire
) -> None:
    run_id = new_run(admin)
    listed_pack(admin, run_id, 5)
    late, other = register("ingest"), register("ingest")
    job = claim_one(late)
    expire(late)
    assert other.hold_slot() is not None
    rows = added(late, job, 5)
    late.heartbeat(1)  # it lives again, but its work has gone with the slot
    with pytest.raises(LeaseLost):
        late.complete_ingest([(job, result(rows))], [rows])
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0
    assert [again.job_id for again in other.claim()] == [job.job_id]


def test_a_slot_has_one_holder(admin: Connection, register: Register) -> None:
    listed_pack(admin, new_run(admin), 5)
    first, second = register("ingest"), register("ingest")
    assert first.hold_slot() is not None
    assert second.hold_slot() is None
    assert second.claim() == []
    first.release_slot()
    assert second.hold_slot() is not None
    assert len(second.claim()) == 1


def test_the_next_holder_learns_the_snapshot_and_the_packs_since(
    admin: Connection, register: Register, expire: Expire
) -> None:
    run_id = new_run(admin)
    for i in range(3):
        listed_pack(admin, run_id, 1, path=f"test/packs/{i}")
    first = register("ingest")
    for i in range(3):
        job = claim_one(first)
        rows = added(first, job, 1)
        first.complete_ingest([(job, result(rows))], [rows])
        if i == 1:
            first.note_snapshot(0, 1, "bloom/0-1")
    expire(first)
    held = register("ingest").hold_slot()
    assert held is not None
    assert (held.snapshot_path, held.snapshot_ordinal, held.ordinal) == ("bloom/0-1", 1, 3)
    assert held.packs == ["test/packs/1", "test/packs/2"]
    with pytest.raises(LeaseLost):
        first.note_snapshot(0, 3, "bloom/late")


def test_counts_that_do_not_add_up_to_the_pack_are_refused(admin: Connection, register: Register) -> None:
    listed_pack(admin, new_run(admin), 10)
    worker = register("ingest")
    job = claim_one(worker)
    rows = added(worker, job, 8)
    with pytest.raises(Refused, match="the pack has 10 rows"):
        worker.complete_ingest([(job, result(rows, duplicates=1))], [rows])
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0


@pytest.mark.parametrize("told", [{"added": []}, {"duplicates": None, "added": []}, {"duplicates": -5, "added": []}])
def test_counts_that_are_missing_or_negative_are_refused(
    admin: Connection, register: Register, told: dict[str, object]
) -> None:
    listed_pack(admin, new_run(admin), 10)
    worker = register("ingest")
    with pytest.raises(Refused, match="the pack has 10 rows"):
        worker.complete_ingest([(claim_one(worker), told)], [])


def test_a_leaf_of_another_run_is_refused(admin: Connection, register: Register) -> None:
    listed_pack(admin, new_run(admin), 1)
    foreign = fill_pool(admin, new_run(admin, "other"), 1)
    worker = register("ingest")
    job = claim_one(worker)
    with pytest.raises(Refused, match=f"leaf {foreign}"):
        worker.complete_ingest(
            [(job, {"duplicates": 0, "added": [{"subset": "en", "leaf": foreign, "n": 1}]})],
            [],
        )


def test_ingest_is_held_above_the_high_mark_until_the_pool_has_fallen_to_the_resume_mark(
    admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    leaf = fill_pool(admin, run_id, 100)
    listed_pack(admin, run_id, 1)
    set_setting(admin, "pool_high", 100)
    set_setting(admin, "pool_resume", 50)
    worker = register("ingest")
    assert worker.hold_slot() is not None
    assert worker.claim() == []
    take = "INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id) VALUES (%s, 'pool', 'en', %s, %s, 1)"
    admin.execute(take, (run_id, leaf, -40))
    assert worker.claim() == []
    admin.execute(take, (run_id, leaf, -10))
    assert len(worker.claim()) == 1


def test_a_copy_without_a_job_is_found_by_the_exact_audit(admin: Connection, tmp_path: object) -> None:
    from tracker.accounts.audit import audit_exact

    run_id = new_run(admin)
    leaf = fill_pool(admin, run_id, 5)
    assert audit_exact(admin, str(tmp_path)).holds
    admin.execute(
        f"INSERT INTO tracker.candidate_en_{leaf} (pack, pack_row, leaf, run_id, attempt, subset, url, text) "
        f"SELECT 2, i, %s, %s, 1, 'en', 'http://x.example', 'caption' FROM generate_series(1, 7) AS i".encode(),
        (leaf, run_id),
    )
    assert audit_exact(admin, str(tmp_path)).differences == ["run test, en: pool holds 12 rows, the ledger says 5"]


def test_an_unknown_worker_holds_no_slot(admin: Connection) -> None:
    with pytest.raises(Exception, match="not registered"):
        admin.execute("SELECT * FROM tracker.bloom_hold(%s)", (uuid4(),))
