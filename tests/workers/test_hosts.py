"""Links of one host are spread over the batch, and bounded at once."""

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from workers.hosts import HostQueue, host_of


@dataclass(frozen=True, slots=True)
class Place:
    url: str


def test_one_hosts_links_stand_evenly_among_the_others() -> None:
    links = [Place(f"http://big.test/{n}") for n in range(100)]
    links += [Place(f"http://small{n}.test/") for n in range(900)]
    queue = HostQueue(links, per_host=100)
    order = []
    while (link := queue.take()) is not None:
        order.append(host_of(link.url) == "big.test")
    tenths = [sum(order[start : start + 100]) for start in range(0, 1_000, 100)]
    assert min(tenths) >= 5
    assert max(tenths) <= 15


def test_a_full_host_does_not_hold_up_the_others() -> None:
    links = [Place("http://slow.test/1"), Place("http://slow.test/2"), Place("http://slow.test/3")]
    queue = HostQueue([*links, Place("http://quick.test/")], per_host=2)
    taken = [link for link in (queue.take() for _ in range(4)) if link is not None]
    assert Counter(host_of(link.url) for link in taken) == {"slow.test": 2, "quick.test": 1}
    assert len(queue) == 1
    queue.done(next(link for link in taken if "slow" in link.url))
    assert queue.take() == links[2]
    assert queue.take() is None


@given(
    st.lists(st.sampled_from(["http://a/", "http://A:80/x", "https://b/", "nonsense", "http://["])), st.integers(1, 3)
)
def test_every_link_is_handed_out_once_and_no_host_is_over_its_bound(urls: list[str], per_host: int) -> None:
    queue = HostQueue([Place(url) for url in urls], per_host)
    taken: list[Place] = []
    under_way: list[Place] = []
    while len(queue) or under_way:
        link = queue.take()
        if link is None:
            queue.done(under_way.pop(0))
            continue
        taken.append(link)
        under_way.append(link)
        assert max(Counter(host_of(place.url) for place in under_way).values()) <= per_host
    assert Counter(link.url for link in taken) == Counter(urls)
