"""A small exact engine over arrays, and a server around it on loopback: what the tests of the server search."""

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dataset.index.collapse import COLLAPSE_AT, distinct
from dataset.search.engine import Count, Found, Near
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient
from dataset.search.metrics import Metrics
from dataset.search.options import SiteOptions
from dataset.search.screen import Screen
from dataset.search.server import http_server, listen
from dataset.search.service import ServedIndex, Service
from dataset.search.site import Site, make_site
from dataset.search.terms import Sources
from dataset.search.work_queue import WorkQueue

DIMENSIONS = 16


def unit_rows(rows: int, seed: int = 0, dimensions: int = DIMENSIONS) -> npt.NDArray[np.float32]:
    drawn = np.random.default_rng(seed).normal(size=(rows, dimensions))
    found: npt.NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return found


@dataclass
class TinyEngine:
    """Rows with ids from `first_id` on; a filter is min-width=N; unsafe is a row whose punsafe is 0.5 or more."""

    vectors: npt.NDArray[np.float32]
    table: list[dict[str, Any]]
    name: str = "tiny"
    release: str = ""
    generation: str = "one"
    text_vectors: npt.NDArray[np.float32] | None = None
    first_id: int = 10
    model: str | None = None
    model_sha256: str = ""
    can_be_safe: bool = True
    before_search: Callable[[], object] = int
    has_groups: bool = False
    searches: list[tuple[int, int]] = field(default_factory=list)
    """(queries, k) of each search."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image",) if self.text_vectors is None else ("image", "text")

    def _of(self, modality: str) -> npt.NDArray[np.float32]:
        found = self.vectors if modality == "image" else self.text_vectors
        assert found is not None
        return found

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.table[0])

    def __len__(self) -> int:
        return len(self.table)

    def parse_filter(self, text: str, *, safe: bool) -> object:
        name, _, width = text.partition("=")
        if text and name != "min-width":
            raise SearchError(400, f"The index has no facet {name}.", field="filters")
        return (int(width or 0), safe) if text or safe else None

    def _admitted(self, where: Any) -> npt.NDArray[np.bool_]:
        width, safe = where or (0, False)
        return np.array(
            [row.get("WIDTH", 0) >= width and not (safe and row.get("punsafe", 0) >= 0.5) for row in self.table], bool
        )

    def search(
        self, queries: npt.NDArray[np.float32], k: int, *, modality: str, where: Any, collapse: bool
    ) -> Sequence[Found]:
        self.before_search()
        self.searches.append((len(queries), k))
        admitted = np.nonzero(self._admitted(where))[0]
        found = []
        for query in queries:
            near = self._of(modality)[admitted] @ query
            order = np.argsort(-near, kind="stable")
            left_out = np.zeros(len(order), np.int64)
            if collapse:
                kept, left_out = distinct(self._of(modality)[admitted[order]].astype(np.float16), COLLAPSE_AT, k)
                order = order[kept]
            order, left_out = order[:k], left_out[:k]
            ids = admitted[order].astype(np.int64) + self.first_id
            found.append(Found(ids, near[order], left_out, ids))
        return found

    def near_duplicates(self, row: int, where: Any, most: int, modality: str) -> Near | None:
        place = row - self.first_id
        if not 0 <= place < len(self.table):
            return None
        near = np.flatnonzero((self._of(modality) @ self._of(modality)[place] >= COLLAPSE_AT) & self._admitted(where))
        near = near[near != place][:most]
        return Near(near + self.first_id, len(near) + 1)

    def count(self, where: Any, query: Any, at_least: float | None, modality: str) -> Count:
        admitted = self._admitted(where)
        if query is not None and at_least is not None:
            admitted &= self._of(modality) @ query >= at_least
        rows = int(admitted.sum())
        return Count(rows, rows, rows)

    def rows(self, ids: npt.NDArray[np.int64], columns: Sequence[str]) -> list[dict[str, Any] | None]:
        places = [int(id_) - self.first_id for id_ in ids]
        return [
            {name: self.table[place][name] for name in columns} if 0 <= place < len(self.table) else None
            for place in places
        ]

    def embeddings(self, ids: npt.NDArray[np.int64], modality: str) -> npt.NDArray[np.float16]:
        found = np.zeros((len(ids), self.dimensions), np.float16)
        known = (ids >= self.first_id) & (ids < self.first_id + len(self.table))
        found[known] = self._of(modality)[ids[known] - self.first_id]
        return found

    def facets(self) -> Mapping[str, Any]:
        return {"rows": len(self.table)}


def tiny_engine(rows: int = 300, **more: Any) -> TinyEngine:
    table = [
        {
            "url": f"https://example.org/{n}.jpg",
            "caption": f"caption {n}",
            "WIDTH": n,
            "HEIGHT": 2 * n,
            "similarity": float("nan") if n % 7 == 0 else n / 1000,
            "punsafe": 0.9 if n % 10 == 3 else 0.1,
            "hash": n * 1_000_003,
        }
        for n in range(rows)
    ]
    return TinyEngine(unit_rows(rows), table, **more)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_refuse)


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


@dataclass(frozen=True)
class Client:
    url: str
    service: Service
    site: Site
    port: int

    def ask(self, path: str, body: object = None, *, method: str | None = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, response.read(), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), dict(error.headers))


@contextmanager
def served(
    *engines: TinyEngine,
    options: SiteOptions | None = None,
    screen: Screen | None = None,
    threads: int = 2,
    most_cost: int = 256,
    start: Callable[[Metrics], Any] | None = None,
    **more: Any,
) -> Iterator[Client]:
    """Serve engines in a thread with its own event loop; `start` makes the sources' encoder there."""
    metrics = Metrics()
    queue = WorkQueue(threads, metrics, most_cost)
    listening = listen("127.0.0.1", 0)
    ready = threading.Event()
    made: list[Client] = []

    async def run() -> None:
        encoder = await start(metrics) if start else None
        service = Service(
            {engine.name: ServedIndex(engine, screen or Screen()) for engine in engines},
            Sources(encoder, FetcherClient(more.pop("fetcher", None)), metrics),
            queue,
            metrics,
            **more,
        )
        site = make_site(service, options or SiteOptions(per_second=0))
        server = http_server(site.app)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        port = listening.getsockname()[1]
        made.append(Client(f"http://127.0.0.1:{port}", service, site, port))
        stopping.append(lambda: setattr(server, "should_exit", True))
        ready.set()
        await server.serve(sockets=[listening])
        site.close()
        if encoder is not None:
            await encoder.close()

    stopping: list[Callable[[], None]] = []
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(180)
    try:
        yield made[0]
    finally:
        stopping[0]()
        thread.join()
        queue.close()
        listening.close()
