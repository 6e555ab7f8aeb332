"""A SIGTERM in the middle of a large batch and a lost reply: every link is final exactly once."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from dataset.store.store import Store
from tests.tracker.filling import fill_pool, new_run, scalar, set_setting
from tests.workers.fetching.odd_web import OddWeb, odd_web, picture, response
from tracker.accounts.audit import audit_exact
from tracker.database.database import Connection
from tracker.protocol.session import Batch, Job, Session
from tracker.storage.manifest import outputs
from workers.download.decoder_pool import Decoders
from workers.download.stage import Download
from workers.fetching.policy import FetchPolicy
from workers.runtime.context import WorkContext
from workers.runtime.loop import StopWhen, run

LINKS = 10_000
ASKED_AT_STOP = 6_137
HOSTS = 8
FAILING = 10  # one link in so many fails for a passing reason, at every try
GOOD = response(picture(100, 80))
RECIPE = '{"image": {"reencode": false, "resize_mode": "no"}, "filter": false}'
BAD = response(b"", status="500 Internal Server Error")


class Web:
    """Answers by the link's number; stops this process after `stop_at` requests."""

    def __init__(self, stop_at: int | None) -> None:
        self.asked = 0
        self.stop_at = stop_at

    async def answer(self, stream: trio.abc.Stream, head: bytes) -> None:
        self.asked += 1
        if self.asked == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        number = int(head.split(b" ")[1].split(b"/")[-1])
        await stream.send_all(BAD if number % FAILING == 0 else GOOD)


async def work(web: Web, admin: Connection, session: Session, store: Store) -> list[OddWeb]:
    """Download one batch from several local hosts, to which the pool's links are redirected first."""
    async with AsyncExitStack() as open_webs:
        webs = [
            await open_webs.enter_async_context(odd_web({"*": web.answer}, host=f"127.0.0.{2 + n}"))
            for n in range(HOSTS)
        ]
        ports = [one.port for one in webs]
        for place in ("candidate", "again"):
            admin.execute(
                f"UPDATE tracker.{place} SET url = 'http://127.0.0.' || 2 + pack_row %% {HOSTS} || ':' || "
                f"(%s::int[])[1 + pack_row %% {HOSTS}] || '/' || pack_row".encode(),
                (ports,),
            )
        policy = FetchPolicy(
            allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=tuple(set(ports)), per_host=16, concurrency=128
        )
        with Decoders() as decoders:
            await run(Download(policy, decoders), WorkContext(session, store), StopWhen(once=True))
        return webs


def test_no_link_is_lost_or_counted_twice_by_a_stop_and_a_lost_reply(
    admin: Connection, register: Callable[[str], Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("batch_size", LINKS), ("again_seconds", 0), ("max_tries", 2), ("again_share", 1)):
        set_setting(admin, name, value)
    run_id = new_run(admin)
    admin.execute(
        """UPDATE tracker.run SET recipe = '{"image": {"reencode": false, "resize_mode": "no"}, "filter": false}'"""
    )
    fill_pool(admin, run_id, LINKS)
    store = Store.open(str(tmp_path))
    complete = Session.complete

    def complete_twice(session: Session, job: Job | Batch, result: Mapping[str, object]) -> None:
        complete(session, job, result)  # committed, and the reply is lost:
        complete(session, job, result)

    monkeypatch.setattr(Session, "complete", complete_twice)

    trio.run(work, Web(ASKED_AT_STOP), admin, register("download"), store)
    finished, again = scalar(admin, FINISHED), scalar(admin, "SELECT count(*) FROM tracker.again")
    returned = scalar(admin, "SELECT count(*) FROM tracker.candidate")
    assert (finished, again, returned) != (0, 0, 0)
    assert isinstance(finished, int)
    assert isinstance(again, int)
    assert isinstance(returned, int)
    assert finished + again + returned == LINKS
    assert ASKED_AT_STOP <= finished + again < LINKS
    assert again > 0
    assert audit_exact(admin, str(tmp_path)).holds

    for _ in range(4):  # the rest; then the second tries, some of them of links that were returned before
        if scalar(admin, FINISHED) == LINKS:
            break
        trio.run(work, Web(None), admin, register("download"), store)
    rows = [
        row
        for output in outputs(admin).to_pylist()
        for row in store.read_table(f"{output['path']}.parquet").to_pylist()
        if row["final"]
    ]
    assert Counter(row["pack_row"] for row in rows) == Counter(range(LINKS))
    assert {row["outcome"] for row in rows if row["pack_row"] % FAILING == 0} == {"server_error"}
    assert {row["outcome"] for row in rows if row["pack_row"] % FAILING} == {"success"}
    assert audit_exact(admin, str(tmp_path)).holds


FINISHED = "SELECT coalesce(sum(n), 0)::bigint FROM tracker.tally WHERE account = 'finished'"
