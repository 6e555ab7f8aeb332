"""Hosts that share an address share a limit."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import trio
import trio.testing

from tests.workers.fetching.odd_web import odd_web, response, run
from workers.fetching.address_limit import AddressLimiter
from workers.fetching.fetch import Failure, Fetcher
from workers.fetching.policy import FetchPolicy
from workers.fetching.resolve import Resolver, _CacheEntry

HERE, THERE = ip_address("127.0.0.1"), ip_address("127.0.0.2")


def test_requests_are_admitted_in_order_and_a_cancelled_wait_loses_no_place() -> None:
    async def test() -> None:
        limiter = AddressLimiter(1)
        came: list[str] = []

        async def come(name: str, scope: trio.CancelScope) -> None:
            with scope:
                await limiter.acquire(HERE)
                came.append(name)
                limiter.release(HERE)

        await limiter.acquire(HERE)
        await limiter.acquire(THERE)
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(4)]
            for n, scope in enumerate(scopes):
                nursery.start_soon(come, str(n), scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[1].cancel()
            await trio.testing.wait_all_tasks_blocked()
            scopes[0].cancel()
            limiter.release(HERE)  # its turn comes while it is being cancelled
        assert came == ["2", "3"]
        limiter.release(THERE)
        assert len(limiter) == 0

    run(test)


def test_requests_to_one_address_are_spaced_and_another_address_need_not_wait() -> None:
    async def test() -> None:
        limiter = AddressLimiter(0, spacing_seconds=2.0)
        began: list[tuple[str, float]] = []

        async def come(name: str, address: IPv4Address | IPv6Address, scope: trio.CancelScope) -> None:
            with scope:
                await limiter.acquire(address)
                began.append((name, trio.current_time() - start))
                limiter.release(address)

        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(4)]
            for scope, (name, address) in zip(
                scopes, [("a", HERE), ("gives up", HERE), ("b", HERE), ("other", THERE)], strict=True
            ):
                nursery.start_soon(come, name, address, scope)
                await trio.testing.wait_all_tasks_blocked()
            scopes[1].cancel()
        assert began == [("a", 0.0), ("other", 0.0), ("b", 4.0)]
        assert len(limiter) == 0

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_names_that_share_an_address_share_its_limit() -> None:
    async def test() -> None:
        under_way = most = 0

        async def count(stream: trio.abc.Stream, head: bytes) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await trio.testing.wait_all_tasks_blocked(0.01)
            under_way -= 1
            await stream.send_all(response(b"", status="410 Gone"))

        async with odd_web({"*": count}) as web:
            policy = FetchPolicy(
                allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=(web.port,), per_address=3, timeout_seconds=1.0
            )
            async with Fetcher(policy) as fetcher, trio.open_nursery() as nursery:
                resolver = fetcher._session._resolver
                ends: list[Failure] = []

                async def fetch(n: int) -> None:
                    with fetcher.share() as share:
                        end = await fetcher.fetch(f"http://name{n}.test:{web.port}/", share)
                        assert isinstance(end, Failure)
                        ends.append(end)

                for n in range(12):
                    _know(resolver, f"name{n}.test")
                    nursery.start_soon(fetch, n)
        assert {end.http_status for end in ends} == {410}
        assert most == 3

    run(test)


def _know(resolver: Resolver, name: str) -> None:
    """Put a name into the DNS cache."""
    resolver._remember(name, _CacheEntry(trio.current_time() + 60.0, (ip_address("127.0.0.1"),)))
