"""The server's metrics: clip-retrieval's names, which its dashboards know, and our own."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

STEPS = {
    "download_time": "Time spent downloading an url",
    "text_clip_inference_time": "Time spent doing a text clip inference",
    "image_clip_inference_time": "Time spent doing a image clip inference",
    "metadata_get_time": "Time spent retrieving metadata",
    "knn_index_time": "Time spent doing a knn on the index",
    "dedup_time": "Time spent deduping",
    "safety_time": "Time spent doing a safety inference",
    "image_prepro_time": "Time spent doing the image preprocessing",
    "text_prepro_time": "Time spent doing the text preprocessing",
}
"""clip-retrieval's, in its order. Safety, preprocessing of pictures and of texts happen elsewhere here and stay 0."""

FULL = "full_knn_request_time"


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = {FULL: "Time spent processing knn request", **STEPS}
        self._steps = {name: Histogram(name, said, registry=self.registry) for name, said in names.items()}
        self.requests = Counter(
            "shoal_search_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.refused = Counter("shoal_search_refused", "Requests refused with 429", ["why"], registry=self.registry)
        self.waiting = Gauge("shoal_search_waiting", "Cost of the queries that wait", registry=self.registry)
        self.batch = Histogram(
            "shoal_search_batch", "Queries searched together", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.text_cache = Counter("shoal_search_text_cache", "Texts looked up", ["result"], registry=self.registry)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Count the time of a block, under one of clip-retrieval's names."""
        started = perf_counter()
        try:
            yield
        finally:
            self._steps[step].observe(perf_counter() - started)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def summary(self) -> str:
        """Return clip-retrieval's table of the steps' costs, the most expensive first."""
        calls, average = self._mean(FULL)
        if not calls:
            return "No request yet, go do some"
        steps = sorted(((name, said, *self._mean(name)) for name, said in STEPS.items()), key=lambda step: -step[3])
        rows = [("", "name", "description", "calls", "average", "proportion")]
        rows += [
            (str(at), name, said, str(count), f"{mean:0.4f}s", f"{mean / average * 100:0.1f}%")
            for at, (name, said, count, mean) in enumerate(steps)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        head = (
            f"Among {float(calls)} calls to the knn end point with an average latency of {average:0.4f}s per request, "
            "the step costs are (in order): \n\n"
        )
        return head + "\n".join(lines)

    def _mean(self, name: str) -> tuple[int, float]:
        found = {sample.name: sample.value for sample in next(iter(self._steps[name].collect())).samples}
        calls = found[f"{name}_count"]
        return int(calls), found[f"{name}_sum"] / calls if calls else 0.0
