"""The metrics of `tracker serve` for Prometheus, made from one snapshot.

Cardinality is bounded: labels are queues, subsets, outcomes, kinds and states from closed sets, and at most
MAX_VERDICTS verdicts, which workers name. Nothing is labelled by job, worker, host or run; `tracker workers` and the
status page show these. While the database is down, only `shoal_database_up 0` is shown, and no old numbers.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from tracker.database.enums import OUTCOMES, QUEUES

MAX_VERDICTS = 30
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round: `seen` is from `tracker.watch.snapshot`, and None while the database is down."""

    seen: Mapping[str, Any] | None
    taken_at: float
    """Unix time."""
    seconds: float
    """Time that the snapshot took."""
    duties_at: float | None
    """Unix time of the last successful round of the tracker's duties."""


def exposition(of: Round) -> bytes:
    """Return a round in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(of))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, of: Round) -> None:
        self._of = of

    def collect(self) -> Iterable[Metric]:
        yield InfoMetricFamily("shoal_tracker", "This tracker.", {"version": version("shoal")})
        yield _gauge("shoal_database_up", "1 if the database answered the last snapshot.", self._of.seen is not None)
        yield _gauge("shoal_snapshot_timestamp_seconds", "Unix time of these numbers.", self._of.taken_at)
        yield _gauge(
            "shoal_snapshot_duration_seconds", "Time that the snapshot of these numbers took.", self._of.seconds
        )
        if self._of.duties_at is not None:
            said = "Unix time of the tracker's last successful round of duties."
            yield _gauge("shoal_duties_timestamp_seconds", said, self._of.duties_at)
        if self._of.seen is not None:
            yield from _links(self._of.seen)
            yield from _queues(self._of.seen)
            yield from _workers(self._of.seen)
            yield from _server(self._of.seen)


def _links(seen: Mapping[str, Any]) -> Iterator[Metric]:
    yield _counter("shoal_links_in", "Candidates that came into the pool.", seen["in"])
    yield _gauges("shoal_pool_links", "Candidates that wait in the pool.", "subset", seen["pool_by_subset"])
    yield _gauges(
        "shoal_pool_target_links", "Candidates of a subset that the pool should contain.", "subset", seen["targets"]
    )
    marks = {mark: seen["settings"][f"pool_{mark}"] for mark in ("low", "resume", "high")}
    yield _gauges("shoal_pool_watermark_links", "The pool's watermarks.", "mark", marks)
    hours = float("inf") if seen["hours_left"] is None else seen["hours_left"]
    yield _gauge(
        "shoal_pool_hours_left", "Hours until the pool is empty at this pace; +Inf if nothing is drawn.", hours
    )
    yield _gauge("shoal_again_links", "Links that wait for another try.", seen["again"])
    yield _gauge("shoal_leased_links", "Links in leased batches.", seen["leased"])
    finished = {outcome: seen["finished"].get(outcome, 0) for outcome in OUTCOMES}
    yield _counters("shoal_links_finished", "Links that ended, by outcome.", "outcome", finished)
    yield _counters("shoal_samples_judged", "Samples that were scored, by verdict.", "verdict", _few(seen["filtered"]))


def _few(verdicts: Mapping[str, int]) -> dict[str, int]:
    """Return the most common verdicts, and the sum of the others."""
    ranked = sorted(verdicts.items(), key=lambda item: (-item[1], item[0]))
    few = dict(ranked[:MAX_VERDICTS])
    if rest := sum(n for _, n in ranked[MAX_VERDICTS:]):
        few[OTHER] = few.get(OTHER, 0) + rest
    return few


def _queues(seen: Mapping[str, Any]) -> Iterator[Metric]:
    queues = seen["queues"]
    jobs = GaugeMetricFamily("shoal_jobs", "Jobs that have not ended; expired: leased by a stale worker.",
                             labels=("queue", "state"))  # fmt: skip
    for name, row in queues.items():
        for state, n in (("ready", row["ready"]), ("leased", max(row["leased"] - row["expired"], 0)),
                         ("expired", row["expired"]), ("dead", row["dead"])):  # fmt: skip
            jobs.add_metric((name, state), n)
    yield jobs
    oldest = {name: max(row["oldest_ready_seconds"] or 0.0, 0.0) for name, row in queues.items()}
    yield _gauges(
        "shoal_queue_oldest_ready_seconds", "Time for which the oldest ready job has waited.", "queue", oldest
    )
    for flag, said in (
        ("paused", "1 if the admin has paused the queue."),
        ("held", "1 if a watermark holds the queue."),
    ):
        yield _gauges(f"shoal_queue_{flag}", said, "queue", {name: row[flag] for name, row in queues.items()})
    limits = {name: row["max_leased"] for name, row in queues.items() if row["max_leased"] is not None}
    yield _gauges(
        "shoal_queue_leased_limit", "Maximum number of leased jobs; absent if there is no limit.", "queue", limits
    )
    for name, key, said in (
        ("shoal_jobs_done", "done", "Jobs that were completed."),
        ("shoal_rows_in", "rows_in", "Rows that jobs read: images, candidates, links, samples."),
        ("shoal_rows_out", "rows_out", "Rows that jobs produced: candidates, new candidates, samples, pairs."),
        ("shoal_job_seconds", "seconds", "Time from lease to completion of completed jobs."),
    ):
        yield _counters(name, said, "queue", {queue: row[key] for queue, row in queues.items()})
    failures = {name: of["failures"] for name, of in seen["rates"].items()}
    yield _gauges("shoal_recent_failures", "Jobs that failed or were taken over in 30 minutes.", "queue", failures)


def _workers(seen: Mapping[str, Any]) -> Iterator[Metric]:
    counted = {(kind, state): 0 for kind in QUEUES for state in ("active", "draining", "stuck", "silent")}
    for row in seen["workers"]:
        counted[row["kind"], worker_state(row)] += 1
    family = GaugeMetricFamily("shoal_workers", "Workers that have not left; all except silent ones are alive.",
                               labels=("queue", "state"))  # fmt: skip
    for labels, n in counted.items():
        family.add_metric(labels, n)
    yield family


def worker_state(row: Mapping[str, Any]) -> str:
    """Return the state of a row of fleet.sql: active, draining, stuck or silent."""
    if not row["alive"]:
        return "silent"
    return "stuck" if row["stuck"] else str(row["state"])


def _server(seen: Mapping[str, Any]) -> Iterator[Metric]:
    server, bloom = seen["server"], seen["bloom"]
    yield _gauge("shoal_ledger_lag_seconds", "Age of the oldest unfolded entry.", server["ledger_lag_seconds"])
    yield _gauge(
        "shoal_pool_dead_rows",
        "Approximate number of deleted rows that vacuum has not freed.",
        server["pool_dead_rows"],
    )
    yield _gauge("shoal_database_size_bytes", "Size of the database.", server["size_bytes"])
    yield _gauge("shoal_database_connections", "Connections of clients to the server.", server["connections"])
    yield _gauge("shoal_database_connections_limit", "max_connections.", server["max_connections"])
    yield _gauge("shoal_database_horizon_seconds", "Age of the oldest open transaction.", server["horizon_seconds"])
    yield _gauge("shoal_database_oldest_xid_age", "Age of the oldest transaction id.", server["oldest_xid_age"])
    if server["disk"]:
        for key, n in server["disk"].items():
            yield _gauge(f"shoal_database_disk_{key}", "Disk space of a server on this machine.", n)
    yield _gauge("shoal_bloom_slots", "Slots of the Bloom filter.", bloom["slots"])
    yield _gauge("shoal_bloom_slots_held", "Slots that a worker holds.", bloom["held"])
    yield _counter("shoal_bloom_packs", "Packs committed through the Bloom filter.", bloom["packs"])
    said = "Packs that the next holder of the worst slot must replay."
    yield _gauge("shoal_bloom_packs_since_snapshot", said, bloom["packs_since_snapshot"])
    capacity = bloom["slots"] * float(seen["settings"]["bloom_capacity"])
    yield _gauge("shoal_bloom_capacity_keys", "Capacity in keys of the filter's first stages.", capacity)


def _gauge(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(name, said, value=float(value))


def _gauges(name: str, said: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, said, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), float(value))
    return family


def _counter(name: str, said: str, value: float) -> Metric:
    return CounterMetricFamily(name, said, value=float(value))


def _counters(name: str, said: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, said, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), float(value))
    return family
