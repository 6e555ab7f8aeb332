"""Workers are killed and stopped during their work: nothing is lost or published twice."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

import pytest

from tests.demo.checks import check_links, check_results
from tests.swarm.checkpoints import STAGES
from tests.swarm.proxy import Proxy
from tests.swarm.swarm import DEADLINE_SECONDS, Swarm
from tests.tracker.filling import scalar
from tracker.database.database import Connection
from workers.filter import SHARDS_ABREAST

# The filter takes longer than all stages before it. The filter's jobs are made by download alone: after a fault in an
# earlier stage it is enough that every link ends as planned.
EACH_STAGE = pytest.mark.parametrize(
    ("done", "stage", "rest"),
    [
        (None, "extract", ["ingest", "download"]),
        ("extract", "ingest", ["download"]),
        ("ingest", "download", ["filter"]),
        ("download", "filter", []),
    ],
    ids=STAGES,
)


@contextmanager
def held_before(swarm: Swarm, needle: str, *, cut_reply: bool = False) -> Iterator[Proxy]:
    proxy = Proxy(swarm.database, needle.encode(), cut_reply=cut_reply)
    try:
        yield proxy
    finally:
        proxy.close()


def assert_whole(swarm: Swarm, *, filtered: bool = True) -> None:
    """Check the exact audit, that each link ended once as planned, and if filtered that each sample was scored once."""
    found = swarm.audit()
    assert found.holds, (found.differences, swarm.logs())
    data = found.to_json()
    assert (data["pool"], data["again"], data["leased"]) == (0, 0, 0)
    check = check_results if filtered else check_links
    assert [check for check in check(swarm.crawl.links, swarm.results()) if not check.holds] == []


@EACH_STAGE
def test_a_worker_killed_before_it_completes_loses_nothing(
    swarm: Swarm, admin: Connection, stage: str, rest: list[str]
) -> None:
    with held_before(swarm, f"complete_{stage}") as proxy:
        worker = swarm.start(stage, "--until-idle", database=proxy.url)
        assert proxy.held.wait(DEADLINE_SECONDS), swarm.logs()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    swarm.expire_all(admin)
    swarm.finish(stage, *rest)
    # Ingest shuffles all waiting packs together, the filter works on several shards at once.
    held_jobs = {"ingest": len(swarm.crawl.wats), "filter": SHARDS_ABREAST}.get(stage, 1)
    assert scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'taken_over'") == held_jobs
    assert_whole(swarm, filtered="filter" in (stage, *rest))


@EACH_STAGE
def test_a_reply_lost_after_the_commit_counts_nothing_twice(
    swarm: Swarm, admin: Connection, stage: str, rest: list[str]
) -> None:
    with held_before(swarm, f"complete_{stage}", cut_reply=True) as proxy:
        worker = swarm.start(stage, "--until-idle", database=proxy.url)
        assert worker.wait(DEADLINE_SECONDS) == 0, swarm.logs()
        assert proxy.held.is_set()
    swarm.finish(*rest)
    assert_whole(swarm, filtered="filter" in (stage, *rest))


@pytest.mark.parametrize("done", ["download"])
def test_a_filter_worker_stopped_after_its_part_was_written_publishes_nothing_twice(
    swarm: Swarm, admin: Connection
) -> None:
    with held_before(swarm, "complete_filter") as proxy:
        late = swarm.start("filter", "--once", database=proxy.url)
        assert proxy.held.wait(DEADLINE_SECONDS), swarm.logs()
        late.send_signal(signal.SIGSTOP)
        swarm.expire_all(admin)
        swarm.finish("filter")
        late.send_signal(signal.SIGCONT)
        proxy.release()
        assert late.wait(DEADLINE_SECONDS) == 0, swarm.logs()
    assert "job.lost" in swarm.logs()
    taken = scalar(admin, "SELECT job_id FROM tracker.lease WHERE ending = 'taken_over'")
    parts = sorted(path.name for path in (swarm.folder / "store" / "small" / "parts").glob(f"{taken:010d}-*"))
    assert len(parts) == 4  # two tries, each with a part and its scores, all complete
    assert scalar(admin, "SELECT count(*) FROM tracker.manifest WHERE job_id = %s", taken) == 1
    assert_whole(swarm)


@pytest.mark.parametrize("done", ["ingest"])
def test_a_download_worker_asked_to_stop_closes_its_shard_and_returns_the_rest(swarm: Swarm, admin: Connection) -> None:
    admin.execute("UPDATE tracker.setting SET value = '10000' WHERE name = 'batch_size'")
    with held_before(swarm, "tracker.heartbeat") as proxy:
        worker = swarm.start("download", "--until-idle", "--concurrency", "2", database=proxy.url)
        assert proxy.held.wait(DEADLINE_SECONDS)
        proxy.release()
        leased = "SELECT count(*) > 0 FROM tracker.job WHERE queue = 'download' AND state = 'leased'"
        swarm.run_until(admin, worker, leased)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_SECONDS) == 0, swarm.logs()
    returned = scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = 'pool' AND n > 0")
    came_in = scalar(admin, "SELECT sum(n) FROM tracker.tally WHERE account = 'in'")
    assert isinstance(returned, Decimal)
    assert isinstance(came_in, Decimal)
    assert returned > came_in
    assert swarm.audit().holds
    swarm.finish("download", "filter")
    assert_whole(swarm)


@pytest.mark.parametrize("done", ["download"])
def test_a_second_filter_worker_with_other_weights_refuses(swarm: Swarm, admin: Connection) -> None:
    admin.execute("UPDATE tracker.run SET recipe = jsonb_set(recipe, '{models,en,sha256}', to_jsonb(repeat('0', 64)))")
    worker = swarm.start("filter", "--until-idle")
    assert worker.wait(DEADLINE_SECONDS) == 1
    assert "give this worker the crawl's model" in swarm.logs()
    assert scalar(admin, "SELECT count(*) FROM tracker.manifest WHERE kind = 'part'") == 0
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 0
