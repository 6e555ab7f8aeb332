"""Bodies stay within their limits, each and together."""

import gzip

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from dataset.pictures.outcomes import Outcome
from tests.workers.fetching.odd_web import run
from workers.fetching.body import FREE_BYTES, MAX_MEMBERS, Decoder, MemoryBudget
from workers.fetching.failure import LinkFailed

MEGABYTE = 1 << 20


@example(body=b"", size=1, coding=b"gzip")
@given(st.binary(max_size=3_000), st.integers(1, 700), st.sampled_from([b"", b"gzip", b"x-gzip", b"none"]))
def test_a_body_is_the_same_in_pieces_of_any_size(body: bytes, size: int, coding: bytes) -> None:
    sent = gzip.compress(body) if b"gzip" in coding else body
    decoder = Decoder(coding, MEGABYTE)
    for start in range(0, len(sent), size):
        decoder.feed(sent[start : start + size])
    assert decoder.finish() == body


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    st.sampled_from([b"", b"\x1f", bytes(512), b"\x1f\x00", b"padding"]),
    st.integers(1, 80),
)
def test_all_members_of_a_gzip_body_are_decoded(bodies: list[bytes], padding: bytes, size: int) -> None:
    sent = b"".join(map(gzip.compress, bodies)) + padding
    decoder = Decoder(b"gzip", MEGABYTE)
    for start in range(0, len(sent), size):
        decoder.feed(sent[start : start + size])
    assert decoder.finish() == b"".join(bodies)


@given(st.integers(1, 17), st.integers(1, 50))
def test_a_cut_gzip_member_is_truncated(cut: int, size: int) -> None:
    sent = (gzip.compress(b"one") + gzip.compress(b"two"))[:-cut]
    decoder = Decoder(b"gzip", MEGABYTE)
    for start in range(0, len(sent), size):
        decoder.feed(sent[start : start + size])
    with pytest.raises(LinkFailed) as failed:
        decoder.finish()
    assert failed.value.outcome is Outcome.TRUNCATED


def test_a_damaged_gzip_member_and_too_many_of_them_are_bad_responses() -> None:
    damaged = gzip.compress(b"one") + b"\x1f\x8b" + b"damage" * 9
    for sent in (damaged, gzip.compress(b"") * (MAX_MEMBERS + 1)):
        with pytest.raises(LinkFailed) as failed:
            Decoder(b"gzip", MEGABYTE).feed(sent)
        assert failed.value.outcome is Outcome.BAD_RESPONSE


def test_a_bomb_costs_no_more_than_the_limit() -> None:
    decoder = Decoder(b"gzip", MEGABYTE)
    with pytest.raises(LinkFailed) as failed:
        decoder.feed(gzip.compress(bytes(50 * MEGABYTE)))
    assert failed.value.outcome is Outcome.TOO_LARGE
    assert len(decoder.data) == MEGABYTE + 1
    with pytest.raises(LinkFailed) as failed:
        Decoder(b"gzip", MEGABYTE).feed(gzip.compress(bytes(MEGABYTE)) + gzip.compress(bytes(50 * MEGABYTE)))
    assert failed.value.outcome is Outcome.TOO_LARGE


def test_bodies_get_memory_first_come_first_served() -> None:
    order: list[str] = []

    async def hold(budget: MemoryBudget, name: str, size: int, leave: trio.Event) -> None:
        with budget.share() as share:
            await share.cover(size)
            order.append(name)
            await leave.wait()

    async def test() -> None:
        budget, leave = MemoryBudget(10 * MEGABYTE), trio.Event()
        async with trio.open_nursery() as nursery:
            for name, size in (("a", 8), ("b", 9), ("c", 2)):
                nursery.start_soon(hold, budget, name, size * MEGABYTE, leave)
                await trio.testing.wait_all_tasks_blocked()
            assert order == ["a"]  # c would fit, but b came first
            leave.set()
        assert order == ["a", "b", "c"]
        assert budget.held == 0

    run(test)


def test_a_small_body_never_waits_and_a_huge_one_gets_the_whole_budget() -> None:
    async def test() -> None:
        budget = MemoryBudget(MEGABYTE)
        with budget.share() as full, budget.share() as small:
            await full.cover(5 * MEGABYTE)
            assert budget.held == MEGABYTE
            await small.cover(FREE_BYTES)
        assert budget.held == 0

    run(test)


def test_a_cancelled_wait_does_not_block_the_queue() -> None:
    async def test() -> None:
        budget = MemoryBudget(10 * MEGABYTE)
        with budget.share() as first, budget.share() as third:
            await first.cover(6 * MEGABYTE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_give_up, budget)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(third.cover, 2 * MEGABYTE)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.deadline = trio.current_time() + 5
            assert budget.held == 8 * MEGABYTE
        assert budget.held == 0

    run(test)


async def _give_up(budget: MemoryBudget) -> None:
    with trio.move_on_after(0.05), budget.share() as share:
        await share.cover(9 * MEGABYTE)
