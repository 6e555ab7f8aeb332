"""Under overload the server refuses honestly, answers what it accepted, and is slowed down by nobody."""

import asyncio
import json
import select
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from dataset.search import bodies, connections
from dataset.search.bodies import MAX_BODY_BYTES
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from dataset.search.quota import Quota
from dataset.search.work_queue import WorkQueue
from tests.dataset.search.tiny import Client, served, tiny_engine

QUERY = {"embedding_input": [1.0] * 16, "modality": "image", "num_images": 5, "indice_name": None}
PATIENCE_SECONDS = 20.0


class Gate:
    """Blocks searches until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.entered.release()
        assert self.opened.wait(PATIENCE_SECONDS)


def test_beyond_the_queue_requests_are_refused_with_a_time_and_the_others_are_answered_together() -> None:
    gate = Gate()
    engine = tiny_engine(before_search=gate)
    with served(engine, threads=1, most_cost=6) as client, ThreadPoolExecutor(40) as pool:
        first = pool.submit(client.ask, "/knn-service", QUERY)
        assert gate.entered.acquire(timeout=PATIENCE_SECONDS)
        others = [pool.submit(client.ask, "/knn-service", QUERY) for _ in range(30)]
        refused_at_once = as_completed(others, timeout=PATIENCE_SECONDS)
        for _ in range(24):  # while the engine is busy
            next(refused_at_once)
        gate.opened.set()
        answers = [first.result(), *(other.result() for other in others)]
    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * 24
    refused = [answer for answer in answers if answer.status == 429]
    assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
    assert all("message" in answer.json() for answer in refused)
    assert [queries for queries, _ in engine.searches] == [1, 6]


def test_tasks_with_equal_keys_run_together_and_others_in_turn() -> None:
    gate, runs = Gate(), []

    def work(items: Sequence[str]) -> list[str]:
        gate()
        runs.append([*items])
        return [item.upper() for item in items]

    async def test() -> list[str]:
        queue = WorkQueue(1, Metrics(), 100)
        try:
            futures = [queue.submit(work, "first", key="k")]
            assert gate.entered.acquire(timeout=PATIENCE_SECONDS)
            futures += [
                queue.submit(work, item, key=key) for item, key in zip("abcde", ["k", "l", "k", "l", None], strict=True)
            ]
            futures[2].cancel()  # its client has gone
            gate.opened.set()
            return [await future for future in futures if not future.cancelled()]
        finally:
            queue.close()

    assert asyncio.run(test()) == ["FIRST", "A", "C", "D", "E"]
    assert runs == [["first"], ["a", "c"], ["d"], ["e"]]


def test_one_failing_search_fails_its_own_requests_only() -> None:
    failures = iter([RuntimeError("a bug"), None, None])

    def fail() -> None:
        if (error := next(failures)) is not None:
            raise error

    with served(tiny_engine(before_search=fail)) as client:
        assert client.ask("/knn-service", QUERY).status == 500
        assert client.ask("/knn-service", QUERY).status == 200


def test_large_searches_leave_a_thread_for_small_ones() -> None:
    gate = Gate()
    engine = tiny_engine()
    engine.before_search = lambda: (
        gate() if threading.current_thread().name.startswith("engine") and large.is_set() else 0
    )
    large = threading.Event()
    large.set()
    with served(engine, threads=2) as client, ThreadPoolExecutor(4) as pool:
        big = [pool.submit(client.ask, "/knn-service", {**QUERY, "num_images": 20_000}) for _ in range(3)]
        assert gate.entered.acquire(timeout=PATIENCE_SECONDS)
        large.clear()
        assert client.ask("/knn-service", QUERY).status == 200
        gate.opened.set()
        assert {one.result().status for one in big} == {200}


def test_an_address_has_a_quota_and_health_and_metrics_do_not_count() -> None:
    with served(tiny_engine(), options=SiteOptions(per_second=0.01, burst=3)) as client:
        answers = [client.ask("/indices-list") for _ in range(5)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429, 429]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert {client.ask(path).status for path in ("/healthz", "/metrics")} == {200}
        assert 'shoal_search_refused_total{why="quota"} 2.0' in client.ask("/metrics").body.decode()


def test_a_quota_fills_again_with_time_and_an_ipv6_customer_is_one_address() -> None:
    now = [0.0]
    quota = Quota(2.0, 2, lambda: now[0])
    assert [quota.take("192.0.2.1") for _ in range(3)] == [0.0, 0.0, 0.5]
    assert quota.take("192.0.2.2") == 0.0
    now[0] = 0.5
    assert quota.take("192.0.2.1") == 0.0
    assert [quota.take(f"2001:db8::{n}") for n in range(3)] == [0.0, 0.0, 0.5]
    assert quota.take("2001:db8:0:1::1") == 0.0


def upload(client: Client, head: str) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE_SECONDS)
    line.sendall(f"POST /knn-service HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode())
    return line


def status_of(line: socket.socket) -> int:
    with line:
        return int(line.recv(4_096).split(b" ")[1])


def test_a_gigabyte_is_refused_before_it_is_read_announced_or_not() -> None:
    with served(tiny_engine()) as client:
        assert status_of(upload(client, f"Content-Length: {1 << 30}")) == 413
        line = upload(client, "Transfer-Encoding: chunked")
        piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        sent = 0
        with line, suppress(OSError):  # a reset or a broken pipe, when the server has had enough
            while sent < 1 << 30:
                line.sendall(piece)
                sent += 1 << 20
        assert sent <= MAX_BODY_BYTES + (16 << 20)
        assert client.ask("/knn-service", QUERY).status == 200


def test_others_are_answered_while_a_slow_body_and_a_gigabyte_arrive() -> None:
    body = json.dumps(QUERY).encode()
    megabyte = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with served(tiny_engine(), threads=1) as client:
        slow = upload(client, f"Content-Length: {len(body)}")
        large = upload(client, "Transfer-Encoding: chunked")
        with suppress(OSError):
            for at in range(1_024):
                large.sendall(megabyte)
                if at < 8:
                    slow.sendall(body[at : at + 1])
                    assert client.ask("/knn-service", QUERY).status == 200  # before either has been answered
                    assert not select.select([slow], [], [], 0)[0]
        large.close()
        slow.sendall(body[8:])
        assert status_of(slow) == 200


def test_fifty_clients_beyond_capacity_are_answered_in_few_searches_or_told_when_to_come_again() -> None:
    gate = Gate()
    engine = tiny_engine(before_search=gate)
    with served(engine, threads=1, most_cost=16) as client, ThreadPoolExecutor(50) as pool:
        first = pool.submit(client.ask, "/knn-service", QUERY)
        assert gate.entered.acquire(timeout=PATIENCE_SECONDS)
        others = [pool.submit(client.ask, "/knn-service", QUERY) for _ in range(49)]
        refused = [one.result() for _, one in zip(range(33), as_completed(others, PATIENCE_SECONDS), strict=False)]
        assert {answer.status for answer in refused} == {429}  # at once: the engine has not moved
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        gate.opened.set()
        assert {one.result().status for one in (first, *others)} == {200, 429}
        assert [queries for queries, _ in engine.searches] == [1, 16]  # an accepted request waits for one search
        assert client.ask("/knn-service", QUERY).status == 200


def test_slow_clients_are_disconnected_and_delay_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with served(tiny_engine()) as client:
        silent = [socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE_SECONDS) for _ in range(50)]
        slow = [upload(client, "Content-Length: 100") for _ in range(50)]
        assert client.ask("/knn-service", QUERY).status == 200
        assert {status_of(line) for line in slow} == {408}
        for line in silent:
            with line:
                assert line.recv(1) == b""


def test_a_second_request_that_does_not_come_whole_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with served(tiny_engine()) as client, socket.create_connection(("127.0.0.1", client.port), 20) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while b"null}" not in answer:
            answer += line.recv(4_096)
        line.sendall(b"GET /heal")
        assert line.recv(1) == b""


def test_one_address_cannot_take_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MOST_OF_ADDRESS", 2)
    with served(tiny_engine()) as client:
        lines = [socket.create_connection(("127.0.0.1", client.port), 20) for _ in range(3)]
        assert lines[2].recv(1) == b""
        for line in lines[:2]:
            line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status_of(line) == 200
        lines[2].close()


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 0.2)
    engine = tiny_engine(3_000)
    with served(engine) as client:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        line.settimeout(PATIENCE_SECONDS)
        line.connect(("127.0.0.1", client.port))
        body = b'{"terms": [{"id": 15}], "limit": 3000, "embeddings": true}'
        for _ in range(8):
            line.sendall(b"POST /api/search HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert client.ask("/knn-service", QUERY).status == 200
        waiting = select.poll()
        waiting.register(line, select.POLLERR)
        assert waiting.poll(PATIENCE_SECONDS * 1_000)  # the server has aborted the connection
        line.close()


def test_few_large_bodies_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGE_AT_ONCE", 2)
    taken, take = threading.Semaphore(0), bodies.BodyReader._take_large

    def take_noted(reader: bodies.BodyReader) -> None:
        take(reader)
        taken.release()

    monkeypatch.setattr(bodies.BodyReader, "_take_large", take_noted)
    with served(tiny_engine()) as client:
        lines = [upload(client, "Content-Length: 1000000") for _ in range(3)]
        for line in lines[:2]:
            line.sendall(b" " * 400_000)
            assert taken.acquire(timeout=PATIENCE_SECONDS)
        lines[2].sendall(b" " * 400_000)
        assert status_of(lines[2]) == 429
        for line in lines[:2]:
            line.sendall(b" " * 600_000)
            assert status_of(line) == 400


def test_sustained_overload_grows_nothing() -> None:
    engine = tiny_engine()
    rng = np.random.default_rng(1)
    vectors: list[Any] = rng.normal(size=(64, 16)).tolist()
    with served(engine, threads=2, most_cost=8) as client, ThreadPoolExecutor(16) as pool:
        asked = [{**QUERY, "embedding_input": vectors[n % 64]} for n in range(600)]
        answers = [*pool.map(lambda one: client.ask("/knn-service", one), asked)]
        assert {answer.status for answer in answers} <= {200, 429}
        assert sum(answer.status == 200 for answer in answers) >= 100
        assert client.service.queue.waiting == 0
