"""Twenty workers and hosts that refuse: together they send few more requests than one worker.

The tracker and the workers' decisions (queue, politeness, rests, session) are real; the web and the clock are the
test's own. The test moves the database's clock by making its timestamps older.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from dataset.candidates.urls import host_of
from dataset.pictures.outcomes import Outcome
from tracker.accounts.blocks import block
from tracker.database.database import Connection
from tracker.protocol.session import Session
from workers.download.host_rests import HostRests
from workers.download.politeness import Politeness
from workers.fetching.fetch import Failure
from workers.fetching.policy import FetchPolicy
from workers.runtime.loop import LEAST_BEAT_SECONDS

BEAT_SECONDS = 15.0  # a quarter of the lease
BATCH_SECONDS = 300.0
TICK_SECONDS = 5.0
REFUSING = [f"busy{n}.test" for n in range(10)]
LINKS_OF_EACH = 3  # in a batch of 60 links, so half of the batch is of hosts that refuse


@dataclass(frozen=True, slots=True)
class Place:
    url: str


@dataclass
class Worker:
    session: Session | None
    asked: Counter[str]
    random: random.Random
    rests: HostRests = field(default_factory=lambda: HostRests(forget_seconds=21_600.0, grace_seconds=20.0))
    batch_ends: float = 0.0
    beats_at: float = 0.0
    beaten_at: float = -100.0
    politeness: Politeness[Place] = field(init=False)

    def start(self) -> None:
        """Start at a random point within a batch and between two heartbeats."""
        self.draw(0.0)
        for _ in range(int(self.random.uniform(0, BATCH_SECONDS) / TICK_SECONDS)):
            self.politeness.queue.take(0.0)
        self.batch_ends = len(self.politeness.queue) * TICK_SECONDS
        self.beats_at = self.random.uniform(0, BEAT_SECONDS)
        self.rests.on_urgent = self.urge

    def urge(self) -> None:
        self.beats_at = min(self.beats_at, self.beaten_at + LEAST_BEAT_SECONDS)

    def draw(self, now: float) -> None:
        links = [Place(f"http://{host}/{now}-{n}") for host in REFUSING for n in range(LINKS_OF_EACH)]
        links += [Place(f"http://well{n}.test/") for n in range(int(BATCH_SECONDS / TICK_SECONDS) - len(links))]
        self.politeness = Politeness(links, FetchPolicy(), self.rests)
        self.batch_ends = now + BATCH_SECONDS
        self.politeness.apply_news(None, now)
        self.rests.on_news = lambda hosts: self.apply_news(hosts, now)

    def apply_news(self, hosts: Sequence[str] | None, now: float) -> None:
        self.politeness.apply_news(hosts, now)

    def beat(self, now: float) -> None:
        self.beaten_at, self.beats_at = now, now + BEAT_SECONDS
        if self.session is None:
            return
        self.rests.on_news = lambda hosts: self.apply_news(hosts, now)
        news = self.session.heartbeat_download(0, self.rests.since, self.rests.take_report().to_json())
        if news.blocks != self.rests.blocks_version:
            self.rests.apply_blocks(*self.session.blocks(self.rests.blocks_version))
        self.rests.apply_news(news, now)

    def work(self, now: float) -> None:
        """Process one link per tick."""
        if now >= self.batch_ends:
            self.draw(now)
        link = self.politeness.queue.take(now)
        if link is None:
            return
        host = host_of(link.url)
        self.asked[host] += 1
        outcome, status = (Outcome.RATE_LIMITED, 429) if host in REFUSING else (Outcome.NOT_FOUND, 404)
        answer = Failure(outcome, "said", status == 429, status, None, link.url, 0.1, None)
        self.politeness.record_answer(link, answer, now)
        self.politeness.queue.done(link)


class Simulation:
    def __init__(self, admin: Connection, sessions: Sequence[Session | None]) -> None:
        self._admin = admin
        self.asked: Counter[str] = Counter()
        self.workers = [Worker(one, self.asked, random.Random(n)) for n, one in enumerate(sessions)]
        for worker in self.workers:
            worker.start()
        self.now = 0.0
        self._began = time.monotonic()
        self._moved = 0.0

    def run(self, seconds: float) -> int:
        """Let this much time pass; return how many requests the refusing hosts got in it."""
        before = self.asked.copy()
        ends = self.now + seconds
        while self.now < ends:
            self.now += TICK_SECONDS
            for worker in self.workers:
                worker.work(self.now)
            due = [worker for worker in self.workers if worker.beats_at <= self.now]
            if due:
                self._move_the_clock()
            for worker in due:
                worker.beat(self.now)
        return sum(self.asked[host] - before[host] for host in REFUSING)

    def _move_the_clock(self) -> None:
        seconds = self.now - (time.monotonic() - self._began) - self._moved
        self._moved += seconds
        self._admin.execute(
            "UPDATE tracker.resting SET until = until - make_interval(secs => %(s)s), "
            "changed_at = changed_at - make_interval(secs => %(s)s), "
            "probe_until = probe_until - make_interval(secs => %(s)s)",
            {"s": seconds},
        )
        for worker in self.workers:
            if worker.rests.since is not None:
                worker.rests.since -= timedelta(seconds=seconds)


@pytest.mark.parametrize("minutes", [60])
def test_twenty_workers_send_a_refusing_host_at_most_one_and_a_half_times_the_requests_of_one(
    admin: Connection, register: Callable[[str], Session], minutes: int
) -> None:
    one = Simulation(admin, [register("download")]).run(60.0 * minutes)
    admin.execute("TRUNCATE tracker.resting")
    twenty = Simulation(admin, [register("download") for _ in range(20)])
    asked = twenty.run(60.0 * minutes)
    print(f"asked by one {one}, by twenty {asked}", {h: twenty.asked[h] for h in REFUSING})
    assert one >= 4 * len(REFUSING)  # it does probe
    assert asked <= 1.5 * one
    assert all(twenty.asked[host] >= 3 for host in REFUSING)  # and so do they
    well = sum(n for host, n in twenty.asked.items() if host not in REFUSING)
    assert well > 0.45 * 20 * 60 * minutes / TICK_SECONDS  # the others' links did not wait

    block(admin, ["busy0.test", "well1.test"], "they asked")
    twenty.run(BEAT_SECONDS)
    before = (twenty.asked["busy0.test"], twenty.asked["well1.test"], twenty.asked["well2.test"])
    twenty.run(2 * BATCH_SECONDS)
    assert (twenty.asked["busy0.test"], twenty.asked["well1.test"]) == before[:2]
    assert twenty.asked["well2.test"] > before[2]


def test_twenty_isolated_workers_would_send_twenty_times_the_requests(admin: Connection) -> None:
    alone = Simulation(admin, [None]).run(900.0)
    assert Simulation(admin, [None] * 20).run(900.0) > 10 * alone
