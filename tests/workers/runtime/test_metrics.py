"""The metrics and the progress bar of a worker are correct, and cost next to nothing."""

import io
import logging
import socket
import timeit
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast
from uuid import UUID

import dns.resolver
import pytest
import trio
from PIL import Image
from rich.console import Console

from dataset.formats.shards import Sample
from dataset.models.clip import load_model
from dataset.models.pipeline import Pipeline
from dataset.pictures.outcomes import Outcome
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store
from tests.tracker.filling import fill_pool, listed_pack, new_run, set_setting
from tracker.database.database import Connection
from tracker.errors import LeaseLost, TrackerError
from tracker.protocol.session import Job
from workers.dedup import Dedup
from workers.download.decoder_pool import Decoders
from workers.download.stage import Download
from workers.embed import Embed
from workers.errors import CannotWork
from workers.extract.stage import Extract
from workers.fetching.connection import ByteStream, IdleConnections
from workers.fetching.connection import Connection as WebConnection
from workers.fetching.failure import LinkFailed
from workers.fetching.policy import FetchPolicy
from workers.fetching.resolve import Resolver
from workers.filter import Filter
from workers.index import Index
from workers.ingest.stage import Ingest
from workers.runtime import metrics, progress_bar
from workers.runtime.context import WorkContext
from workers.runtime.instrumented_session import InstrumentedSession, JobMeter, session_verbs
from workers.tag import Tag

DEMO = Path(__file__).parents[2] / "demo" / "clip"
Count = Callable[..., float]
NOBODYS = Job(0, UUID(int=0), "extract", 1, 1, "test", {}, {"model": "m", "pretrained": "p"}, "test/0")

NO_PIPELINE = cast(Pipeline, None)
METERS: Mapping[str, JobMeter] = {
    "extract": Extract(),
    "ingest": Ingest(),
    "download": Download(FetchPolicy(), cast(Decoders, None)),
    "filter": Filter(NO_PIPELINE),
    "embed": Embed(NO_PIPELINE),
    "index": Index(Path()),
    "dedup": Dedup(Path()),
    "tag": Tag(Path()),
}


@pytest.fixture
def count() -> Count:
    """Return by how much a metric has grown since the test began; the registry belongs to the process."""
    before = {(s.name, *sorted(s.labels.items())): s.value for f in metrics.REGISTRY.collect() for s in f.samples}

    def grown(name: str, **labels: str) -> float:
        now = metrics.REGISTRY.get_sample_value(name, labels) or 0.0
        return now - before.get((name, *sorted(labels.items())), 0.0)

    return grown


@pytest.fixture
def watch(database: str) -> Iterator[Callable[[str], InstrumentedSession]]:
    sessions: list[InstrumentedSession] = []

    def register(kind: str) -> InstrumentedSession:
        session = InstrumentedSession.register(database, kind)
        session.meter = METERS[kind]
        sessions.append(session)
        return session

    yield register
    for session in sessions:
        session.close()


def test_jobs_are_counted_by_how_they_end(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count, expire: Callable[..., None]
) -> None:
    new_run(admin, wats=4)
    first = watch("extract")
    jobs = first.claim(want=4)
    first.complete(jobs[0], {"images": 3, "candidates": 2, "slots": [{"rows": 2, "bytes": 1}]})
    first.fail(jobs[1], "broken")
    first.release(jobs[2])
    expire(first)
    assert watch("extract").claim(want=9)
    with pytest.raises(LeaseLost):
        first.fail(jobs[3], "too late")
    ends = {
        end: count("shoal_worker_jobs_total", queue="extract", result=end) for end in ("completed", "failed", "lost")
    }
    assert ends == {"completed": 1, "failed": 1, "lost": 1}
    assert count("shoal_worker_jobs_total", queue="extract", result="released") == 1
    assert count("shoal_worker_candidates_extracted_total") == 2
    assert count("shoal_worker_tracker_call_seconds_count", verb="claim") == 2
    assert (first.in_flight.completed, first.in_flight.failed) == (1, 1)


def test_scored_and_kept_samples_are_counted_and_a_shards_size_is_known(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count
) -> None:
    run_id = new_run(admin)
    payload = '{"shard": "s", "subset": "en", "samples": 10}'
    admin.execute("INSERT INTO tracker.job (queue, run_id, payload) VALUES ('filter', %s, %s)", (run_id, payload))
    session = watch("filter")
    (job,) = session.claim()
    assert session.in_flight.sizes == {job.job_id: 10}
    session.complete(job, {"kept": 4, "dropped": {"below_threshold": 6}, "bytes": 1})
    assert count("shoal_worker_samples_scored_total") == 10
    assert count("shoal_worker_samples_kept_total") == 4
    assert session.in_flight.sizes == {}


