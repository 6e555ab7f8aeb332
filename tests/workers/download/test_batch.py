"""A batch: every link ends once and has a row in the shard; a stop returns the other links."""

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from dataset.formats.shards import Sample, ShardError, read_samples
from dataset.pictures.outcomes import Outcome
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from tests.workers.fetching.odd_web import Handler, OddWeb, answer, odd_web, picture, response, run
from workers.download.batch import BatchJob, BatchOutcome, download_batch
from workers.download.decoder_pool import Decoders
from workers.fetching.policy import FetchPolicy

PICTURE = picture(600, 400)


@dataclass(frozen=True, slots=True)
class Planted:
    position: int
    url: str
    attempt: int = 1
    pack: int = 7
    pack_row: int = 0
    language: str | None = "en"
    text: str = "a caption"
    extra: str = ""


async def _never(stream: trio.abc.Stream, head: bytes) -> None:
    await trio.sleep_forever()


HANDLERS: dict[str, Handler] = {
    "/ok": answer(response(PICTURE, "Content-Type: image/jpeg")),
    "/small": answer(response(picture(8, 8))),
    "/html": answer(response(b"<html>" + b" " * 9_000)),
    "/svg": answer(response(b"<svg xmlns='http://www.w3.org/2000/svg'/>" + b" " * 9_000)),
    "/cut": answer(response(PICTURE[:-9_000])),
    "/gone": answer(response(b"", status="410 Gone")),
    "/busy": answer(response(b"", status="503 Busy")),
    "/never": _never,
}

EXPECTED = {
    "/ok": Outcome.SUCCESS,
    "/small": Outcome.TOO_SMALL,
    "/html": Outcome.NOT_AN_IMAGE,
    "/svg": Outcome.UNSUPPORTED_FORMAT,
    "/cut": Outcome.UNDECODABLE,
    "/gone": Outcome.GONE,
    "/busy": Outcome.SERVER_ERROR,
    "/never": Outcome.TIMEOUT,
}


