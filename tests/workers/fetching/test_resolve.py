"""Names resolve once, failures are cached, and each failure has its reason."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
import trio
import trio.testing

from dataset.pictures.outcomes import Outcome
from tests.workers.fetching.odd_web import run
from workers.fetching import resolve
from workers.fetching.failure import LinkFailed
from workers.fetching.resolve import MIN_TTL_SECONDS, Resolver, system_resolv_conf

Zone = dict[tuple[str, str], list[str]]


@dataclass(slots=True)
class NameServer:
    place: str
    queries: Counter[tuple[str, str]] = field(default_factory=Counter)


@asynccontextmanager
async def name_server(
    zone: Zone, *, failing: dns.rcode.Rcode | None = None, silent: bool = False, garbled: bool = False
) -> AsyncIterator[NameServer]:
    """Run a name server on loopback; a name without records does not exist."""
    udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await udp.bind(("127.0.0.1", 0))
    server = NameServer(f"127.0.0.1:{udp.getsockname()[1]}")

    async def serve() -> None:
        while True:
            data, client = await udp.recvfrom(4_096)
            query = dns.message.from_wire(data)
            name, kind = query.question[0].name.to_text(), dns.rdatatype.to_text(query.question[0].rdtype)
            server.queries[name, kind] += 1
            if silent:
                continue
            await udp.sendto(data[:2] + b"garbage" if garbled else _answer(query, zone, name, kind, failing), client)

    with udp:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield server
            nursery.cancel_scope.cancel()


def _answer(query: dns.message.Message, zone: Zone, name: str, kind: str, failing: dns.rcode.Rcode | None) -> bytes:
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA
    if failing is not None:
        reply.set_rcode(failing)
    elif (name, "CNAME") in zone:
        alias = zone[name, "CNAME"][0]
        reply.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", alias))
        reply.answer.append(dns.rrset.from_text(alias, 300, "IN", kind, *zone[alias, kind]))
    elif (name, kind) in zone:
        reply.answer.append(dns.rrset.from_text(name, 300, "IN", kind, *zone[name, kind]))
    elif not any(found == name for found, _ in zone):
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply.to_wire()


ZONE: Zone = {
    ("two.test.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("six.test.", "AAAA"): ["2001:db8::1"],
    ("alias.test.", "CNAME"): ["two.test."],
    ("mail.test.", "MX"): ["10 two.test."],
}


async def _reason(resolver: Resolver, host: str) -> tuple[Outcome, str, bool]:
    with pytest.raises(LinkFailed) as failed:
        await resolver.resolve(host)
    return failed.value.outcome, failed.value.reason, failed.value.transient


def test_aaaa_is_queried_only_for_names_without_an_a_record() -> None:
    async def test() -> None:
        async with name_server(ZONE) as server:
            resolver = Resolver([server.place])
            assert set(await resolver.resolve("two.test")) == {ip_address("192.0.2.1"), ip_address("192.0.2.2")}
            assert await resolver.resolve("six.test") == (ip_address("2001:db8::1"),)
            assert len(await resolver.resolve("alias.test")) == 2
            assert server.queries["two.test.", "AAAA"] == 0

    run(test)


def test_one_query_serves_concurrent_and_later_lookups_of_a_name() -> None:
    async def test() -> None:
        async with name_server(ZONE) as server:
            resolver = Resolver([server.place])
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(resolver.resolve, "two.test")
            await resolver.resolve("two.test")
            assert server.queries == {("two.test.", "A"): 1}

    run(test)


def test_an_expired_answer_is_queried_again() -> None:
    async def test() -> None:
        async with name_server(ZONE) as server:
            resolver = Resolver([server.place])
            await resolver.resolve("two.test")
            clock.jump(max(300, MIN_TTL_SECONDS) + 1)
            await resolver.resolve("two.test")
            assert server.queries == {("two.test.", "A"): 2}

    clock = trio.testing.MockClock(rate=1)
    trio.run(test, clock=clock)


@pytest.mark.parametrize(
    ("host", "settings", "reason", "transient"),
    [
        ("none.test", {}, "the name does not exist (NXDOMAIN)", False),
        ("mail.test", {}, "the name has no address", False),
        ("two.test", {"failing": dns.rcode.SERVFAIL}, "the resolvers failed (SERVFAIL)", True),
        ("two.test", {"failing": dns.rcode.REFUSED}, "the resolvers failed (SERVFAIL)", True),
        ("two.test", {"silent": True}, "no resolver answered in time", True),
        ("two.test", {"garbled": True}, None, True),
    ],
)
def test_a_failure_has_a_reason_and_is_cached(
    host: str, settings: dict[str, object], reason: str | None, transient: bool
) -> None:
    async def test() -> None:
        async with name_server(ZONE, **settings) as server:  # type: ignore[arg-type]
            resolver = Resolver([server.place], seconds=0.4)
            outcome, found, passing = await _reason(resolver, host)
            assert (outcome, passing) == (Outcome.DNS_ERROR, transient)
            assert reason in (found, None)
            asked = server.queries.total()
            await _reason(resolver, host)
            assert server.queries.total() == asked

    run(test)


def test_the_second_resolver_is_queried_when_the_first_fails() -> None:
    async def test() -> None:
        async with name_server(ZONE, failing=dns.rcode.SERVFAIL) as bad, name_server(ZONE) as good:
            assert len(await Resolver([bad.place, good.place]).resolve("two.test")) == 2

    run(test)


def test_a_lookup_that_waited_for_a_cancelled_one_queries_itself() -> None:
    async def test() -> None:
        async with name_server(ZONE, silent=True) as server:
            resolver = Resolver([server.place], seconds=0.3)
            async with trio.open_nursery() as nursery:
                first = await nursery.start(_cancellable, resolver)
                nursery.start_soon(_expect_no_answer, resolver)
                await trio.testing.wait_all_tasks_blocked()
                first.cancel()

    run(test)


async def _cancellable(resolver: Resolver, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await resolver.resolve("two.test")


async def _expect_no_answer(resolver: Resolver) -> None:
    assert (await _reason(resolver, "two.test"))[1] == "no resolver answered in time"


def test_an_address_needs_no_resolver() -> None:
    async def test() -> None:
        assert await Resolver(["127.0.0.1:1"]).resolve("192.0.2.7") == (ip_address("192.0.2.7"),)

    run(test)


@pytest.mark.parametrize(
    "bad",
    [
        b"nameserver localhost",
        b"nameserver 127.0.0.53,",
        b"nameserver 127.0.0.53:5353",
        b"search a..b",
        b"domain " + b"a" * 64,
        b"search \xff\xfe..example",
    ],
)
def test_a_bad_line_of_resolv_conf_is_skipped_with_a_warning_and_the_file_read_once(
    bad: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_bytes(b"# made by hand \xe9\n" + bad + b"\nnameserver 192.0.2.53\noptions edns0 trust-ad ndots:x\n")
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(conf))

    async def test() -> None:
        for _ in range(2):
            assert await Resolver().resolve("192.0.2.7") == (ip_address("192.0.2.7"),)
            conf.write_text("nameserver neither\n", encoding="utf-8")  # a batch does not look

    run(test)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith("resolv_conf.line_skipped")
    assert system_resolv_conf(str(conf)).splitlines()[1:] == ["nameserver 192.0.2.53", "options edns0 trust-ad ndots:x"]


@pytest.mark.parametrize("text", [None, "", "nameserver\n", "nameserver dns.example\n"])
def test_without_a_resolver_in_resolv_conf_names_fail_and_addresses_work(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(resolve, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    if text is not None:
        (tmp_path / "resolv.conf").write_text(text, encoding="utf-8")

    async def test() -> None:
        assert (await _reason(Resolver(), "two.test"))[0] is Outcome.DNS_ERROR
        assert await Resolver().resolve("192.0.2.7") == (ip_address("192.0.2.7"),)

    run(test)
    assert "names resolve only by --nameserver" in caplog.records[-1].getMessage()
