"""Ingest with other workers and broken packs: a bad pack fails alone, and the filter loses no key."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import trio

from dataset.formats.packs import PACK_SCHEMA
from dataset.ingest.shuffle import Shuffled, shuffled_rows
from dataset.store.store import Store, StoreError
from tests.copy_buffer import copy_buffer
from tests.tracker.filling import listed_pack, new_run, scalar, set_setting
from tracker.accounts.audit import audit
from tracker.accounts.controls import change_setting
from tracker.database.database import Connection
from tracker.errors import LeaseLost, TrackerError
from tracker.main import _audit_lines
from tracker.protocol.copy_rows import CopyError
from tracker.protocol.session import Job, Session
from workers.ingest.copy_stream import CopyStream
from workers.ingest.stage import Ingest, UnreadableError
from workers.runtime.context import WorkContext

Register = Callable[[str], Session]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def write_pack(store: Store, path: str, urls: range, language: str = "en") -> None:
    rows = [
        {
            "url": f"http://a.example/{i}.jpg",
            "text": "a caption",
            "language": language,
            "probability": 0.9,
            "subset": "en" if language == "en" else "multi",
            "page_url": "http://a.example/",
        }
        for i in urls
    ]
    store.write_table(f"{path}.parquet", pa.Table.from_pylist(rows, schema=PACK_SCHEMA))


def groups_of(packs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.ingest.stage.PACKS_TOGETHER", packs)


def work(worker: Session, store: Store, stage: Ingest | None = None) -> Ingest:
    """Claim once and work."""
    stage = stage or Ingest()
    context = WorkContext(worker, store)
    held = stage.claim(context)
    if held:
        trio.run(stage.work, held, context)
    return stage


def test_a_pack_that_cannot_be_read_fails_alone(admin: Connection, register: Register, store: Store) -> None:
    run_id = new_run(admin)
    for i in range(3):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        if i != 1:
            write_pack(store, f"packs/{i}", range(10 * i, 10 * i + 10))
    work(register("ingest"), store)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 20
    assert audit(admin).holds
    row = admin.execute(
        "SELECT state::text AS state, error FROM tracker.job WHERE queue = 'ingest' AND state <> 'done'"
    ).fetchall()
    assert [one["state"] for one in row] == ["ready"]
    assert "packs/1.parquet is missing" in row[0]["error"]


def test_a_worker_that_cannot_read_any_pack_counts_a_failure_and_releases_the_slot(
    admin: Connection, register: Register, store: Store
) -> None:
    run_id = new_run(admin)
    listed_pack(admin, run_id, 10, path="packs/0")  # here nothing can be read: another mount, no credentials
    with pytest.raises(UnreadableError, match=r"packs/0\.parquet is missing"):
        work(register("ingest"), store)
    state = scalar(admin, "SELECT state::text FROM tracker.job WHERE payload ->> 'path' = 'packs/0'")
    assert state == "leased"  # the loop fails it, and pauses
    assert register("ingest").hold_slot() is not None


def test_a_lost_reply_to_a_release_does_not_lose_the_other_packs(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = new_run(admin)
    for i in range(2):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10 * i, 10 * i + 10))
    admin.execute("UPDATE tracker.job SET attempt = 1 WHERE payload ->> 'path' = 'packs/1'")  # to be tried alone
    release = Session.release

    def lost(session: Session, job: Job) -> None:
        release(session, job)
        raise LeaseLost("it was released, and the reply was lost")

    monkeypatch.setattr(Session, "release", lost)
    work(register("ingest"), store)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10
    assert scalar(admin, "SELECT state::text FROM tracker.job WHERE payload ->> 'path' = 'packs/0'") == "done"


def test_a_pack_that_failed_before_is_tried_alone(admin: Connection, register: Register, store: Store) -> None:
    run_id = new_run(admin)
    for i in range(3):
        listed_pack(admin, run_id, 1, path=f"packs/{i}")
    admin.execute("UPDATE tracker.job SET attempt = 2 WHERE payload ->> 'path' = 'packs/1'")
    stage, context = Ingest(), WorkContext(register("ingest"), store)
    claimed = []
    while held := stage.claim(context):
        claimed.append([(job.payload["path"], job.attempt) for job in held])
    assert claimed == [[("packs/0", 1)], [("packs/1", 3)], [("packs/2", 1)]]


def test_duplicates_within_and_across_packs_are_added_once(admin: Connection, register: Register, store: Store) -> None:
    run_id = new_run(admin)
    for i, urls in enumerate([range(10), range(5, 15)]):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", urls)
    work(register("ingest"), store)
    listed_pack(admin, run_id, 20, path="packs/2")
    write_pack(store, "packs/2", range(20))
    work(register("ingest"), store)  # the slot is held by the first, so nothing happens
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 15
    admin.execute("UPDATE tracker.worker SET seen_at = '-infinity'")
    work(register("ingest"), store)  # a worker that replays what was committed
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 20
    assert scalar(admin, "SELECT count(DISTINCT url) FROM tracker.candidate") == 20
    assert audit(admin).holds


def test_a_filter_kept_while_another_worker_held_the_slot_is_updated(
    admin: Connection, register: Register, store: Store
) -> None:
    run_id = new_run(admin)

    def pack(i: int, urls: range) -> None:
        listed_pack(admin, run_id, len(urls), path=f"packs/{i}")
        write_pack(store, f"packs/{i}", urls)

    set_setting(admin, "bloom_snapshot_packs", 2)
    first, second = register("ingest"), register("ingest")
    pack(0, range(10))
    kept = work(first, store)
    first.release_slot()
    other = Ingest()
    for i in range(1, 6):  # past two snapshots that the first has not seen
        pack(i, range(10 * i, 10 * i + 10))
        work(second, store, other)
    second.release_slot()
    assert scalar(admin, "SELECT snapshot_ordinal FROM tracker.bloom") == 6
    pack(6, range(70))
    work(first, store, kept)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 70
    assert scalar(admin, "SELECT count(DISTINCT url) FROM tracker.candidate") == 70


def ingest_one_by_one(packs: int, admin: Connection, worker: Session, store: Store) -> None:
    run_id, stage = new_run(admin), Ingest()
    for i in range(packs):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10 * i, 10 * i + 10))
        work(worker, store, stage)


def test_a_replaced_snapshot_is_deleted(admin: Connection, register: Register, store: Store) -> None:
    set_setting(admin, "bloom_snapshot_packs", 2)
    ingest_one_by_one(6, admin, register("ingest"), store)
    assert scalar(admin, "SELECT snapshot_ordinal FROM tracker.bloom") == 6
    assert store.list("bloom") == [scalar(admin, "SELECT snapshot_path FROM tracker.bloom")]


def test_a_snapshot_that_cannot_be_deleted_is_not_an_error(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Store, path: str) -> None:
        raise StoreError(f"cannot delete {path}")

    monkeypatch.setattr(Store, "delete", refuse)
    set_setting(admin, "bloom_snapshot_packs", 1)
    ingest_one_by_one(2, admin, register("ingest"), store)
    assert len(store.list("bloom")) == 2
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 20


def test_a_transaction_that_fails_leaves_nothing_in_the_filter(
    admin: Connection, register: Register, store: Store
) -> None:
    run_id = new_run(admin)
    listed_pack(admin, run_id, 11, path="packs/0")  # the tracker knows of a row more than the pack has
    write_pack(store, "packs/0", range(10))
    worker, stage = register("ingest"), Ingest()
    with pytest.raises(Exception, match="the pack has 11 rows"):
        work(worker, store, stage)
    admin.execute(
        "UPDATE tracker.job SET payload = jsonb_set(payload, '{rows}', '10'), state = 'ready', lease = NULL, "
        "worker_id = NULL, leased_at = NULL WHERE state = 'leased'"
    )
    work(worker, store, stage)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10


@pytest.mark.parametrize(("by_language", "come_in"), [(0, 10), (1, 20)])
def test_a_url_in_two_languages_is_added_once_or_twice_depending_on_the_setting(
    admin: Connection, register: Register, store: Store, by_language: int, come_in: int
) -> None:
    run_id = new_run(admin)
    change_setting(admin, "bloom_language", by_language)
    for i, language in enumerate(("en", "de", "en")):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10), language)
    worker, stage = register("ingest"), Ingest()
    work(worker, store, stage)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == come_in
    with pytest.raises(TrackerError, match="cannot change once a pack has gone through"):
        change_setting(admin, "bloom_language", 1 - by_language)
    listed_pack(admin, run_id, 10, path="packs/3")
    write_pack(store, "packs/3", range(10), "de")
    worker.release_slot()
    work(register("ingest"), store)  # one that replays keys of the same kind
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == come_in


def test_the_audit_shows_the_filters_rate_and_the_links_it_cost(
    admin: Connection, register: Register, store: Store
) -> None:
    run_id = new_run(admin)
    change_setting(admin, "bloom_rate", 0.2)
    change_setting(admin, "bloom_capacity", 500)
    worker, stage = register("ingest"), Ingest()
    for i in range(4):  # 8,000 URLs, every one of them new
        listed_pack(admin, run_id, 2000, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(2000 * i, 2000 * i + 2000))
        work(worker, store, stage)
    found = audit(admin)
    assert found.holds
    cost = found.bloom
    assert (cost.rate, cost.read) == (0.2, 8000)
    assert cost.dropped == 8000 - cost_of(admin, "in")
    assert 0 < cost.expected_rate < 0.2
    assert cost.dropped == pytest.approx(cost.expected_wrong, rel=0.2)  # the standard deviation is 4 %
    assert "bloom_rate allows 20.0000%" in "\n".join(_audit_lines(found.to_json()))


def cost_of(admin: Connection, account: str) -> int:
    return int(str(scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = %s::tracker.account", account)))


def test_packs_that_were_read_ahead_are_ingested_next(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of(2, monkeypatch)
    run_id = new_run(admin)
    for i in range(5):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(5 * i, 5 * i + 10))  # each knows half of the next
    worker, stage = register("ingest"), Ingest()
    for done in (2, 4, 5):
        work(worker, store, stage)
        assert scalar(admin, "SELECT count(*) FROM tracker.bloom_pack") == done
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 30
    assert scalar(admin, "SELECT count(DISTINCT url) FROM tracker.candidate") == 30
    assert audit(admin).holds


def test_a_worker_that_leaves_gives_back_what_it_claimed_ahead(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of(1, monkeypatch)
    run_id = new_run(admin)
    for i in range(2):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10 * i, 10 * i + 10))
    worker = register("ingest")
    work(worker, store)
    ahead = "SELECT count(*) FROM tracker.job WHERE queue = 'ingest' AND state = 'leased'"
    assert scalar(admin, ahead) == 1
    worker.leave()
    assert scalar(admin, ahead) == 0
    work(register("ingest"), store)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 20
    assert scalar(admin, "SELECT max(attempt) FROM tracker.job WHERE queue = 'ingest'") == 1


def test_a_worker_asked_to_stop_claims_nothing_ahead(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of(1, monkeypatch)
    run_id = new_run(admin)
    for i in range(2):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10))
    worker, stage = register("ingest"), Ingest()
    context = WorkContext(worker, store)
    held = stage.claim(context)
    complete = Session.complete_ingest
    seen = []

    def shuffle_and_stop(*arguments: Any, **named: Any) -> Shuffled:
        context.stopping.set()
        return shuffled_rows(*arguments, **named)

    def look_and_complete(self: Session, *arguments: Any) -> None:
        seen.append(scalar(admin, "SELECT count(*) FROM tracker.job WHERE queue = 'ingest' AND state = 'leased'"))
        complete(self, *arguments)

    monkeypatch.setattr("workers.ingest.packs.shuffled_rows", shuffle_and_stop)
    monkeypatch.setattr(Session, "complete_ingest", look_and_complete)
    trio.run(stage.work, held, context)
    assert seen == [1]
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 10


def test_packs_claimed_ahead_go_with_the_slot(
    admin: Connection,
    register: Register,
    store: Store,
    expire: Callable[[Session], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups_of(1, monkeypatch)
    run_id = new_run(admin)
    for i in range(2):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(10 * i, 10 * i + 10))
    late, stage = register("ingest"), Ingest()
    work(late, store, stage)
    expire(late)
    work(register("ingest"), store)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 20
    late.heartbeat(1)
    assert stage.claim(WorkContext(late, store)) == []
    assert audit(admin).holds


def test_a_value_that_copy_cannot_carry_fails_only_its_transaction(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of(1, monkeypatch)
    monkeypatch.setattr("workers.ingest.copy_stream.PIECE_ROWS", 4)
    run_id = new_run(admin)
    for i in range(2):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", range(5 * i, 5 * i + 10))  # half are the same: what fails may not hide them
    spoilt = store.read_table("packs/0.parquet")
    texts = pa.array([*["fine"] * 9, "two\nlines"], pa.string())
    store.write_table("packs/0.parquet", spoilt.set_column(1, spoilt.schema.field("text"), texts))
    worker, stage = register("ingest"), Ingest()
    with pytest.raises(CopyError, match="text contains the character"):
        work(worker, store, stage)
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 0
    work(worker, store, stage)
    assert scalar(admin, "SELECT min(pack_row) || ' ' || count(*) FROM tracker.candidate") == "0 10"
    assert scalar(admin, "SELECT count(*) FROM tracker.bloom_pack") == 1
    assert audit(admin).holds


def test_rows_selected_ahead_are_selected_again_if_the_filter_has_new_keys(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups_of(1, monkeypatch)
    run_id = new_run(admin)
    for i, urls in enumerate((range(10), range(10, 20), range(15, 25))):
        listed_pack(admin, run_id, 10, path=f"packs/{i}")
        write_pack(store, f"packs/{i}", urls)
    first, second = register("ingest"), register("ingest")
    kept = work(first, store)
    first.release_slot()
    work(second, store)
    second.release_slot()
    work(first, store, kept)
    assert scalar(admin, "SELECT count(*) FROM tracker.bloom_pack") == 3
    assert scalar(admin, "SELECT count(*) FROM tracker.candidate") == 25
    assert scalar(admin, "SELECT count(DISTINCT url) FROM tracker.candidate") == 25


def test_a_copy_stream_is_the_whole_copy_at_each_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.ingest.copy_stream.PIECE_ROWS", 3)
    n = 10
    rows = pa.table(
        {
            "pack": pa.array([7] * n, pa.int64()),
            "pack_row": pa.array(range(n), pa.int32()),
            "url": [f"http://a.example/{i}" for i in range(n)],
            "text": ["a caption"] * n,
            "language": ["en", None] * 5,
            "subset": ["en"] * n,
        }
    )
    mixed = shuffled_rows([rows], [np.ones(n, np.bool_)], seed=1)
    whole = copy_buffer(mixed.subset("en"), leaf=3, run_id=2, subset="en")
    with ThreadPoolExecutor(1) as executor:
        pieces = CopyStream(executor, mixed, "en", leaf=3, run_id=2)
        assert len(list(pieces)) == 2 + 4
        assert b"".join(pieces) == whole