def test_ingest_counts_what_it_read_and_what_was_new(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count
) -> None:
    run_id = new_run(admin)
    listed_pack(admin, run_id, 50)
    session = watch("ingest")
    assert session.hold_slot()
    (job,) = session.claim()
    session.complete_ingest([(job, {"duplicates": 50, "added": []})], [])
    assert count("shoal_worker_rows_read_total") == 50
    assert count("shoal_worker_candidates_ingested_total") == 0
    assert count("shoal_worker_jobs_total", queue="ingest", result="completed") == 1


def test_a_completed_piece_of_a_link_list_is_no_longer_held(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count
) -> None:
    payload = '{"list": "/lists/one.parquet", "first_group": 0, "rows": 9}'
    admin.execute(
        "INSERT INTO tracker.job (queue, run_id, payload) VALUES ('ingest', %s, %s)", (new_run(admin), payload)
    )
    session = watch("ingest")
    assert session.hold_slot()
    (piece,) = session.claim()
    assert session.in_flight.sizes == {piece.job_id: 9}
    read = {"rows": 9, "candidates": 7, "dropped": {"bad_url": 2}, "packs": [[{"rows": 7, "bytes": 1}]]}
    session.complete_list(piece, read)
    assert session.in_flight.sizes == {}
    assert session.in_flight.completed == 1
    assert count("shoal_worker_jobs_total", queue="ingest", result="completed") == 1
    assert count("shoal_worker_candidates_extracted_total") == 7


VERBS: dict[str, tuple[str, tuple[object, ...]]] = {
    # A kind of worker that may call it, and arguments with which the tracker answers, be it by a refusal.
    "blocks": ("download", (0,)),
    "claim": ("extract", ()),
    "complete": ("extract", (NOBODYS, {"candidates": 0})),
    "complete_ingest": ("ingest", ([(NOBODYS, {"duplicates": 0})], [])),
    "complete_list": ("ingest", (NOBODYS, {"candidates": 0})),
    "draw": ("download", ()),
    "fail": ("extract", (NOBODYS, "broken")),
    "heartbeat": ("extract", (1,)),
    "heartbeat_download": ("download", (1, None, {"refused": {}, "well": [], "probes": []})),
    "hold_slot": ("ingest", ()),
    "is_idle": ("extract", ()),
    "leave": ("extract", ()),
    "note_snapshot": ("ingest", (0, 0, "bloom/0")),
    "open_leaves": ("ingest", (1,)),
    "release": ("extract", (NOBODYS,)),
    "release_slot": ("ingest", ()),
    "hash_lists": ("download", ()),
    "settle_model": ("embed", (NOBODYS, "0" * 64, "0" * 64)),
    "settle_recipe": ("extract", (1, {})),
    "waits_for": ("download", ()),
}


def test_every_verb_is_tried_below() -> None:
    assert sorted(VERBS) == session_verbs()


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_timed_once(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count, verb: str
) -> None:
    new_run(admin)
    kind, arguments = VERBS[verb]
    session = watch(kind)
    with suppress(TrackerError):  # of a job that nobody has
        getattr(session, verb)(*arguments)
    assert count("shoal_worker_tracker_call_seconds_count", verb=verb) == 1
    assert count("shoal_worker_tracker_call_seconds_count", verb="register") == 1


@pytest.mark.parametrize("kind", ["extract", "download"])
def test_reported_progress_is_counted_once(
    admin: Connection, watch: Callable[[str], InstrumentedSession], count: Count, kind: str
) -> None:
    session = watch(kind)
    for told in (5, 5, 12):
        if kind == "download":
            session.heartbeat_download(told, None, {"refused": {}, "well": [], "probes": []})
        else:
            session.heartbeat(told)
    assert count("shoal_worker_progress_total") == 12


def test_lookups_are_timed_by_their_result(count: Count) -> None:
    async def look_up(*answers: object) -> None:
        resolver = Resolver(["127.0.0.1:1"], seconds=0.2)
        left = list(answers)

        async def answer(*_: object, **__: object) -> object:
            raise cast(Exception, left.pop(0))

        resolver._resolver.resolve = answer  # type: ignore[method-assign,assignment]
        for number in range(len(answers)):
            with pytest.raises(LinkFailed):
                await resolver.resolve(f"host-{number}.example")
            with pytest.raises(LinkFailed):
                await resolver.resolve(f"host-{number}.example")  # from the cache: no lookup

    trio.run(look_up, dns.resolver.NXDOMAIN, OSError("unreachable"))
    assert count("shoal_worker_dns_lookup_seconds_count", result="no_name") == 1
    assert count("shoal_worker_dns_lookup_seconds_count", result="failed") == 1


