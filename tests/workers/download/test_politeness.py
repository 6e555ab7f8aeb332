"""The answers of a host and the news from other workers decide which links are fetched."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dataset.pictures.outcomes import Outcome
from tracker.protocol.session import DownloadBeat
from workers.download.host_rests import HostRests
from workers.download.politeness import GIVE_UP_RESTS, Politeness
from workers.fetching.fetch import Failure, Fetched
from workers.fetching.policy import FetchPolicy

NOW = datetime(2024, 1, 1, tzinfo=UTC)
OUTCOMES = {403: Outcome.FORBIDDEN, 404: Outcome.NOT_FOUND, 429: Outcome.RATE_LIMITED, 503: Outcome.SERVER_ERROR}


@dataclass(frozen=True, slots=True)
class Place:
    url: str


def places(host: str, n: int) -> list[Place]:
    return [Place(f"http://{host}/{i}") for i in range(n)]


def answered(link: Place, status: int, *, url: str | None = None, wish: float | None = None) -> Failure:
    outcome = OUTCOMES[status]
    return Failure(outcome, "said", outcome != Outcome.FORBIDDEN, status, None, url or link.url, 0.1, wish)


def silent(link: Place) -> Failure:
    return Failure(Outcome.TIMEOUT, "silence", True, None, None, link.url, 20.0)


def fetched(link: Place) -> Fetched:
    return Fetched(b"", 200, None, link.url, 0.1)


def news(
    rests: dict[str, tuple[float, int]] | None = None,
    probes: dict[str, Literal["free", "probe"] | float] | None = None,
) -> DownloadBeat:
    return DownloadBeat("active", 0, NOW, rests, probes)


def take(politeness: Politeness[Place], now: float) -> list[Place]:
    taken = []
    while (link := politeness.queue.take(now)) is not None:
        taken.append(link)
    return taken


def test_a_host_gets_one_link_until_it_has_answered() -> None:
    politeness = Politeness(places("a.test", 6), FetchPolicy(per_host=4), HostRests())
    (first,) = take(politeness, 0.0)
    politeness.record_answer(first, fetched(first), 0.0)
    politeness.queue.done(first)
    assert len(take(politeness, 0.0)) == 4


def test_the_links_of_a_refusing_host_are_kept_for_later_and_the_refusal_is_reported() -> None:
    rests = HostRests()
    urged: list[bool] = []
    rests.on_urgent = lambda: urged.append(True)
    politeness = Politeness([*places("a.test", 5), *places("b.test", 1)], FetchPolicy(), rests)
    first = next(link for link in take(politeness, 0.0) if "a.test" in link.url)
    skipped = politeness.record_answer(first, answered(first, 429, wish=100.0), 0.0)
    assert len(skipped) == 4
    assert all(one.later_seconds is not None and 100 <= one.later_seconds <= 160 for one in skipped)
    assert len(politeness.queue) == 0
    assert urged
    assert rests.take_report().to_json() == {"refused": {"a.test": [1, 100.0]}, "well": [], "probes": []}
    assert (len(politeness.asked), len(politeness.refused)) == (1, 1)


def test_a_single_403_is_not_a_refusal_but_many_in_a_row_are() -> None:
    rests = HostRests()
    politeness = Politeness(places("a.test", 20), FetchPolicy(per_host=1, host_failures=3), rests)
    for n, status in enumerate([403, 403, 404, 403, 403, 403]):
        (link,) = take(politeness, 0.0)
        skipped = politeness.record_answer(link, answered(link, status), 0.0)
        politeness.queue.done(link)
        assert len(skipped) == (14 if n == 5 else 0)
    assert list(rests.take_report().refused) == ["a.test"]


def test_network_failures_are_not_reported() -> None:
    rests = HostRests()
    politeness = Politeness(places("a.test", 10), FetchPolicy(host_failures=3), rests)
    skipped = []
    for _ in range(3):
        (link,) = take(politeness, 0.0)
        skipped = politeness.record_answer(link, silent(link), 0.0)
        politeness.queue.done(link)
    assert len(skipped) == 7
    assert {one.failure.outcome for one in skipped if one.failure} == {Outcome.TIMEOUT}
    assert rests.take_report().refused == {}


def test_the_refusing_host_rests_not_the_one_that_redirected_to_it() -> None:
    rests = HostRests()
    politeness = Politeness([*places("a.test", 3), *places("b.test", 3)], FetchPolicy(), rests)
    first = next(link for link in take(politeness, 0.0) if "a.test" in link.url)
    skipped = politeness.record_answer(first, answered(first, 503, url="http://b.test/x"), 0.0)
    assert {one.link.url.split("/")[2] for one in skipped} == {"b.test"}
    assert list(rests.take_report().refused) == ["b.test"]
    assert "a.test" in politeness.queue


def test_after_a_short_rest_the_probe_is_requested() -> None:
    rests = HostRests(grace_seconds=20.0)
    politeness = Politeness(places("a.test", 3), FetchPolicy(per_host=2), rests)
    rests.apply_news(news({"a.test": (10.0, 1)}), 0.0)
    assert politeness.apply_news(None, 0.0) == []
    assert take(politeness, 0.0) == []
    assert politeness.queue.seconds_to_wait(0.0) == 10.0
    assert take(politeness, 10.0) == []
    assert rests.take_report().probes == ["a.test"]
    rests.apply_news(news(probes={"a.test": "probe"}), 11.0)
    politeness.apply_news(["a.test"], 11.0)
    (link,) = take(politeness, 11.0)
    politeness.record_answer(link, fetched(link), 11.5)
    politeness.queue.done(link)
    assert rests.take_report().well == ["a.test"]
    assert len(take(politeness, 11.5)) == 2


def test_other_workers_wait_for_the_one_that_probes() -> None:
    rests = HostRests()
    politeness = Politeness(places("a.test", 3), FetchPolicy(), rests)
    rests.apply_news(news({"a.test": (0.0, 1)}), 0.0)
    take(politeness, 1.0)
    rests.apply_news(news(probes={"a.test": 15.0}), 1.0)
    politeness.apply_news(["a.test"], 1.0)
    assert take(politeness, 15.0) == []
    rests.apply_news(news({"a.test": (0.0, 0)}), 15.5)
    politeness.apply_news(["a.test"], 15.5)
    assert len(take(politeness, 15.5)) == 1


def test_after_a_refused_probe_the_other_links_are_kept_for_later() -> None:
    rests = HostRests()
    politeness = Politeness(places("a.test", 3), FetchPolicy(), rests)
    rests.apply_news(news({"a.test": (0.0, 1)}), 0.0)
    take(politeness, 1.0)
    rests.take_report()
    rests.apply_news(news(probes={"a.test": "probe"}), 1.0)
    politeness.apply_news(["a.test"], 1.0)
    (link,) = take(politeness, 1.0)
    assert len(politeness.record_answer(link, answered(link, 403), 1.0)) == 2
    assert list(rests.take_report().refused) == ["a.test"]


def test_a_probe_that_was_not_used_in_time_is_requested_again() -> None:
    rests = HostRests(grace_seconds=20.0)
    rests.apply_news(news({"a.test": (0.0, 1)}), 0.0)
    rests.seconds_to_wait("a.test", 1.0)
    rests.apply_news(news(probes={"a.test": "probe"}), 1.0)
    assert rests.seconds_to_wait("a.test", 20.0) == 0.0
    assert rests.seconds_to_wait("a.test", 22.0) > 0.0
    assert rests.take_report().probes == ["a.test"]


def test_a_host_that_never_stops_refusing_is_given_up() -> None:
    rests = HostRests()
    politeness = Politeness(places("a.test", 3), FetchPolicy(), rests)
    rests.apply_news(news({"a.test": (3600.0, GIVE_UP_RESTS)}), 0.0)
    skipped = politeness.apply_news(None, 0.0)
    assert [one.failure.outcome for one in skipped if one.failure] == [Outcome.RATE_LIMITED] * 3


def test_a_block_ends_the_waiting_links_of_its_host() -> None:
    rests = HostRests()
    politeness = Politeness([*places("cdn.a.test", 3), *places("b.test", 1)], FetchPolicy(), rests)
    rests.apply_blocks(1, ["a.test"], [])
    skipped = politeness.apply_news(None, 0.0)
    assert [one.failure.outcome for one in skipped if one.failure] == [Outcome.BLOCKED] * 3
    assert len(take(politeness, 0.0)) == 1


def test_the_report_of_a_failed_beat_is_sent_again_with_newer_refusals() -> None:
    rests = HostRests()
    rests.record_refusal("a.test", 0.0, 60.0, 5.0)
    report = rests.take_report()
    rests.record_refusal("a.test", 1.0, 60.0, None)
    rests.restore_report(report)
    assert rests.take_report().refused == {"a.test": (2, 5.0)}


def test_a_report_has_the_worst_hundred_hosts_and_the_next_one_the_others() -> None:
    rests = HostRests()
    for n in range(150):
        for _ in range(1 + n % 2):
            rests.record_refusal(f"h{n}.test", 0.0, 60.0, None)
    first, second = rests.take_report().refused, rests.take_report().refused
    assert (len(first), len(second)) == (100, 50)
    assert sum(n == 2 for n, _ in first.values()) == 75


def test_a_rest_is_forgotten_long_after_its_end() -> None:
    rests = HostRests(forget_seconds=100.0)
    rests.apply_news(news({"a.test": (10.0, 1)}), 0.0)
    assert rests.seconds_to_wait("a.test", 109.0) > 0
    assert rests.seconds_to_wait("a.test", 111.0) == 0.0
