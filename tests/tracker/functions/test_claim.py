"""Claim, lease, takeover, release, fail: each test is about a failure at a bad moment."""

import threading
from collections.abc import Callable
from uuid import uuid4

import pytest

from dataset.recipe.recipe import Recipe
from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tracker.accounts.controls import set_paused
from tracker.database.database import Connection, translated
from tracker.errors import LeaseLost, RecipeRefused, Refused
from tracker.protocol.session import Job, Session

Register = Callable[[str], Session]
Expire = Callable[[Session], None]
EMPTY_PACK = {"images": 0, "candidates": 0, "slots": [{"rows": 0, "bytes": 0}]}


def claim_raw(admin: Connection, worker: Session, request: object, want: int = 1) -> list[dict[str, object]]:
    with translated():
        return admin.execute(
            "SELECT * FROM tracker.claim(%s, %s, %s, %s)", (worker.worker_id, request, worker.kind, want)
        ).fetchall()


def test_a_job_is_given_to_one_worker_only(admin: Connection, register: Register) -> None:
    new_run(admin, wats=40)
    workers = [register("extract") for _ in range(4)]
    taken: list[Job] = []
    start = threading.Barrier(len(workers))

    def take(worker: Session) -> None:
        start.wait()
        while jobs := worker.claim(want=3):
            taken.extend(jobs)

    threads = [threading.Thread(target=take, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.payload["wat"] for job in taken) == sorted(f"/wat/{i}" for i in range(40))


def test_claim_never_takes_more_than_it_was_asked_for(admin: Connection, register: Register) -> None:
    new_run(admin, wats=200)
    assert len(register("extract").claim(want=5)) == 5
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 5


def test_asking_again_after_a_lost_reply_gives_the_same_lease(admin: Connection, register: Register) -> None:
    new_run(admin, wats=3)
    worker, request = register("extract"), uuid4()
    first = claim_raw(admin, worker, request, want=2)
    assert claim_raw(admin, worker, request, want=2) == first
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 2


def test_asking_again_for_work_that_was_taken_over_is_told_so(
    admin: Connection, register: Register, expire: Expire
) -> None:
    new_run(admin, wats=1)
    worker, request = register("extract"), uuid4()
    claim_raw(admin, worker, request)
    expire(worker)
    assert register("extract").claim()
    with pytest.raises(LeaseLost, match="claim again"):
        claim_raw(admin, worker, request)


def test_a_silent_workers_job_is_taken_over_before_ready_ones(
    admin: Connection, register: Register, expire: Expire
) -> None:
    new_run(admin, wats=2)
    silent = register("extract")
    (lost,) = silent.claim()
    expire(silent)
    (taken,) = register("extract").claim()
    assert (taken.job_id, taken.attempt) == (lost.job_id, 2)
    assert taken.lease != lost.lease
    assert taken.output != lost.output


def test_a_worker_whose_progress_stands_still_is_overtaken_although_it_beats(
    admin: Connection, register: Register
) -> None:
    new_run(admin, wats=1)
    stuck = register("extract")
    (lost,) = stuck.claim()
    admin.execute("UPDATE tracker.worker SET progressed_at = now() - interval '2 hours'")
    assert stuck.heartbeat(0) == "active"
    (taken,) = register("extract").claim()
    assert taken.job_id == lost.job_id


def test_a_worker_that_beats_keeps_its_job(admin: Connection, register: Register, expire: Expire) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    assert worker.claim()
    expire(worker)
    worker.heartbeat(1)
    assert register("extract").claim() == []


def test_a_late_completion_raises_and_changes_nothing(admin: Connection, register: Register, expire: Expire) -> None:
    new_run(admin, wats=1)
    late = register("extract")
    (lost,) = late.claim()
    expire(late)
    (taken,) = register("extract").claim()
    with pytest.raises(LeaseLost):
        late.complete(lost, EMPTY_PACK)
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "leased"
    assert scalar(admin, "SELECT lease FROM tracker.job") == taken.lease
    assert scalar(admin, "SELECT count(*) FROM tracker.ledger") == 0


@pytest.mark.parametrize("verb", ["release", "fail"])
def test_a_late_worker_cannot_give_anothers_job_back(
    admin: Connection, register: Register, expire: Expire, verb: str
) -> None:
    new_run(admin, wats=1)
    late = register("extract")
    (lost,) = late.claim()
    expire(late)
    assert register("extract").claim()
    with pytest.raises(LeaseLost):
        late.release(lost) if verb == "release" else late.fail(lost, "too late")
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "leased"


def test_completing_twice_after_a_lost_reply_counts_once(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (job,) = worker.claim()
    result = {"images": 9, "candidates": 4, "slots": [{"rows": 4, "bytes": 100}]}
    worker.complete(job, result)
    worker.complete(job, result)
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE queue = 'ingest'") == 1
    assert scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = 'rows_out'") == 4


@pytest.mark.parametrize("verb", ["fail", "release"])
def test_a_job_whose_completion_was_not_answered_stays_complete(
    admin: Connection, register: Register, verb: str
) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (job,) = worker.claim()
    worker.complete(job, {"images": 9, "candidates": 4, "slots": [{"rows": 4, "bytes": 100}]})
    worker.release(job) if verb == "release" else worker.fail(job, "the connection broke")
    kept = "SELECT state::text || attempt FROM tracker.job WHERE queue = 'extract'"
    assert scalar(admin, kept) == "done1"
    assert scalar(admin, "SELECT ending::text FROM tracker.lease") == "completed"
    assert worker.claim() == []


def test_a_graceful_stop_uses_up_no_attempt(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    for _ in range(9):
        (job,) = worker.claim()
        worker.release(job)
    (job,) = worker.claim()
    assert job.attempt == 1


def test_leaving_gives_all_work_back(admin: Connection, register: Register) -> None:
    new_run(admin, wats=3)
    worker = register("extract")
    worker.claim(want=3)
    worker.leave()
    assert len(register("extract").claim(want=9)) == 3
    with pytest.raises(Refused, match="not registered"):
        worker.claim()


def test_a_job_that_always_fails_is_dead_after_its_last_attempt_and_says_why(
    admin: Connection, register: Register
) -> None:
    new_run(admin, wats=1)
    set_setting(admin, "retry_seconds", 0)
    set_setting(admin, "max_attempts", 3)
    worker = register("extract")
    states = []
    while jobs := worker.claim():
        states.append(worker.fail(jobs[0], "no such file"))
    assert states == ["ready", "ready", "dead"]
    assert scalar(admin, "SELECT error FROM tracker.job") == "no such file"


def test_a_job_that_kills_every_worker_is_dead_after_its_last_attempt(
    admin: Connection, register: Register, expire: Expire
) -> None:
    new_run(admin, wats=1)
    set_setting(admin, "max_attempts", 2)
    for _ in range(2):
        worker = register("extract")
        assert worker.claim()
        expire(worker)
    assert register("extract").claim() == []
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "dead"


def test_a_failed_job_waits_before_it_is_tried_again(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    worker.fail(worker.claim()[0], "busy")
    assert worker.claim() == []
    assert scalar(admin, "SELECT ready_at > now() + interval '5 s' FROM tracker.job") is True


def test_a_paused_queue_gives_nothing_out(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    admin.execute("UPDATE tracker.control SET paused = true WHERE queue = 'extract'")
    worker = register("extract")
    assert worker.claim() == []
    admin.execute("UPDATE tracker.control SET paused = false")
    assert len(worker.claim()) == 1


def test_a_draining_worker_gets_nothing_new(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    admin.execute("UPDATE tracker.worker SET state = 'draining'")
    assert worker.claim() == []
    assert worker.heartbeat(0) == "draining"


def test_a_worker_cannot_claim_from_a_queue_of_another_kind(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    worker = register("filter")
    with pytest.raises(Refused, match="may not claim"), translated():
        admin.execute("SELECT * FROM tracker.claim(%s, %s, 'extract')", (worker.worker_id, uuid4()))


def test_an_unknown_protocol_is_refused(admin: Connection) -> None:
    with pytest.raises(Refused, match="protocol 99"), translated():
        admin.execute("SELECT * FROM tracker.register('extract', 'h', 1, '9', 99)")


@pytest.mark.parametrize("told", [{}, {"slots": []}, {"slots": [{"rows": None}]}, {"slots": [{"rows": -1}]}])
def test_a_pack_without_its_counts_is_refused(admin: Connection, register: Register, told: dict[str, object]) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (job,) = worker.claim()
    with pytest.raises(Refused, match="slots"):
        worker.complete(job, {"images": 0, "candidates": 0} | told)
    assert scalar(admin, "SELECT state::text FROM tracker.job") == "leased"


def test_a_recipe_is_settled_once_and_never_changed(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    extract, filter_ = register("extract"), register("filter")
    opened = {"text": {"min_characters": 5}, "models": {"en": {"model": "m", "sha256": None}}}
    settled = {"text": {"min_characters": 5}, "models": {"en": {"model": "m", "sha256": "ab"}}}
    assert extract.settle_recipe(run_id, opened) == {"text": opened["text"]}
    assert filter_.settle_recipe(run_id, settled) == settled
    assert register("download").settle_recipe(run_id, opened) == settled
    for other in (
        {"text": {"min_characters": 6}, "models": {"en": {"model": "m", "sha256": None}}},
        {"text": {"min_characters": 5}, "models": {"en": {"model": "m", "sha256": "cd"}}},
    ):
        with pytest.raises(RecipeRefused, match="not the one"):
            register("filter").settle_recipe(run_id, other)
    assert scalar(admin, "SELECT recipe FROM tracker.run") == settled


READS = {
    "extract": {"text", "language", "page_opt_outs"},
    "ingest": {"language", "extra"},
    "download": {"image", "extra", "sha256_column"},
    "filter": {"version", "filter", "models", "embeddings", "tags", "safety"},
    "embed": set[str](),
    "index": set[str](),
    "dedup": set[str](),
    "tag": set[str](),
}


@pytest.mark.parametrize("kind", READS)
def test_a_class_settles_what_it_reads_and_nothing_else(admin: Connection, register: Register, kind: str) -> None:
    run_id = new_run(admin)
    whole = Recipe().to_json()
    assert set().union(*READS.values()) == whole.keys()
    settled = register(kind).settle_recipe(run_id, whole)
    assert settled == {section: value for section, value in whole.items() if section in READS[kind]}
    assert scalar(admin, "SELECT recipe FROM tracker.run") == settled


def test_a_stolen_login_of_extract_cannot_switch_the_filter_off(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    forged = Recipe().to_json() | {"filter": False, "safety": {"drop": False}}
    register("extract").settle_recipe(run_id, forged)
    whole = Recipe().to_json()
    assert register("filter").settle_recipe(run_id, whole)["filter"] is True


@pytest.mark.parametrize(
    ("error", "kept"), [("nul \0 here", "nul \\0 here"), ("/lists/caf\udce9.csv", "/lists/caf\\udce9.csv")]
)
def test_an_error_that_postgres_cannot_hold_is_told_all_the_same(
    admin: Connection, register: Register, error: str, kept: str
) -> None:
    new_run(admin, wats=1)
    worker = register("extract")
    (job,) = worker.claim()
    assert worker.fail(job, error) == "ready"
    assert scalar(admin, "SELECT error FROM tracker.job") == kept


def test_workers_that_are_gone_are_not_looked_at(admin: Connection, register: Register) -> None:
    new_run(admin, wats=1)
    register("extract").leave()
    admin.execute("UPDATE tracker.worker SET seen_at = now() - interval '1 day'")
    assert admin.execute("SELECT tracker.stale_workers('extract')").fetchall() == []
    assert len(register("extract").claim()) == 1


def test_an_idle_worker_learns_what_its_queue_waits_for(admin: Connection, register: Register) -> None:
    run_id = new_run(admin, wats=2)
    download, extract = register("download"), register("extract")
    waits = {"closed": False, "retries": 0, "jobs_before": 2, "again": 0, "next_try_seconds": None}
    assert download.waits_for() == waits
    (job, _) = extract.claim(2)
    extract.fail(job, "503")
    found = extract.waits_for()
    assert (found["retries"], found["jobs_before"]) == (1, 0)
    assert 0 < found["next_try_seconds"] <= 60
    fill_pool(admin, run_id, 3)
    batch = download.draw()
    assert batch is not None
    again = list(range(batch.n))
    download.complete(batch, {"finished": {}, "again": again, "returned": [], "samples": 0, "bytes": 1})
    set_paused(admin, ["download"], paused=True)
    found = download.waits_for()
    assert (found["closed"], found["again"], found["jobs_before"]) == (True, batch.n, 2)
    assert 500 < found["next_try_seconds"] <= 700
    assert register("index").waits_for() == waits | {"jobs_before": 0}
