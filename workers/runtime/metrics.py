"""The worker's Prometheus metrics, and the port that serves them.

Counting is always on: it takes under 1.5 µs per link, which takes a millisecond of CPU in total. The port is opened
only by --metrics-port. These metrics show what only the worker knows, without delay; the metrics of `tracker serve`
show what the tracker knows (jobs, leases, outcomes of ended batches). A process is one worker of one stage, so nothing
is labelled by worker.
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
JOBS = Counter("shoal_worker_jobs", "Jobs by how they ended in this process.", ("queue", "result"), registry=REGISTRY)
TRACKER_CALLS = Histogram(
    "shoal_worker_tracker_call_seconds",
    "Duration of a tracker call, including waits for an unreachable database.",
    ("verb",),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    registry=REGISTRY,
)
PROGRESS = Counter(
    "shoal_worker_progress", "Links, images, rows or samples done, as reported by heartbeats.", registry=REGISTRY
)

LINKS = Counter(
    "shoal_worker_links",
    "Links by outcome, including transient failures that will be retried.",
    ("outcome",),
    registry=REGISTRY,
)
RECEIVED = Counter("shoal_worker_received_bytes", "Bytes of completely received bodies.", registry=REGISTRY)
CONNECTIONS = Gauge(
    "shoal_worker_connections_open", "Connections to web servers, including idle ones.", registry=REGISTRY
)
LOOKUPS = Histogram(
    "shoal_worker_dns_lookup_seconds",
    "Duration of DNS lookups that were not cached; failed means that the resolvers gave no answer.",
    ("result",),
    buckets=(0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5),
    registry=REGISTRY,
)

EXTRACTED = Counter("shoal_worker_candidates_extracted", "Candidates written into packs.", registry=REGISTRY)
READ = Counter("shoal_worker_rows_read", "Rows of ingested packs, including duplicates.", registry=REGISTRY)
INGESTED = Counter("shoal_worker_candidates_ingested", "New candidates added to the pool.", registry=REGISTRY)
SCORED = Counter("shoal_worker_samples_scored", "Samples that got a verdict.", registry=REGISTRY)
KEPT = Counter("shoal_worker_samples_kept", "Samples that passed the filter.", registry=REGISTRY)
EMBEDDED = Counter("shoal_worker_samples_embedded", "Samples that a second model has embedded.", registry=REGISTRY)
UNIT_ROWS = Counter("shoal_worker_unit_rows", "Rows that units of builds have read.", registry=REGISTRY)
MODEL_BUSY = Counter(
    "shoal_worker_model_busy_seconds",
    "Time spent in models; its rate is the share of time that they are busy.",
    registry=REGISTRY,
)

# Looked up once, because `labels` costs twice as much as counting.
LINK_BY_OUTCOME = {outcome: LINKS.labels(outcome.value) for outcome in Outcome}
LOOKUP_BY_RESULT = {result: LOOKUPS.labels(result) for result in ("found", "no_name", "failed")}


@contextmanager
def model_busy() -> Iterator[None]:
    """Count the time of the block as spent in a model."""
    started = time.perf_counter()
    try:
        yield
    finally:
        MODEL_BUSY.inc(time.perf_counter() - started)


@contextmanager
def serve(kind: str, port: int | None, host: str = LOOPBACK) -> Iterator[int | None]:
    """Serve the metrics during the block; yield the port. 0 picks a free port, None serves nothing.

    Raises:
        CannotWork: the port is taken, or the host is not an address of this machine.
    """
    WORKER.info({"queue": kind, "version": version("shoal")})
    for result in ("completed", "failed", "released", "lost"):
        JOBS.labels(kind, result)  # a counter that appears with its first event has no rate at that moment
    if port is None:
        yield None
        return
    registry = _with_process()
    try:
        server, thread = start_http_server(port, host, registry)
    except (OSError, OverflowError) as error:
        raise CannotWork(
            f"cannot serve metrics on {host}:{port} ({error}): give each worker of a machine its own --metrics-port"
        ) from error
    bound_port = int(server.server_address[1])
    log.info("metrics.listening url=http://%s:%d/metrics", f"[{host}]" if ":" in host else host, bound_port)
    try:
        yield bound_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _with_process() -> CollectorRegistry:
    """Return Shoal's metrics and those of the process: CPU, memory, open files."""
    # these are a third of all series, and no dashboard or alert uses them
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(REGISTRY)  # a registry is a collector, too
    ProcessCollector(registry=registry)
    return registry
