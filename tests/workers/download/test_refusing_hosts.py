"""A download worker against real hosts that refuse, are blocked, or become blocked while it works."""

from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from dataset.store.store import Store
from tests.tracker.filling import fill_pool, new_run, set_setting
from tests.workers.fetching.odd_web import answer, odd_web, picture, response
from tracker.accounts.audit import audit
from tracker.accounts.blocks import block
from tracker.database.database import Connection
from tracker.protocol.session import Session
from workers.download.decoder_pool import Decoders
from workers.download.host_rests import HostRests
from workers.download.stage import Download
from workers.fetching.policy import FetchPolicy
from workers.runtime.context import WorkContext
from workers.runtime.loop import StopWhen, run

Register = Callable[[str], Session]
OK = answer(response(picture(600, 400)))


def fill(admin: Connection, urls: list[str]) -> None:
    """Put these links into the pool."""
    leaf = fill_pool(admin, new_run(admin), len(urls))
    for n, url in enumerate(urls):
        admin.execute(f"UPDATE tracker.candidate_en_{leaf} SET url = %s WHERE pack_row = %s".encode(), (url, n))


def outcomes(admin: Connection) -> dict[str, int]:
    rows = admin.execute("SELECT label, sum(n)::int AS n FROM tracker.ledger WHERE account = 'finished' GROUP BY label")
    return {row["label"]: row["n"] for row in rows}


def work(test: Callable[[], object]) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await test()  # type: ignore[misc]  # an async function without arguments

    trio.run(bounded)


def test_a_refusing_host_gets_one_request_a_blocked_one_none_and_no_link_is_lost(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    async def test() -> None:
        async with (
            odd_web({"*": answer(response(b"", status="429 Too Many Requests"))}, host="127.0.0.2") as busy,
            odd_web({"*": OK}, host="127.0.0.3") as well,
            odd_web({"*": OK}, host="127.0.0.4") as banned,
            odd_web({"*": answer(response(b"", f"Location: http://127.0.0.4:{banned.port}/x", status="302 Found"))},
                    host="127.0.0.5") as leading,
        ):  # fmt: skip
            webs = [busy, well, banned, leading]
            hosts = [f"http://127.0.0.{n}:{web.port}" for n, web in enumerate(webs, start=2)]
            fill(admin, [f"{host}/{n}" for host in hosts for n in range(10)])
            block(admin, ["127.0.0.4"], "they asked")
            policy = FetchPolicy(
                allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=tuple({web.port for web in webs})
            )
            context = WorkContext(register("download"), Store.open(str(tmp_path)))
            with Decoders() as decoders:
                await run(Download(policy, decoders), context, StopWhen(once=True))
            assert [len(web.requests) for web in webs] == [1, 10, 0, 10]

    work(test)
    assert outcomes(admin) == {"success": 10, "blocked": 20}
    rows = admin.execute("SELECT attempt, url, due_at - now() < interval '200 seconds' AS soon FROM tracker.again")
    assert sorted((row["attempt"], row["soon"]) for row in rows) == [(1, True)] * 9 + [(2, False)]
    assert audit(admin).holds
    resting = admin.execute("SELECT host, refusals FROM tracker.resting").fetchall()
    assert resting == [{"host": "127.0.0.2", "refusals": 1}]


def test_a_host_that_is_blocked_during_a_batch_gets_no_further_requests(
    admin: Connection, register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_setting(admin, "lease_seconds", 4)

    async def test() -> None:
        context = WorkContext(register("download"), Store.open(str(tmp_path)))
        has_heard = trio.Event()
        rests = HostRests()
        hear = rests.apply_blocks

        def apply_blocks(version: int, blocked: Sequence[str], lifted: Sequence[str]) -> None:
            hear(version, blocked, lifted)
            has_heard.set()

        monkeypatch.setattr(rests, "apply_blocks", apply_blocks)

        async def ban(stream: trio.abc.Stream, head: bytes) -> None:
            await trio.to_thread.run_sync(partial(block, admin, ["127.0.0.2"], "they just called"))
            await has_heard.wait()
            await stream.send_all(response(b"", status="404 Not Found"))

        async with odd_web({"*": ban}, host="127.0.0.2") as web:
            fill(admin, [f"http://127.0.0.2:{web.port}/{n}" for n in range(10)])
            policy = FetchPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=(web.port,))
            with Decoders() as decoders:
                await run(Download(policy, decoders, rests), context, StopWhen(once=True))
            assert len(web.requests) == 1

    work(test)
    assert outcomes(admin) == {"not_found": 1, "blocked": 9}