async def download(
    links: list[Planted],
    web: OddWeb,
    store: Store,
    *,
    stop: trio.Event | None = None,
    rules: ImageRules | None = None,
    decoders: Decoders | None = None,
    restricted: HashLists | None = None,
    extra: dict[str, str] | None = None,
    sha256_column: str | None = None,
    **changes: object,
) -> BatchOutcome:
    policy = FetchPolicy(
        allow_networks=(ip_network("127.0.0.0/8"),), allow_ports=(web.port,), timeout_seconds=0.6, per_host=64
    )
    job = BatchJob(
        links,
        job_id=3,
        subset="en",
        output="shards/3-lease",
        store=store,
        rules=rules or ImageRules(),
        policy=replace(policy, **changes),  # type: ignore[arg-type]
        max_attempts=2,
        on_progress=lambda done: None,
        extra=extra,
        sha256_column=sha256_column,
        restricted=restricted or HashLists(),
    )
    return await download_batch(job, stop or trio.Event(), decoders)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_every_links_outcome_is_the_one_planted(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            links = [Planted(n, web.url(path), attempt=2) for n, path in enumerate([*EXPECTED] * 3)]
            links.append(Planted(len(links), "ftp://example.com/a.jpg"))
            outcome = await download(links, web, store)
        wanted = Counter([*EXPECTED.values()] * 3)
        wanted[Outcome.BAD_URL] += 1
        assert outcome.finished == wanted
        assert (outcome.again, outcome.returned, outcome.rows, outcome.samples) == ([], [], len(links), 3)
        rows = store.read_table("shards/3-lease.parquet").to_pylist()
        assert [row["key"] for row in rows] == [f"0000000003{link.position:05d}" for link in links]
        by_path = {row["url"].removeprefix(web.url("")): row for row in rows}
        assert {path: by_path[path]["outcome"] for path in EXPECTED} == {k: str(v) for k, v in EXPECTED.items()}
        assert by_path["/gone"]["http_status"] == 410
        assert by_path["/ok"]["content_type"] == "image/jpeg"
        assert (by_path["/ok"]["original_width"], by_path["/ok"]["original_height"]) == (600, 400)
        assert (by_path["/ok"]["width"], by_path["/ok"]["height"]) == (384, 256)
        samples = list(read_samples(store, "shards/3-lease"))
        assert len(samples) == 3
        assert all(isinstance(sample, Sample) and sample.pack == 7 for sample in samples)

    run(test)


def test_a_picture_that_is_not_the_lists_ends_as_changed(store: Store) -> None:
    sha256 = hashlib.sha256(PICTURE).hexdigest()
    said = {"same": sha256, "upper": sha256.upper(), "other": "0" * 64, "none": None, "empty": ""}

    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            links = [
                Planted(n, web.url("/ok"), text=name, extra=json.dumps({"sha256": value} if value is not None else {}))
                for n, (name, value) in enumerate(said.items())
            ]
            links.append(Planted(len(links), web.url("/gone"), text="gone", extra=json.dumps({"sha256": "0" * 64})))
            extra = {"sha256": "string"}
            outcome = await download(links, web, store, extra=extra, sha256_column="sha256")
        assert outcome.finished == {Outcome.SUCCESS: 4, Outcome.CHANGED: 1, Outcome.GONE: 1}
        rows = {row["caption"]: row for row in store.read_table("shards/3-lease.parquet").to_pylist()}
        assert {name: row["outcome"] for name, row in rows.items()} == dict.fromkeys(said, "success") | {
            "other": "changed",
            "gone": "gone",
        }
        assert (rows["other"]["sha256"], rows["other"]["list_sha256"]) == (None, "0" * 64)
        samples = [sample for sample in read_samples(store, "shards/3-lease") if isinstance(sample, Sample)]
        assert {sample.caption for sample in samples} == {"same", "upper", "none", "empty"}
        assert len(samples) == 4

    run(test)


def test_a_transient_failure_is_retried_until_the_last_attempt(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            links = [
                Planted(0, web.url("/busy")),
                Planted(1, web.url("/busy"), attempt=2),
                Planted(2, web.url("/gone")),
            ]
            outcome = await download(links, web, store)
        assert outcome.again == [0]
        assert outcome.finished == {Outcome.SERVER_ERROR: 1, Outcome.GONE: 1}
        rows = store.read_table("shards/3-lease.parquet").to_pylist()
        assert [(row["attempt"], row["final"]) for row in rows] == [(1, False), (2, True), (1, True)]

    run(test)


def test_a_name_that_does_not_exist_is_not_tried_again_but_a_silent_resolver_is(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            silent = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
            with silent:
                await silent.bind(("127.0.0.1", 0))
                place = f"127.0.0.1:{silent.getsockname()[1]}"
                links = [Planted(0, "http://a.test/")]
                outcome = await download(links, web, store, nameservers=(place,), dns_seconds=0.2, timeout_seconds=20.0)
        assert outcome.again == [0]
        assert store.read_table("shards/3-lease.parquet").to_pylist()[0]["outcome"] == "dns_error"

    run(test)


def test_a_stop_closes_the_shard_and_returns_the_other_links(store: Store) -> None:
    async def test() -> None:
        stop = trio.Event()

        async def last(stream: trio.abc.Stream, head: bytes) -> None:
            stop.set()
            await trio.sleep_forever()

        async with odd_web({**HANDLERS, "/last": last}) as web:
            links = [Planted(0, web.url("/ok")), Planted(1, web.url("/last")), Planted(2, web.url("/ok"))]
            outcome = await download(
                links, web, store, stop=stop, per_host=1, timeout_seconds=20.0, stop_grace_seconds=0.1
            )
        assert outcome.finished == {Outcome.SUCCESS: 1}
        assert outcome.returned == [1, 2]
        rows = store.read_table("shards/3-lease.parquet").to_pylist()
        assert [row["key"] for row in rows] == ["000000000300000"]

    run(test)


def test_a_cancelled_batch_leaves_nothing_in_the_store(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            with trio.move_on_after(0.2):
                await download([Planted(0, web.url("/never"))], web, store, timeout_seconds=20.0)
        assert store.list() == []

    run(test)


def test_a_full_disk_fails_the_batch_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def test() -> None:
        monkeypatch.setattr("dataset.formats.shard_writer.ShardWriter._append_members", full)
        async with odd_web(HANDLERS) as web:
            links = [Planted(n, web.url(path)) for n, path in enumerate(["/ok", "/ok", "/ok", "/never"])]
            with pytest.raises(ShardError, match="No space"):
                await download(links, web, store, timeout_seconds=20.0)
        assert store.list() == []

    run(test)


def test_bodies_that_exceed_the_memory_together_are_fetched_one_by_one(store: Store) -> None:
    async def test() -> None:
        big = picture(900, 900)
        async with odd_web({"*": answer(response(big))}) as web:
            links = [Planted(n, web.url("/")) for n in range(12)]
            bound = len(big) + 10
            outcome = await download(links, web, store, memory_bytes=bound, max_bytes=bound, timeout_seconds=5.0)
        assert outcome.finished == {Outcome.SUCCESS: 12}

    run(test)


def test_no_host_has_more_concurrent_requests_than_allowed(store: Store) -> None:
    async def test() -> None:
        under_way = most = 0

        async def count(stream: trio.abc.Stream, head: bytes) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await trio.sleep(0.01)
            under_way -= 1
            await stream.send_all(response(b"", status="410 Gone"))

        async with odd_web({"*": count}) as web:
            links = [Planted(n, web.url("/")) for n in range(30)]
            await download(links, web, store, per_host=3)
        assert most == 3

    run(test)


def test_a_download_worker_starts_without_torch() -> None:
    program = (
        "import sys, workers.download.batch; print(*(name for name in ('torch', 'open_clip') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_other_links_of_a_dead_host_wait_for_another_attempt(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            links = [Planted(n, web.url("/busy"), attempt=1 + n % 2) for n in range(20)]
            outcome = await download(links, web, store, per_host=1, host_failures=4)
            assert len(web.requests) == 4
        assert len(outcome.again) == 10
        assert outcome.finished == {Outcome.SERVER_ERROR: 10}
        rows = store.read_table("shards/3-lease.parquet").to_pylist()
        assert Counter(row["http_status"] for row in rows) == {503: 4, None: 16}

    run(test)


@pytest.mark.parametrize(("wish", "asked"), [("0", 4), ("3600", 1)])
def test_a_host_with_a_long_retry_after_is_given_up_for_the_batch(store: Store, wish: str, asked: int) -> None:
    async def test() -> None:
        busy = response(b"", f"Retry-After: {wish}", status="429 Too Many Requests")
        async with odd_web({"*": answer(busy)}) as web:
            links = [Planted(n, web.url("/")) for n in range(4)]
            outcome = await download(links, web, store, per_host=1)
            assert len(web.requests) == asked
        assert len(outcome.again) == 4

    run(test)


def test_a_picture_kept_as_received_is_the_servers_bytes(store: Store) -> None:
    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            outcome = await download(
                [Planted(0, web.url("/ok"))],
                web,
                store,
                rules=ImageRules(resize_mode=ResizeMode.NO, reencode=False),
            )
        assert outcome.finished == {Outcome.SUCCESS: 1}
        (sample,) = read_samples(store, "shards/3-lease")
        assert isinstance(sample, Sample)
        assert sample.image == PICTURE

    run(test)
