"""Jobs as the admin sees them; retry, discard and priority, after which the law of conservation holds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracker.filling import fill_pool, listed_pack, new_run, scalar, set_setting
from tests.tracker.talking import Console
from tracker.accounts.audit import audit, audit_exact
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.protocol.session import Batch, Session

Register = Callable[[str], Session]
EMPTY_PACK = {"images": 0, "candidates": 0, "slots": [{"rows": 0, "bytes": 0}]}


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def kill(admin: Connection, job_id: int | None = None) -> None:
    """Let a job (or all that are ready) be dead after five attempts."""
    admin.execute(
        "UPDATE tracker.job SET state = 'dead', attempt = 5, finished_at = now(), error = 'no such [file]' "
        "WHERE state = 'ready' AND (%s::bigint IS NULL OR job_id = %s)",
        (job_id, job_id),
    )


def ids(console: Console, *filters: str) -> list[int]:
    return [row["job_id"] for row in console.json("jobs", *filters)["jobs"]]


def test_jobs_are_filtered_by_queue_state_and_run(admin: Connection, console: Console) -> None:
    new_run(admin, "a", wats=2)  # jobs 1 and 2
    new_run(admin, "b", wats=2)  # jobs 3 and 4
    listed_pack(admin, 1, rows=1)  # job 5, done, and job 6
    kill(admin, 4)
    assert ids(console) == [6, 5, 4, 3, 2, 1]
    assert ids(console, "--limit", "2") == [6, 5]
    assert ids(console, "--queue", "extract", "--run", "a") == [2, 1]
    assert ids(console, "--state", "dead") == [4]
    assert ids(console, "--state", "dead", "--state", "done") == [5, 4]
    assert ids(console, "--run", "none") == []
    assert "no such [file]" in console("jobs").out


def test_a_job_has_its_history_result_and_outputs(admin: Connection, register: Register, console: Console) -> None:
    new_run(admin, wats=1)
    set_setting(admin, "retry_seconds", 0)
    worker = register("extract")
    worker.release(worker.claim()[0])
    worker.fail(worker.claim()[0], "no such file")
    (last,) = worker.claim()
    worker.complete(last, {"images": 9, "candidates": 4, "slots": [{"rows": 4, "bytes": 100}]})
    found = console.json("job", last.job_id)
    assert [lease["ending"] for lease in found["history"]] == ["released", "failed", "completed"]
    assert {lease["worker"] for lease in found["history"]} == {str(worker.worker_id)}
    assert (found["state"], found["payload"], found["result"]["candidates"]) == ("done", {"wat": "/wat/0"}, 4)
    assert found["outputs"] == [f"{last.output}.0"]
    shown = console("job", last.job_id).out
    assert "completed" in shown
    assert last.output in shown
    assert console.refusal("job", 99) == "tracker: there is no job 99: tracker jobs lists them"


def test_a_batch_shows_the_number_of_its_links_and_not_the_links(
    admin: Connection, register: Register, console: Console
) -> None:
    fill_pool(admin, new_run(admin), 10)
    batch = register("download").draw()
    assert batch is not None
    said = console("job", batch.job_id, "--json")
    assert (said.data["links"], said.data["subset"]) == (10, "en")
    assert "host-" not in said.out


def test_a_dead_job_is_retried_with_all_its_attempts(admin: Connection, register: Register, console: Console) -> None:
    new_run(admin, wats=2)
    kill(admin)
    worker = register("extract")
    assert worker.claim() == []
    assert console.json("retry", 2) == {"changed": True, "jobs": 1}
    (job,) = worker.claim(want=2)
    assert (job.job_id, job.attempt) == (2, 1)
    (entry,) = console.json("log")["changes"]
    assert (entry["command"], entry["subject"], entry["before"]["ids"]) == ("retry", "job 2", [2])


def test_a_preview_shows_what_a_filter_hits_and_changes_nothing(admin: Connection, console: Console) -> None:
    new_run(admin, "a", wats=2)
    new_run(admin, "b", wats=1)
    kill(admin)
    seen = console.json("retry", "--run", "a", "--preview")
    assert (seen["changed"], [row["job_id"] for row in seen["jobs"]]) == (False, [2, 1])
    assert "jobs in all: 3" in console("retry", "--all", "--preview").out
    assert ids(console, "--state", "ready") == []
    assert console.json("retry", "--run", "a")["jobs"] == 2
    assert ids(console, "--state", "dead") == [3]


def test_a_job_that_a_verb_is_not_for_is_refused_and_no_other_is_touched(admin: Connection, console: Console) -> None:
    new_run(admin, wats=2)
    kill(admin, 1)
    for verb in (("retry", 1, 2), ("discard", 1, 2, "--yes")):
        assert "job 2 is ready" in console.refusal(*verb)
    assert "there is no job 7" in console.refusal("retry", 1, 7)
    assert "job 1 is dead and in queue extract" in console.refusal("retry", 1, "--queue", "filter")
    assert ids(console, "--state", "dead") == [1]


@pytest.mark.parametrize("verb", [["retry"], ["discard", "--yes"], ["priority", "1"]])
def test_a_verb_for_no_jobs_in_particular_is_wrong_usage(console: Console, verb: list[str]) -> None:
    said = console(*verb)
    assert said.code == 2
    assert "--all" in said.err


def test_a_discarded_job_stays_with_its_reason_and_is_never_claimed_again(
    admin: Connection, register: Register, console: Console
) -> None:
    run_id = new_run(admin, wats=2)
    kill(admin)
    said = console("discard", 1, "--json")
    assert (said.code, said.data["changed"], said.data["jobs"][0]["job_id"]) == (1, False, 1)
    assert said.err == "tracker: nothing was changed: add --yes to do it\n"
    assert console.json("discard", 1, "--yes")["jobs"] == 1
    assert "job 1 is discarded" in console.refusal("retry", 1)
    assert console.json("retry", "--all")["jobs"] == 1
    assert [job.job_id for job in register("extract").claim(want=9)] == [2]
    found = console.json("job", 1)
    assert (found["state"], found["error"]) == ("discarded", "no such [file]")
    assert new_run(admin, wats=2) == run_id  # seeding again does not bring it back
    assert ids(console, "--state", "ready") == []


def test_a_discarded_packs_candidates_have_never_come_in(admin: Connection, console: Console) -> None:
    listed_pack(admin, new_run(admin), rows=50)
    kill(admin)
    assert console.json("discard", "--queue", "ingest", "--yes")["jobs"] == 1
    assert audit(admin).holds
    assert scalar(admin, "SELECT count(*) FROM tracker.tally WHERE account <> 'packed'") == 0
    assert scalar(admin, "SELECT sum(n) FROM tracker.tally") == 0


def test_a_discarded_shards_samples_are_dropped_as_discarded(
    admin: Connection, register: Register, console: Console
) -> None:
    fill_pool(admin, new_run(admin), 10)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    worker.complete(
        batch, {"finished": {"success": 6, "timeout": 4}, "again": [], "returned": [], "samples": 6, "bytes": 1}
    )
    kill(admin)
    assert console.json("discard", "--all", "--yes")["jobs"] == 1
    rows = admin.execute("SELECT label, subset::text AS subset, n FROM tracker.tally WHERE account = 'filtered'")
    assert rows.fetchall() == [{"label": "discarded", "subset": "en", "n": 6}]
    assert audit(admin).holds
    assert register("filter").is_idle()


def dead_batch(admin: Connection, register: Register, links: int = 10) -> Batch:
    """A batch whose attempts are used up."""
    fill_pool(admin, new_run(admin), links)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    worker.release(batch)
    kill(admin, batch.job_id)
    return batch


def test_a_dead_batchs_links_come_back_by_retry(admin: Connection, register: Register, console: Console) -> None:
    batch = dead_batch(admin, register)
    assert console.json("retry", batch.job_id)["jobs"] == 1
    again = register("download").draw()
    assert again is not None
    assert (again.job_id, again.payload, again.attempt) == (batch.job_id, batch.payload, 1)


def test_a_discarded_batchs_links_end_as_discarded_and_the_law_holds(
    admin: Connection, register: Register, console: Console, tmp_path: Path
) -> None:
    batch = dead_batch(admin, register)
    said = console("discard", batch.job_id, "--json")
    assert (said.code, said.data["changed"], said.data["links"]) == (1, False, 10)
    assert "with 10 links" in console("discard", "--all").out
    assert console.json("discard", "--all", "--yes")["jobs"] == 1
    found = audit_exact(admin, str(tmp_path))
    assert found.holds, found.differences
    data = found.to_json()
    assert (data["in"], data["leased"], data["finished"]) == (10, 0, {"discarded": 10})
    worker = register("download")
    assert worker.draw() is None
    assert worker.is_idle()


def test_a_discarded_batch_that_loses_links_is_found_by_the_exact_audit(
    admin: Connection, register: Register, console: Console, tmp_path: Path
) -> None:
    batch = dead_batch(admin, register)
    console.json("discard", batch.job_id, "--yes")
    admin.execute("DELETE FROM tracker.batch")
    assert audit_exact(admin, str(tmp_path)).differences == [
        "run test, en: discarded batches hold 0 links, the ledger says 10"
    ]


def test_no_worker_can_say_that_a_link_was_discarded(admin: Connection, register: Register) -> None:
    fill_pool(admin, new_run(admin), 1)
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    forged = {"finished": {"discarded": 1}, "again": [], "returned": [], "samples": 0, "bytes": 0}
    with pytest.raises(TrackerError, match="invalid input value for enum"):
        worker.complete(batch, forged)


def test_a_job_of_higher_priority_comes_first_and_what_follows_inherits_it(
    admin: Connection, register: Register, console: Console
) -> None:
    new_run(admin, wats=3)
    assert console.json("priority", 5, 3)["jobs"] == 1
    assert console.json("priority", -5, "--queue", "extract", "--run", "test", "--preview")["changed"] is False
    worker = register("extract")
    (first, second) = worker.claim(want=2)
    assert [first.job_id, second.job_id] == [1, 3] or [first.job_id, second.job_id] == [3, 1]
    held = first if first.job_id == 3 else second
    worker.complete(held, {"images": 1, "candidates": 1, "slots": [{"rows": 1, "bytes": 1}]})
    assert scalar(admin, "SELECT priority FROM tracker.job WHERE queue = 'ingest'") == 5
    assert "job 3 is done" in console.refusal("priority", 1, 3)
    assert console.json("priority", 5, "--all")["jobs"] == 2
    assert console("priority", 40_000, 1).code == 2
