"""The faults with their frequencies, and the object that injects them.

A lasting fault (a stopped worker, a failing store) is ended by a later call of `tick`, so several can overlap.
"""

import heapq
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.bouncer import Bouncer
from tests.chaos.cutting_proxy import Cut, CuttingProxy
from tests.chaos.machine import Disk, Server
from tests.chaos.swarm import ChaosSwarm

STORE_SECONDS = (0.5, 2.0)
MOST_ARMED = 3
ILLNESSES = ("write EIO", "publish EIO", "read EIO", "publish ENOSPC", "write EROFS")
# What is committed by its own end, and what stands within ingest's transaction.
COMMITTED = (
    b"tracker.complete_extract",
    b"tracker.complete_download",
    b"tracker.complete_filter",
    b"tracker.draw",
    b"tracker.claim",
    b"tracker.heartbeat",
    b"tracker.bloom_hold",
    b"COMMIT",
)
NEEDLES = (*COMMITTED, b"tracker.lock_lease", b"PGCOPY", b"tracker.complete_ingest")


class Fault(StrEnum):
    KILLED = "worker killed"
    STOPPED = "worker stopped past its lease, then continued"
    TERMINATED = "worker asked to stop"
    CUT = "connection cut at any moment"
    CUT_REQUEST = "connection cut in the middle of a request"
    CUT_FLIGHT = "connection cut while a request was under way"
    CUT_REPLY = "connection cut after the commit, before the reply"
    SILENCE = "connection silent, then cut"
    STORE_FAILS = "store fails"
    STORE_FULL = "store full"
    POSTGRES = "Postgres crashed and restarted"
    BOUNCER = "pgbouncer killed and restarted"


# In a thousand. Those that stop everybody are few: between them work must get done for faults to hit.
OFTEN = {
    Fault.KILLED: 310,
    Fault.STOPPED: 110,
    Fault.TERMINATED: 110,
    Fault.CUT: 100,
    Fault.CUT_REQUEST: 70,
    Fault.CUT_FLIGHT: 70,
    Fault.CUT_REPLY: 100,
    Fault.SILENCE: 20,
    Fault.STORE_FAILS: 50,
    Fault.STORE_FULL: 20,
    Fault.POSTGRES: 20,
    Fault.BOUNCER: 20,
}
CUTS = {
    Fault.CUT_REQUEST: "request",
    Fault.CUT_FLIGHT: "flight",
    Fault.CUT_REPLY: "reply",
    Fault.SILENCE: "silence",
}


@dataclass(slots=True)
class Machine:
    """What can be broken; None means that this machine lacks it or may not break it."""

    server: Server
    bouncer: Bouncer | None
    disk: Disk | None
    proxy: CuttingProxy
    control: Path


@dataclass(slots=True)
class Injector:
    machine: Machine
    swarm: ChaosSwarm
    choice: random.Random
    lease_seconds: float
    done: Counter[str] = field(default_factory=Counter)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _held: set[int] = field(default_factory=set)
    """Workers that are stopped now."""
    _store_is_ill: bool = False
    _counted: int = 0

    @property
    def total(self) -> int:
        return self.done.total() + self.machine.proxy.done.total()

    def counts(self) -> dict[str, int]:
        """Return the injected faults by kind."""
        found = Counter(self.done)
        for (where, _), n in self.machine.proxy.done.items():
            found[next(fault for fault, name in CUTS.items() if name == where)] += n
        return {str(fault): found[fault] for fault in Fault}

    def plan(self, n: int) -> list[Fault]:
        """Return a shuffled plan of about `n` faults that are possible here, each kind at least once."""
        able = {fault: often for fault, often in OFTEN.items() if self._able(fault)}
        whole = sum(able.values())
        plan = [fault for fault, often in able.items() for _ in range(max(1, round(n * often / whole)))]
        self.choice.shuffle(plan)
        return plan

    def inject(self, fault: Fault) -> bool:
        """Inject a fault; return False if it is impossible now and should be tried later."""
        match fault:
            case Fault.KILLED | Fault.TERMINATED:
                number = signal.SIGKILL if fault is Fault.KILLED else signal.SIGTERM
                return self._counting(fault, self._hit(number) is not None)
            case Fault.STOPPED:
                return self._counting(fault, self._stop_one())
            case Fault.CUT:
                return self._counting(fault, self.machine.proxy.cut_any(self.choice))
            case Fault.CUT_REQUEST | Fault.CUT_FLIGHT | Fault.CUT_REPLY | Fault.SILENCE:
                if self.machine.proxy.armed >= MOST_ARMED:
                    return False
                needle = self.choice.choice(COMMITTED if fault is Fault.CUT_REPLY else NEEDLES)
                self.machine.proxy.arm(Cut(CUTS[fault], needle))
                return True  # the proxy counts it when it happens
            case Fault.STORE_FAILS | Fault.STORE_FULL:
                return self._counting(fault, self._sicken(fault))
            case Fault.POSTGRES:
                self.machine.server.crash()
            case Fault.BOUNCER:
                assert self.machine.bouncer is not None
                self.machine.bouncer.restart()
        return self._counting(fault, True)

    def tick(self) -> None:
        """End the faults whose time is up."""
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def heal(self) -> None:
        """End every fault now."""
        self.machine.proxy.disarm()
        while self._due:
            heapq.heappop(self._due)[2]()

    def _able(self, fault: Fault) -> bool:
        if fault is Fault.BOUNCER:
            return self.machine.bouncer is not None
        return fault is not Fault.STORE_FULL or self.machine.disk is not None

    def _counting(self, fault: Fault, happened: bool) -> bool:
        self.done[fault] += happened
        return happened

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self._counted += 1
        heapq.heappush(self._due, (time.monotonic() + seconds, self._counted, end))

    def _hit(self, number: signal.Signals) -> int | None:
        victims = sorted(pid for pid in self.swarm.living if pid not in self._held)
        if not victims:
            return None
        victim = self.choice.choice(victims)
        self.swarm.signal(victim, number)
        return victim

    def _stop_one(self) -> bool:
        if len(self._held) >= 2 or (victim := self._hit(signal.SIGSTOP)) is None:
            return False
        self._held.add(victim)

        def go_on() -> None:
            self._held.discard(victim)
            self.swarm.signal(victim, signal.SIGCONT)

        self._later(self.lease_seconds * self.choice.uniform(1.05, 1.5), go_on)
        return True

    def _sicken(self, fault: Fault) -> bool:
        if self._store_is_ill:
            return False
        self._store_is_ill = True
        disk = self.machine.disk if fault is Fault.STORE_FULL else None
        if disk:
            disk.fill()
        else:
            self.machine.control.write_text(self.choice.choice(ILLNESSES))

        def mend() -> None:
            self._store_is_ill = False
            disk.empty() if disk else self.machine.control.unlink()

        self._later(self.choice.uniform(*STORE_SECONDS), mend)
        return True
