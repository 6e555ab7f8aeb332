"""Links of one host are spread over the batch, with a limit on concurrent ones."""

import math
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dataset.candidates.urls import host_of
from workers.download.host_queue import HostQueue


@dataclass(frozen=True, slots=True)
class Place:
    url: str


def test_the_links_of_a_host_are_spread_evenly() -> None:
    links = [Place(f"http://big.test/{n}") for n in range(100)]
    links += [Place(f"http://small{n}.test/") for n in range(900)]
    queue = HostQueue(links, per_host=100)
    order = []
    while (link := queue.take(0.0)) is not None:
        order.append(host_of(link.url) == "big.test")
    tenths = [sum(order[start : start + 100]) for start in range(0, 1_000, 100)]
    assert min(tenths) >= 5
    assert max(tenths) <= 15


def test_all_spellings_of_a_host_share_its_limit() -> None:
    spellings = [
        "https://bücher.example/1.jpg",
        "https://xn--bcher-kva.example/2.jpg",
        "HTTP://BÜCHER.example.:8080/3.jpg",
        " https:\\\\bu\u0308cher。example\\4.jpg",
        "https://b%C3%BCcher.example/5.jpg",
    ]
    addresses = ["http://[2001:db8::1]/1.jpg", "http://[2001:DB8:0:0::0001]:8080/2.jpg"]
    queue = HostQueue(map(Place, [*spellings, *addresses]), per_host=1, max_failures=2)
    assert sorted(queue.hosts()) == ["2001:db8::1", "xn--bcher-kva.example"]
    failed = 0
    while (link := queue.take(0.0)) is not None:
        queue.done(link)
        failed += "cher" in link.url
        queue.failed(link)
    assert failed == 2  # the other three are given up


def test_a_busy_host_does_not_delay_the_others() -> None:
    links = [Place("http://slow.test/1"), Place("http://slow.test/2"), Place("http://slow.test/3")]
    queue = HostQueue([*links, Place("http://quick.test/")], per_host=2)
    taken = [link for link in (queue.take(0.0) for _ in range(4)) if link is not None]
    assert Counter(host_of(link.url) for link in taken) == {"slow.test": 2, "quick.test": 1}
    assert len(queue) == 1
    queue.done(next(link for link in taken if "slow" in link.url))
    assert queue.take(0.0) == links[2]
    assert queue.take(0.0) is None


@given(
    st.lists(st.sampled_from(["http://a/", "http://A:80/x", "https://b/", "nonsense", "http://["])), st.integers(1, 3)
)
def test_every_link_is_taken_once_and_no_host_exceeds_its_limit(urls: list[str], per_host: int) -> None:
    queue = HostQueue([Place(url) for url in urls], per_host)
    taken: list[Place] = []
    under_way: list[Place] = []
    while len(queue) or under_way:
        link = queue.take(0.0)
        if link is None:
            queue.done(under_way.pop(0))
            continue
        taken.append(link)
        under_way.append(link)
        assert max(Counter(host_of(place.url) for place in under_way).values()) <= per_host
    assert Counter(link.url for link in taken) == Counter(urls)


def _all(queue: HostQueue[Place], now: float) -> list[str]:
    taken = []
    while (link := queue.take(now)) is not None:
        taken.append(link.url)
        queue.done(link)
    return taken


def test_a_resting_host_does_not_delay_the_others() -> None:
    links = [Place("http://busy.test/1"), Place("http://busy.test/2"), Place("http://quick.test/")]
    queue = HostQueue(links, per_host=2)
    queue.rest(links[0], 5.0)
    assert _all(queue, 4.9) == ["http://quick.test/"]
    assert queue.seconds_to_wait(4.0) == 1.0
    assert _all(queue, 5.0) == ["http://busy.test/1", "http://busy.test/2"]
    assert queue.seconds_to_wait(5.0) == math.inf


def test_two_requests_to_one_host_are_never_closer_than_the_spacing() -> None:
    queue = HostQueue([Place(f"http://one.test/{n}") for n in range(3)], per_host=3, spacing_seconds=1.0)
    assert [len(_all(queue, now)) for now in (0.0, 0.9, 1.0, 1.5, 2.0, 9.0)] == [1, 0, 1, 0, 1, 0]


def test_a_host_that_keeps_failing_is_given_up_with_its_waiting_links() -> None:
    links = [Place(f"http://dead.test/{n}") for n in range(6)] + [Place("http://quick.test/")]
    queue = HostQueue(links, per_host=6, max_failures=3)
    assert [len(queue.failed(link)) for link in links[:2]] == [0, 0]
    queue.answered(links[0])
    assert [len(queue.failed(link)) for link in links[:3]] == [0, 0, 6]
    assert _all(queue, 0.0) == ["http://quick.test/"]
    assert len(queue) == 0