def test_a_connection_that_is_closed_twice_is_counted_once(count: Count) -> None:
    async def connect() -> None:
        ends = [socket.socketpair() for _ in range(3)]
        connections = [WebConnection(cast(ByteStream, None), one) for one, _ in ends]
        assert count("shoal_worker_connections_open") == 3
        connections[0].close()
        connections[0].close()
        await connections[1].aclose()
        assert count("shoal_worker_connections_open") == 1
        idle = IdleConnections(1)
        idle.put(connections[2])
        idle.close()
        for _, other in ends:
            other.close()

    trio.run(connect)
    assert count("shoal_worker_connections_open") == 0


def test_metrics_are_served_on_loopback_until_the_worker_ends() -> None:
    metrics.LINK_BY_OUTCOME[Outcome.SUCCESS].inc(0)
    with metrics.serve("download", 0) as port:
        assert port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        with pytest.raises(CannotWork, match="each worker of a machine its own"), metrics.serve("download", port):
            pass
    assert 'shoal_worker_info{queue="download"' in text
    assert 'shoal_worker_links_total{outcome="dns_error"}' in text
    assert 'shoal_worker_jobs_total{queue="download",result="failed"}' in text
    assert "process_cpu_seconds_total" in text
    assert "_created" not in text
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_without_a_port_nothing_listens() -> None:
    with metrics.serve("download", None) as port:
        assert port is None


def test_counting_a_link_costs_under_a_hundredth_of_what_fetching_it_does() -> None:
    """A link takes about 0.9 ms of CPU (make bench-download); the bound is wide for a busy machine."""

    def one_link() -> None:
        metrics.LINK_BY_OUTCOME[Outcome.SUCCESS].inc(0)
        metrics.RECEIVED.inc(0)

    seconds = min(timeit.repeat(one_link, number=1000, repeat=20)) / 1000
    assert seconds < 9e-6


def bar_of(context: WorkContext, session: InstrumentedSession) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(progress_bar.Bar(context, session, "links"))
    return cast(io.StringIO, console.file).getvalue()


def test_the_bar_shows_the_progress_of_the_current_batch(
    admin: Connection, watch: Callable[[str], InstrumentedSession]
) -> None:
    fill_pool(admin, new_run(admin), 40)
    set_setting(admin, "batch_size", 100)
    session = watch("download")
    context = WorkContext(session, cast(Store, None))
    assert "waiting" in bar_of(context, session)
    batch = session.draw()
    assert batch is not None
    bar = progress_bar.Bar(context, session, "links")
    bar.__rich__()
    context.advance(30)
    console = Console(file=io.StringIO(), width=160)
    console.print(bar)
    said = cast(io.StringIO, console.file).getvalue()
    narrow = Console(file=io.StringIO(), width=40)
    narrow.print(bar)
    assert len(cast(io.StringIO, narrow.file).getvalue().splitlines()) == 1
    assert f"job {batch.job_id}" in said
    assert "30/40" in said
    assert "links/s" in said


@pytest.mark.parametrize("is_terminal", [True, False])
def test_log_lines_are_unchanged_above_the_bar_and_handlers_are_restored(
    watch: Callable[[str], InstrumentedSession], is_terminal: bool
) -> None:
    session = watch("extract")
    screen = io.StringIO()
    console = Console(file=screen, width=90, force_terminal=is_terminal, color_system=None)
    root = logging.getLogger()
    before = root.handlers[:]
    line = "job.completed stage=extract job=[1] " + "x" * 100
    with progress_bar.shown(WorkContext(session, cast(Store, None)), session, "images", console):
        assert (root.handlers != before) is is_terminal
        if is_terminal:
            logging.getLogger("shoal.worker").warning(line)
    assert root.handlers == before
    said = screen.getvalue()
    assert (line + "\n" in said) is is_terminal
    assert ("waiting" in said) is is_terminal


def test_the_time_that_models_work_in_a_pipeline_is_counted(count: Count) -> None:
    model = load_model(ModelRecipe("demo", str(DEMO), 0.28), device="cpu")
    picture = io.BytesIO()
    Image.new("RGB", (40, 30)).save(picture, "PNG")
    sample = Sample("0", picture.getvalue(), "http://a.example", "a red circle", "en", "en", 1, 0, 40, 30, 40, 30)
    with Pipeline(busy=metrics.model_busy) as pipeline:
        (batch,) = pipeline.embed([(model, [sample])])
    assert [one.key for one in batch.samples] == [sample.key]
    assert count("shoal_worker_model_busy_seconds_total") > 0
