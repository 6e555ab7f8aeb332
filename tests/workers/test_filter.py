"""The filter worker with several shards at the same time: a lost, stopped or broken one does not affect the others."""

import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import trio

from dataset.formats.parts import Verdict
from dataset.formats.shard_writer import ShardWriter
from dataset.models.pipeline import Pipeline
from dataset.models.towers import Towers
from dataset.store.store import Store
from tests.dataset.filter.test_shard import planted
from tests.tracker.filling import new_run, scalar
from tracker.database.database import Connection
from tracker.protocol.session import Session
from workers.errors import CannotWork
from workers.filter import Filter
from workers.runtime.context import WorkContext
from workers.runtime.loop import StopWhen, run
from workers.runtime.model_cache import ModelCache

DEMO = Path(__file__).parents[1] / "demo" / "clip"
Register = Callable[[str], Session]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def shards(admin: Connection, store: Store, count: int, pairs: int = 2) -> None:
    """Make a run of `count` shards that wait for the filter, each with 2 x `pairs` samples."""
    run_id = new_run(admin)
    model = f'{{"model": "demo", "pretrained": "{DEMO}", "threshold": 0.28}}'
    admin.execute(
        "UPDATE tracker.run SET recipe = jsonb_build_object('models', jsonb_build_object('en', %s::jsonb, "
        "'other', %s::jsonb)) WHERE run_id = %s",
        (model, model, run_id),
    )
    for number in range(count):
        with ShardWriter(store, f"shards/{number}", job_id=number, subset="en") as writer:
            for row in planted(pairs):
                writer.add(row)
            writer.publish()
        admin.execute(
            "INSERT INTO tracker.job (queue, run_id, payload) VALUES ('filter', %s, "
            "jsonb_build_object('shard', %s::text, 'subset', 'en', 'samples', %s::int))",
            (run_id, f"shards/{number}", 2 * pairs),
        )


def states(admin: Connection) -> list[tuple[object, object]]:
    rows = admin.execute("SELECT state::text, attempt FROM tracker.job ORDER BY job_id").fetchall()
    return [(row["state"], row["attempt"]) for row in rows]


def work(context: WorkContext) -> None:
    with Pipeline() as pipeline:
        trio.run(run, Filter(pipeline, ModelCache("cpu")), context, StopWhen(until_idle=True))


def work_beside(context: WorkContext, other: Callable[[], Awaitable[None]]) -> None:
    """Work until `other`, which runs concurrently, has asked to stop."""

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, Filter(pipeline, ModelCache("cpu")), context, StopWhen())
            await other()

    with Pipeline() as pipeline:
        trio.run(both)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(120):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110 - what is waited for is in Postgres
            await trio.sleep(0.02)


def test_shards_in_work_at_the_same_time_all_become_parts(admin: Connection, register: Register, store: Store) -> None:
    shards(admin, store, 5)
    work(WorkContext(register("filter"), store))
    assert states(admin) == [("done", 1)] * 5
    parts = [row["path"] for row in admin.execute("SELECT path FROM tracker.manifest WHERE kind = 'part'")]
    assert len(parts) == 5
    similarities = [store.read_table(f"{path}.scores.parquet")["similarity"].to_pylist() for path in parts]
    assert similarities == similarities[:1] * 5  # all shards hold the same pairs
    assert scalar(admin, "SELECT count(DISTINCT worker_id) FROM tracker.lease") == 1


def test_a_part_has_the_time_at_which_its_shard_was_completed(
    admin: Connection, register: Register, store: Store
) -> None:
    shards(admin, store, 1)
    admin.execute(
        "INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, created_at) "
        "SELECT 'shard', run_id, job_id, gen_random_uuid(), 'shards/0', 4, '2026-01-02 03:04:05.678Z' FROM tracker.job"
    )
    work(WorkContext(register("filter"), store))
    part = scalar(admin, "SELECT path FROM tracker.manifest WHERE kind = 'part'")
    fetched = set(store.read_table(f"{part}.parquet")["fetched"].to_pylist())
    assert fetched == {datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}


def test_a_stopped_worker_gives_all_its_shards_back_without_an_attempt(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(admin, store, 4)
    may_go = threading.Event()

    def blocked(towers: Towers, pixels: torch.Tensor) -> torch.Tensor:
        assert may_go.wait(60)
        return images(towers, pixels)

    images = Towers._images
    monkeypatch.setattr(Towers, "_images", blocked)
    context = WorkContext(register("filter"), store)

    async def stop_in_the_middle() -> None:
        await until(lambda: states(admin).count(("leased", 1)) == 3)
        context.ask_to_stop()
        may_go.set()

    work_beside(context, stop_in_the_middle)
    assert states(admin) == [("ready", 0)] * 4
    assert scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'released'") == 3


def test_a_lease_that_is_lost_costs_only_its_own_shard(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards(admin, store, 3)
    session = register("filter")
    taken: list[int] = []
    complete = Session.complete

    def taken_over(self: Session, job: object, result: object) -> None:
        if not taken:
            taken.append(job.job_id)  # type: ignore[attr-defined]
            admin.execute(
                "UPDATE tracker.job SET state = 'ready', worker_id = NULL, lease = NULL, leased_at = NULL, "
                "ready_at = now() + interval '1 hour' WHERE job_id = %s",
                (taken[0],),
            )
        complete(self, job, result)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "complete", taken_over)
    context = WorkContext(session, store)

    async def stop_when_the_others_are_done() -> None:
        await until(lambda: states(admin).count(("done", 1)) == 2)
        context.ask_to_stop()

    work_beside(context, stop_when_the_others_are_done)
    assert sorted(states(admin)) == [("done", 1), ("done", 1), ("ready", 1)]
    assert scalar(admin, "SELECT count(*) FROM tracker.manifest") == 2


def test_a_gpu_that_disappears_ends_the_worker_and_no_attempt_is_used_up(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(towers: Towers, pixels: torch.Tensor) -> torch.Tensor:
        raise getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: the launch failed")

    shards(admin, store, 3)
    monkeypatch.setattr(Towers, "_images", gone)
    context = WorkContext(register("filter"), store)
    with pytest.raises(CannotWork, match="The GPU does not respond any more"):
        work(context)
    assert states(admin) == [("ready", 0)] * 3
    assert scalar(admin, "SELECT state FROM tracker.worker") == "gone"


def test_a_sample_with_a_score_that_is_not_finite_is_dropped_and_counted(
    admin: Connection, register: Register, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(towers: Towers, pixels: torch.Tensor) -> torch.Tensor:
        rows = images(towers, pixels)
        rows[1] = torch.nan
        return rows

    images = Towers._images
    monkeypatch.setattr(Towers, "_images", spoilt)
    shards(admin, store, 1)
    work(WorkContext(register("filter"), store))
    counted = scalar(admin, "SELECT sum(n) FROM tracker.ledger WHERE label = %s", Verdict.WITHOUT_DIRECTION)
    assert counted == 1
    (path,) = [row["path"] for row in admin.execute("SELECT path FROM tracker.manifest")]
    reasons = store.read_table(f"{path}.scores.parquet")["reason"].to_pylist()
    assert reasons.count("without_direction") == 1
