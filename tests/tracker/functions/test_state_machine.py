"""Compare the tracker with a model: after calls in any order, late, repeated or by dead workers, every candidate is in
exactly one place.

The model is a dictionary: the place of each candidate, the state of each job, the end of each lease. Hypothesis finds
sequences of verbs; after each, the tables are compared with the model, and the ledger must satisfy its law.

A rule asks Hypothesis for its verb and one number, from which it makes its choices: what a draw takes is the database's
chance, so how many choices there are is not known beforehand, and Hypothesis wants the same from the same sequence.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from tests.tracker.filling import new_run, scalar, set_setting
from tracker.accounts import fleet
from tracker.accounts.audit import audit
from tracker.accounts.controls import set_paused
from tracker.admin.jobs import Choice, choose, discard, retry
from tracker.database.database import Connection, connect, translated
from tracker.errors import LeaseLost, Refused
from tracker.protocol.payload import read_payload
from tracker.seeding.runs import seed

QUEUES = ("extract", "ingest", "download", "filter")
MAX_ATTEMPTS = 2  # of a job
MAX_TRIES = 2  # of a link
SETTINGS = {
    "max_attempts": MAX_ATTEMPTS,
    "max_tries": MAX_TRIES,
    "batch_size": 4,
    "again_seconds": 0,
    "retry_seconds": 0,
    "again_share": 0.5,
    "leaf_rows": 5,
}

SEEDS = st.integers(0, 2**32 - 1)

Link = tuple[int, int]  # pack and row
Place = tuple[str, object]


class Most(Random):
    """Chance at its kindest: the most of every range."""

    def randint(self, a: int, b: int) -> int:
        return b


@dataclass(slots=True)
class Worker:
    worker_id: UUID
    kind: str
    state: str = "active"
    is_silent: bool = False


@dataclass(slots=True)
class Lease:
    """`state`: held, completed or ended."""

    lease: UUID
    job_id: int
    queue: str
    worker: Worker
    request: UUID
    payload: Any
    state: str = "held"


@dataclass(slots=True)
class Job:
    queue: str
    state: str = "ready"
    attempt: int = 0
    held: Lease | None = None


@dataclass(slots=True)
class Model:
    links: dict[Link, Place] = field(default_factory=dict)
    """("pool", attempt), ("again", attempt), ("batch", job) or ("final", outcome)."""
    jobs: dict[int, Job] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    paused: set[str] = field(default_factory=set)
    holder: Worker | None = None
    """Of the one slot of the Bloom filter."""

    def end(self, job: Job, *, state: str, lease: str = "ended") -> None:
        if job.held:
            job.held.state = lease
        job.held, job.state = None, state

    def take_back(self, queue: str) -> None:
        """What silent workers hold is ready, or dead after its last attempt."""
        for job in self.jobs.values():
            if job.queue == queue and job.held and job.held.worker.is_silent:
                self.end(job, state="dead" if job.attempt >= MAX_ATTEMPTS else "ready")

    def give_back(self, worker: Worker) -> None:
        """What a worker holds is ready, without an attempt used up."""
        for job in self.jobs.values():
            if job.held and job.held.worker is worker:
                job.attempt -= 1
                self.end(job, state="ready")
        self.holder = None if self.holder is worker else self.holder

    def ready(self, queue: str) -> list[int]:
        return sorted(number for number, job in self.jobs.items() if job.queue == queue and job.state == "ready")


class Tracker(RuleBasedStateMachine):
    def __init__(self, admin: Connection) -> None:
        super().__init__()
        self.admin = admin
        self.model = Model()
        self.run_id = new_run(admin)
        self.wats = 0
        for name, value in SETTINGS.items():
            set_setting(admin, name, value)
        self.add_wats()
        for kind in QUEUES:
            self.register(kind)
            self.register(kind)
        for queue in QUEUES[:2]:  # something to draw from the beginning
            self.claim_for(next(worker for worker in self.model.workers if worker.kind == queue))
            self.complete_for(self.model.leases[-1], Most())

    def call(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with translated():
            return self.admin.execute(statement.encode(), values).fetchall()

    # Workers come, are silent, live again, and go.

    @rule(kind=st.sampled_from(QUEUES))
    def register(self, kind: str) -> None:
        (row,) = self.call("SELECT worker_id FROM tracker.register(%s, 'host', 1, '1', 3)", kind)
        self.model.workers.append(Worker(row["worker_id"], kind))

    @rule(seed=SEEDS)
    def be_silent(self, seed: int) -> None:
        chance = Random(seed)
        holding = [lease.worker for lease in self.model.leases if lease.state == "held"]
        worker = chance.choice(holding) if holding else self.any_worker(chance)
        worker.is_silent = True
        self.call(
            "UPDATE tracker.worker SET seen_at = now() - interval '1 hour' WHERE worker_id = %s RETURNING 1",
            worker.worker_id,
        )

    @rule(seed=SEEDS, progress=st.integers(0, 3))
    def beat(self, seed: int, progress: int) -> None:
        chance = Random(seed)
        worker = self.any_worker(chance)
        with self.refused(worker.state == "gone"):
            (row,) = self.call("SELECT tracker.heartbeat(%s, %s) AS state", worker.worker_id, progress)
            assert row["state"] == worker.state
            worker.is_silent = False

    @rule(seed=SEEDS)
    def leave(self, seed: int) -> None:
        chance = Random(seed)
        worker = self.any_worker(chance)
        with self.refused(worker.state == "gone"):
            self.call("SELECT tracker.leave(%s)", worker.worker_id)
            self.model.give_back(worker)
            worker.state = "gone"

    @rule(seed=SEEDS, verb=st.sampled_from(("drain", "evict")))
    def send_away(self, seed: int, verb: str) -> None:
        chance = Random(seed)
        if not any(worker.state != "gone" for worker in self.model.workers):
            return
        worker = chance.choice([worker for worker in self.model.workers if worker.state != "gone"])
        found = fleet.find(self.admin, str(worker.worker_id))
        if verb == "drain":
            fleet.drain(self.admin, found)
            worker.state = "draining"
        else:
            fleet.evict(self.admin, found)
            self.model.give_back(worker)
            worker.state = "gone"

    # Work comes, is claimed, and ends.

    @rule()
    def add_wats(self) -> None:
        wats = [f"/wat/{self.wats}", f"/wat/{self.wats + 1}"]
        self.wats += 2
        seed(self.admin, wats, run="test", recipe=None)
        self.learn_jobs()

    @rule(seed=SEEDS, queue=st.sampled_from(QUEUES))
    def claim(self, seed: int, queue: str) -> None:
        chance = Random(seed)
        self.claim_for(self.any_worker(chance, queue))

    @rule(seed=SEEDS, queue=st.sampled_from(QUEUES))
    def work(self, seed: int, queue: str) -> None:
        """Claim and complete, as it goes nearly always."""
        chance = Random(seed)
        if not any(worker.kind == queue and worker.state == "active" for worker in self.model.workers):
            self.register(queue)
        known = len(self.model.leases)
        self.claim_for(next(w for w in self.model.workers if w.kind == queue and w.state == "active"))
        for lease in self.model.leases[known:]:
            self.complete_for(lease, chance)

    @rule(seed=SEEDS, queue=st.sampled_from(("ingest", "download", "download", "filter")))
    def work_on(self, seed: int, queue: str) -> None:
        """Once more, so that it is chosen more often, and towards the end of the flow."""
        self.work(seed, queue)

    @rule(seed=SEEDS)
    def draw_batch(self, seed: int) -> None:
        chance = Random(seed)
        self.claim_for(self.any_worker(chance, "download"))

    def claim_for(self, worker: Worker) -> None:
        queue, request = worker.kind, uuid4()
        with self.refused(worker.state == "gone"):
            if queue == "ingest":
                self.hold_slot(worker)
            rows = self.ask(worker, request)
            if worker.state != "active" or queue in self.model.paused or not self.may_ingest(worker):
                assert rows == []
                return
            worker.is_silent = False  # who asks lives, and takes nothing back from itself
            self.model.take_back(queue)
            waiting = self.model.ready(queue)
            self.grant(worker, request, rows, waiting)

    @rule(seed=SEEDS)
    def ask_again(self, seed: int) -> None:
        """The reply to a claim was lost."""
        chance = Random(seed)
        if not (self.model.leases):
            return
        lease = self.any_lease(chance)
        if lease.worker.state == "gone":
            with pytest.raises(Refused):
                self.ask(lease.worker, lease.request)
        elif lease.state == "held":
            (row,) = self.ask(lease.worker, lease.request)
            assert (row["job_id"], row["lease"]) == (lease.job_id, lease.lease)
        else:
            with pytest.raises(LeaseLost):
                self.ask(lease.worker, lease.request)

    @rule(seed=SEEDS)
    def complete(self, seed: int) -> None:
        """In time, or again after a lost reply, or late: then nothing may come of it."""
        chance = Random(seed)
        if not (self.model.leases):
            return
        self.complete_for(self.any_lease(chance), chance)

    @rule(seed=SEEDS)
    def complete_late(self, seed: int) -> None:
        chance = Random(seed)
        if not any(lease.state == "ended" for lease in self.model.leases):
            return
        late = [lease for lease in self.model.leases if lease.state == "ended"]
        self.complete_for(chance.choice(late), chance)

    def complete_for(self, lease: Lease, chance: Random) -> None:
        result, then = getattr(self, f"result_of_{lease.queue}")(lease, chance)
        with self.lost(lease.state == "ended"):
            self.send(lease, result)
            if lease.state == "held":
                self.model.end(self.model.jobs[lease.job_id], state="done", lease="completed")
                then()
                self.learn_jobs()

    @rule(seed=SEEDS)
    def fail(self, seed: int) -> None:
        chance = Random(seed)
        if not (self.model.leases):
            return
        lease = self.any_lease(chance)
        job = self.model.jobs[lease.job_id]
        with self.lost(lease.state == "ended"):
            (row,) = self.call("SELECT tracker.fail(%s, %s, 'it broke') AS state", lease.job_id, lease.lease)
            if lease.state == "held":
                self.model.end(job, state="dead" if job.attempt >= MAX_ATTEMPTS else "ready")
                assert row["state"] == job.state
            else:
                assert row["state"] == "done"

    @rule(seed=SEEDS)
    def release(self, seed: int) -> None:
        chance = Random(seed)
        if not (self.model.leases):
            return
        lease = self.any_lease(chance)
        job = self.model.jobs[lease.job_id]
        with self.lost(lease.state == "ended"):
            self.call("SELECT tracker.release(%s, %s)", lease.job_id, lease.lease)
            if lease.state == "held":
                job.attempt -= 1
                self.model.end(job, state="ready")

    # The admin.

    @rule(queue=st.sampled_from(QUEUES))
    def pause_or_resume(self, queue: str) -> None:
        """At most one is paused, or soon nothing would go on."""
        chosen = self.model.paused or {queue}
        set_paused(self.admin, sorted(chosen), paused=not self.model.paused)
        self.model.paused = set() if self.model.paused else chosen

    @rule(seed=SEEDS, again=st.booleans())
    def retry_or_discard(self, seed: int, again: bool) -> None:
        chance = Random(seed)
        if not any(job.state == "dead" for job in self.model.jobs.values()):
            return
        dead = sorted(number for number, job in self.model.jobs.items() if job.state == "dead")
        number = chance.choice(dead)
        job, chosen = self.model.jobs[number], choose(self.admin, Choice(ids=(number,)), "retry", ("dead",))
        if again:
            assert retry(self.admin, chosen) == 1
            job.state, job.attempt = "ready", 0
            return
        assert discard(self.admin, chosen) == 1
        job.state = "discarded"
        for link, place in self.model.links.items():
            if place == ("batch", number):
                self.model.links[link] = ("final", "discarded")

    # What must be so at every moment.

    @invariant()
    def every_candidate_is_where_the_model_has_it(self) -> None:
        places: list[tuple[Link, Place]] = []
        for table, place in (("candidate", "pool"), ("again", "again")):
            rows = self.call(f"SELECT pack, pack_row, attempt FROM tracker.{table}")
            places += [((row["pack"], row["pack_row"]), (place, row["attempt"])) for row in rows]
        for row in self.call("SELECT job_id, payload FROM tracker.batch"):
            if self.model.jobs[row["job_id"]].state != "discarded":
                places += [((one.pack, one.pack_row), ("batch", row["job_id"])) for one in read_payload(row["payload"])]
        waiting = {link: place for link, place in self.model.links.items() if place[0] != "final"}
        assert len(places) == len(dict(places))
        assert dict(places) == waiting

    @invariant()
    def the_law_of_the_ledger_holds(self) -> None:
        found = audit(self.admin)
        assert found.differences == []
        data = found.to_json()
        ends = Counter(str(place[1]) for place in self.model.links.values() if place[0] == "final")
        assert data["finished"] == dict(ends)
        assert data["in"] == len(self.model.links)

    @invariant()
    def every_job_is_in_the_models_state(self) -> None:
        rows = self.call("SELECT job_id, state::text, attempt, lease FROM tracker.job")
        there = {row["job_id"]: (row["state"], row["attempt"], row["lease"]) for row in rows}
        for number, job in self.model.jobs.items():
            state, attempt, lease = there[number]
            assert (state, attempt) == (job.state, job.attempt)
            assert job.held is None or job.held.lease == lease
        assert there.keys() == self.model.jobs.keys()

    # How it is asked.

    def any_worker(self, chance: Random, kind: str | None = None) -> Worker:
        return chance.choice([worker for worker in self.model.workers if kind in {None, worker.kind}])

    def any_lease(self, chance: Random) -> Lease:
        """Of two thirds of those that are held, if there are any: else most would be long over."""
        held = [lease for lease in self.model.leases if lease.state == "held"]
        return chance.choice(held * 2 + self.model.leases)

    @contextmanager
    def refused(self, so: bool) -> Iterator[None]:
        if so:
            with pytest.raises(Refused):
                yield
        else:
            yield

    @contextmanager
    def lost(self, so: bool) -> Iterator[None]:
        if so:
            with pytest.raises(LeaseLost):
                yield
        else:
            yield

    def ask(self, worker: Worker, request: UUID) -> list[dict[str, Any]]:
        if worker.kind == "download":
            return self.call("SELECT * FROM tracker.draw(%s, %s)", worker.worker_id, request)
        return self.call("SELECT * FROM tracker.claim(%s, %s, %s)", worker.worker_id, request, worker.kind)

    def may_ingest(self, worker: Worker) -> bool:
        return worker.kind != "ingest" or self.model.holder is worker

    def hold_slot(self, worker: Worker) -> None:
        rows = self.call("SELECT slot FROM tracker.bloom_hold(%s)", worker.worker_id)
        worker.is_silent = False
        holder = self.model.holder
        if holder is not worker and (holder is None or holder.is_silent):
            if holder:
                self.take_from(holder)
            self.model.holder = worker
        assert bool(rows) == (self.model.holder is worker)

    def take_from(self, holder: Worker) -> None:
        for job in self.model.jobs.values():
            if job.held and job.held.worker is holder:
                self.model.end(job, state="dead" if job.attempt >= MAX_ATTEMPTS else "ready")

    def grant(self, worker: Worker, request: UUID, rows: Sequence[dict[str, Any]], waiting: Sequence[int]) -> None:
        """Compare the results with the expected ones."""
        if not waiting and worker.kind == "download":
            free = [link for link, place in self.model.links.items() if place[0] in ("pool", "again")]
            assert bool(rows) == bool(free)
            for row in rows:
                self.model.jobs[row["job_id"]] = Job("download")
                for line in read_payload(row["payload"]):
                    place = self.model.links[line.pack, line.pack_row]
                    assert place in (("pool", line.attempt), ("again", line.attempt))
                    self.model.links[line.pack, line.pack_row] = ("batch", row["job_id"])
        else:
            assert [row["job_id"] for row in rows] == waiting[:1]
        for row in rows:
            job = self.model.jobs[row["job_id"]]
            lease = Lease(row["lease"], row["job_id"], worker.kind, worker, request, row["payload"])
            job.state, job.attempt, job.held = "leased", job.attempt + 1, lease
            self.model.leases.append(lease)

    def learn_jobs(self) -> None:
        """Jobs that a completion or a seed has made."""
        for row in self.call("SELECT job_id, queue::text FROM tracker.job WHERE state = 'ready'"):
            self.model.jobs.setdefault(row["job_id"], Job(row["queue"]))

    def send(self, lease: Lease, result: dict[str, Any]) -> None:
        statement = f"SELECT tracker.complete_{lease.queue}(%s, %s, %s)"
        with self.admin.transaction():
            if lease.queue == "ingest" and lease.state != "completed":
                self.copy_in(lease, result)
            self.call(statement, lease.job_id, lease.lease, Jsonb(result))

    def copy_in(self, lease: Lease, result: dict[str, Any]) -> None:
        for added in result["added"]:
            self.call(
                f"INSERT INTO tracker.candidate_{added['subset']}_{added['leaf']} "
                "(pack, pack_row, leaf, run_id, attempt, subset, language, url, text) "
                "SELECT %s, i, %s, %s, 1, %s, 'en', 'http://a.example/' || i, 'text' "
                "FROM generate_series(%s::int, %s::int) AS i RETURNING 1",
                lease.payload["pack"],
                added["leaf"],
                self.run_id,
                added["subset"],
                added["from"],
                added["from"] + added["n"] - 1,
            )

    def result_of_extract(self, _: Lease, chance: Random) -> tuple[dict[str, Any], Callable[[], None]]:
        n = chance.randint(0, 9)
        return {"images": n, "candidates": n, "slots": [{"rows": n, "bytes": n}]}, lambda: None

    def result_of_ingest(self, lease: Lease, chance: Random) -> tuple[dict[str, Any], Callable[[], None]]:
        n, pack = lease.payload["rows"], lease.payload["pack"]
        english = chance.randint(0, n)
        others = chance.randint(0, n - english)
        leaves = {row["subset"]: row["leaf"] for row in self.call("SELECT * FROM tracker.open_leaves(%s)", self.run_id)}
        added = [
            {"subset": subset, "leaf": leaves[subset], "n": many, "from": first}
            for subset, many, first in (("en", english, 0), ("multi", others, english))
            if many
        ]

        def then() -> None:
            self.model.links |= {(pack, row): ("pool", 1) for row in range(english + others)}

        return {"duplicates": n - english - others, "added": added}, then

    def result_of_download(self, lease: Lease, chance: Random) -> tuple[dict[str, Any], Callable[[], None]]:
        """Each link of the batch ends, waits for another try, or goes back."""
        places: dict[Link, Place] = {}
        again, returned = [], []
        finished: Counter[str] = Counter()
        for line in read_payload(lease.payload):
            ends = ["success", "gone", "timeout", "returned"] + (["again"] if line.attempt < MAX_TRIES else [])
            match chance.choice(ends):
                case "again":
                    again.append(line.position)
                    places[line.pack, line.pack_row] = ("again", line.attempt + 1)
                case "returned":
                    returned.append(line.position)
                    places[line.pack, line.pack_row] = ("pool", line.attempt)
                case outcome:
                    finished[outcome] += 1
                    places[line.pack, line.pack_row] = ("final", outcome)
        result = {"finished": dict(finished), "again": again, "returned": returned, "samples": finished["success"]}
        return result | {"bytes": 1}, lambda: self.model.links.update(places)

    def result_of_filter(self, lease: Lease, chance: Random) -> tuple[dict[str, Any], Callable[[], None]]:
        kept = chance.randint(0, lease.payload["samples"])
        return {"kept": kept, "dropped": {"low": lease.payload["samples"] - kept}, "bytes": 1}, lambda: None


def test_no_order_of_verbs_loses_a_candidate_or_ends_it_twice(server: str, template: str) -> None:
    with connect(server) as keeper:

        class OnFreshDatabase(Tracker):
            def __init__(self) -> None:
                self.name = f"shoal_machine_{uuid4().hex[:8]}"
                keeper.execute(f"CREATE DATABASE {self.name} TEMPLATE {template}".encode())
                super().__init__(connect(make_conninfo(server, dbname=self.name)))

            def teardown(self) -> None:
                self.admin.close()
                keeper.execute(f"DROP DATABASE {self.name} WITH (FORCE)".encode())

        run_state_machine_as_test(
            OnFreshDatabase,
            settings=settings(
                max_examples=15,
                stateful_step_count=60,
                deadline=None,
                database=None,
                phases=(Phase.generate,),  # shrinking what it found would take minutes
                derandomize=True,  # the same sequences each time: what is found once is found by all
                suppress_health_check=list(HealthCheck),
            ),
        )
    with connect(server) as asked:
        assert scalar(asked, "SELECT count(*) FROM pg_database WHERE datname LIKE 'shoal\\_machine\\_%%'") == 0
