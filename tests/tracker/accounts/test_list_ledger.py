"""The ledger's entries for link lists: a piece does not count as a pack, and reading it does not count as ingest."""

from collections.abc import Callable, Mapping

import pytest

from tests.tracker.filling import listed_pack, new_run, scalar
from tests.tracker.talking import Console
from tracker.database.database import Connection, query
from tracker.protocol.session import Job, Session

Register = Callable[[str], Session]
PACKED = "SELECT coalesce(sum(n), 0) FROM tracker.tally WHERE account = 'packed'"
READ: Mapping[str, object] = {
    "rows": 9,
    "candidates": 7,
    "dropped": {"bad_url": 2},
    "packs": [[{"rows": 7, "bytes": 1}]],
}


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def add_piece(admin: Connection, run_id: int, rows: int | None) -> None:
    admin.execute(
        "INSERT INTO tracker.job (queue, run_id, payload) VALUES ('ingest', %s, "
        "jsonb_build_object('list', gen_random_uuid()::text, 'first_group', 0, 'rows', %s::bigint))",
        (run_id, rows),
    )


def claim(worker: Session) -> Job:
    assert worker.hold_slot() is not None
    (job,) = worker.claim()
    return job


@pytest.mark.parametrize("rows", [9, None])
def test_only_what_a_list_has_put_into_packs_waits_in_them(
    admin: Connection, register: Register, rows: int | None
) -> None:
    add_piece(admin, new_run(admin), rows)
    assert admin.execute(query("piled")).fetchall() == []
    worker = register("ingest")
    worker.complete_list(claim(worker), READ)
    assert scalar(admin, PACKED) == 7
    assert admin.execute(query("piled")).fetchall() == []
    worker.complete_ingest([(claim(worker), {"duplicates": 7, "added": []})], [])
    assert scalar(admin, PACKED) == 0


@pytest.mark.parametrize("rows", [9, None])
def test_a_piece_that_is_discarded_takes_nothing_out_of_the_packs(
    admin: Connection, console: Console, rows: int | None
) -> None:
    run_id = new_run(admin)
    listed_pack(admin, run_id, 5)
    add_piece(admin, run_id, rows)
    die = "UPDATE tracker.job SET state = 'dead', finished_at = now(), error = 'no' WHERE payload ? 'list'"
    admin.execute(die.encode())
    assert console.json("discard", "--queue", "ingest", "--yes")["jobs"] == 1
    assert scalar(admin, PACKED) == 5
    assert admin.execute(query("piled")).fetchall() == []


def test_the_time_and_the_rows_of_reading_a_list_are_not_taken_for_ingest(
    admin: Connection, register: Register
) -> None:
    run_id = new_run(admin)
    add_piece(admin, run_id, 9)
    worker = register("ingest")
    piece = claim(worker)
    admin.execute(
        "UPDATE tracker.job SET leased_at = now() - interval '100 seconds' WHERE job_id = %s", (piece.job_id,)
    )
    worker.complete_list(piece, READ)
    worker.complete_ingest([(claim(worker), {"duplicates": 7, "added": []})], [])
    spent = "SELECT coalesce(sum(n), 0) FROM tracker.tally WHERE account = 'milliseconds' AND label = %s"
    assert int(str(scalar(admin, spent, "ingest"))) < 50_000
    assert int(str(scalar(admin, spent, "list"))) >= 100_000
    ended = admin.execute(query("minutes")).fetchall()
    assert (sum(row["rows_in"] for row in ended), sum(row["rows_out"] for row in ended)) == (7, 0)
