"""What a worker counts for Prometheus, and the port on which it tells.

Counting is always on, since it costs next to nothing (under 1.5 µs a link, which takes a millisecond of CPU); a port is
opened only by --metrics-port. What the tracker knows (jobs, leases, the outcomes of batches that have ended) is told by
`tracker serve`; here is what only the worker sees, as it happens. One process is one worker of one kind, so nothing is
labelled by worker: Prometheus adds the instance.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import start_http_server

from dataset.pictures.outcomes import Outcome
from workers.errors import CannotWork

log = logging.getLogger("shoal.worker")

REGISTRY = CollectorRegistry()
LOOPBACK = "127.0.0.1"

WORKER = Info("shoal_worker", "This worker.", registry=REGISTRY)
JOBS = Counter("shoal_worker_jobs", "Jobs by how they ended here.", ("queue", "result"), registry=REGISTRY)
TRACKER_CALLS = Histogram(
    "shoal_worker_tracker_call_seconds",
    "What a call of the tracker took, with waiting for a database that was away.",
    ("verb",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
PROGRESS = Counter(
    "shoal_worker_progress", "Links, images, rows or samples done, as the beat tells.", registry=REGISTRY
)

LINKS = Counter(
    "shoal_worker_links",
    "Links by outcome; passing ones, too, which will be tried again.",
    ("outcome",),
    registry=REGISTRY,
)
RECEIVED = Counter("shoal_worker_received_bytes", "Bytes of bodies that came whole.", registry=REGISTRY)
CONNECTIONS = Gauge("shoal_worker_connections_open", "Connections to web servers, idle ones too.", registry=REGISTRY)
LOOKUPS = Histogram(
    "shoal_worker_dns_lookup_seconds",
    "What it took to look up a name that was not in the cache; failed: the resolvers gave no answer.",
    ("result",),
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
    registry=REGISTRY,
)

EXTRACTED = Counter("shoal_worker_candidates_extracted", "Candidates written into packs.", registry=REGISTRY)
READ = Counter("shoal_worker_rows_read", "Rows of packs that were ingested, duplicates too.", registry=REGISTRY)
INGESTED = Counter("shoal_worker_candidates_ingested", "New candidates put into the pool.", registry=REGISTRY)
SCORED = Counter("shoal_worker_samples_scored", "Samples that got a verdict.", registry=REGISTRY)
KEPT = Counter("shoal_worker_samples_kept", "Samples that passed the filter.", registry=REGISTRY)
EMBEDDED = Counter("shoal_worker_samples_embedded", "Samples that a second model has embedded.", registry=REGISTRY)
MODEL_BUSY = Counter(
    "shoal_worker_model_busy_seconds",
    "Time within models; its rate is the share that they are busy.",
    registry=REGISTRY,
)

# Looked up once: `labels` costs twice what counting does.
LINK_BY_OUTCOME = {outcome: LINKS.labels(outcome.value) for outcome in Outcome}
LOOKUP_BY_RESULT = {result: LOOKUPS.labels(result) for result in ("found", "no_name", "failed")}


@contextmanager
def model_busy() -> Iterator[None]:
    """Count the block's time as a model's."""
    started = time.perf_counter()
    try:
        yield
    finally:
        MODEL_BUSY.inc(time.perf_counter() - started)


@contextmanager
def told(kind: str, port: int | None, host: str = LOOPBACK) -> Iterator[int | None]:
    """Tell the metrics on a port while the block runs (0: any that is free; None: nowhere); gives the port.

    Raises:
        CannotWork: another process listens there, or the host is not this machine's.
    """
    WORKER.info({"queue": kind, "version": version("shoal")})
    for result in ("completed", "failed", "released", "lost"):
        JOBS.labels(kind, result)  # a counter that appears with its first event has no rate for it
    if port is None:
        yield None
        return
    registry = _with_process()
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise CannotWork(
            f"cannot tell metrics on {host}:{port} ({error}): give each worker of a machine its own --metrics-port"
        ) from error
    place = int(server.server_address[1])
    log.info("metrics.listening url=http://%s:%d/metrics", f"[{host}]" if ":" in host else host, place)
    try:
        yield place
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _with_process() -> CollectorRegistry:
    """Our metrics, with those of the process: CPU, memory, open files."""
    # a third of all series, which nothing asks for
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(REGISTRY)  # a registry collects as any collector does
    ProcessCollector(registry=registry)
    return registry
