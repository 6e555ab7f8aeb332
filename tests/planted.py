"""Releases with planted near-duplicates, for the tests and the benchmark of `dataset dedup`.

Vectors have the neighbourhood statistics of real ViT-B/32 embeddings: one mean direction, topics, subjects by Zipf's
law, and a part of their own, on a spectrum that falls. Of the rows, a third are copies in groups whose sizes follow a
power law; a third of the copies are equal, the others lie at .90 to .9995. Some rows are chains of near-duplicates,
and some are templates: different pictures at .93.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.json_records import to_json
from dataset.formats.npy import write_header
from dataset.formats.release_embeddings import (
    FORMAT,
    RECORD,
    EmbeddingModel,
    EmbeddingsFile,
    EmbeddingsRecord,
    embeddings_path,
    image_path,
    metadata_path,
)
from dataset.formats.release_parquet import TableWriter, table_writer
from dataset.formats.releases import FORMAT as RELEASE_FORMAT
from dataset.formats.releases import (
    HOSTS,
    HOSTS_SCHEMA,
    CardDetails,
    FileKind,
    Release,
    ReleaseBatch,
    ReleaseFile,
    ReleaseOptions,
    ReleaseRecord,
    SubsetRows,
    data_schema,
    extended_schema,
    table_path,
)
from dataset.formats.releases import RECORD as RELEASE_RECORD
from dataset.store.store import Store

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

MODEL = "ViT-L-14"
TOPICS, SUBJECTS, ZIPF = 150, 6_000, 0.7
MEAN, CENTRED = 0.72, 0.694
LARGEST_SHARE = 0.02
"""Of the rows, the largest group."""
CHAIN_LINKS, TEMPLATE_VARIANTS = 30, 20


@dataclass(frozen=True, slots=True)
class Space:
    """The directions of a model's embeddings."""

    mean: Floats
    rotation: Floats
    topics: Floats
    subjects: Floats
    topic_of: npt.NDArray[np.int64]
    shared: Floats
    own: Floats

    @classmethod
    @lru_cache(4)
    def draw(cls, dimensions: int, seed: int = 0) -> "Space":
        """Draw them."""
        draw = np.random.default_rng([seed, dimensions])
        mean = draw.standard_normal(dimensions, np.float32)
        rotation = np.linalg.qr(draw.standard_normal((dimensions, dimensions), np.float32))[0]
        shared, own = _spread(dimensions, 1.0), _spread(dimensions, 0.9)
        return cls(
            mean / np.linalg.norm(mean),
            rotation,
            draw.standard_normal((TOPICS, dimensions), np.float32) * shared,
            draw.standard_normal((SUBJECTS, dimensions), np.float32) * shared,
            draw.integers(0, TOPICS, SUBJECTS),
            shared,
            own,
        )

    def originals(self, rows: int, draw: np.random.Generator) -> Floats:
        """Return unit rows of different pictures -> (rows, D)."""
        weights = np.arange(1, SUBJECTS + 1.0) ** -ZIPF
        subject = draw.choice(SUBJECTS, rows, p=weights / weights.sum())
        share = draw.uniform(0.15, 0.75, (rows, 1)).astype(np.float32)
        centred = np.sqrt(0.35 * (1 - share)) * self.topics[self.topic_of[subject]]
        centred += np.sqrt(0.65 * (1 - share)) * self.subjects[subject]
        centred += np.sqrt(share) * draw.standard_normal((rows, len(self.mean)), np.float32) * self.own
        return _unit(MEAN * self.mean + CENTRED * (centred @ self.rotation))

    def copies(
        self, of: npt.NDArray[np.floating], cosines: npt.NDArray[np.floating], draw: np.random.Generator
    ) -> Floats:
        """Return a row at each cosine to a given row -> (N, D); 40 % share the direction of one of 12 edits."""
        of = _unit(of.astype(np.float32))
        edits = _unit(
            (np.random.default_rng(9).standard_normal((12, len(self.mean)), np.float32) * self.own) @ self.rotation
        )
        noise = _unit((draw.standard_normal(of.shape, np.float32) * self.own) @ self.rotation)
        edited = np.where(draw.random(len(of)) < 0.4, 0.4, 0.0).astype(np.float32)[:, None]
        noise = _unit(np.sqrt(1 - edited) * noise + np.sqrt(edited) * edits[draw.integers(0, len(edits), len(of))])
        noise = _unit(noise - np.einsum("nd,nd->n", noise, of)[:, None] * of)
        cosine = cosines.astype(np.float32)[:, None]
        found: Floats = cosine * of + np.sqrt(1 - cosine * cosine) * noise
        return found


def planted(rows: int, *, dimensions: int = 768, seed: int = 1) -> Halves:
    """Return rows with planted near-duplicates, in a random order -> (rows, D) float16."""
    space, draw = Space.draw(dimensions), np.random.default_rng(seed)
    found = np.empty((rows, dimensions), np.float16)
    chains, templates = rows * 6 // 1000 // CHAIN_LINKS, rows * 12 // 1000 // TEMPLATE_VARIANTS
    copies = rows * 28 // 100
    base = rows - copies - chains * CHAIN_LINKS - templates * TEMPLATE_VARIANTS
    for start in range(0, base, 20_000):
        end = min(base, start + 20_000)
        found[start:end] = space.originals(end - start, draw)
    sizes = _group_sizes(rows, copies, draw)
    owners = draw.permutation(base)
    source = np.repeat(owners[: len(sizes)], sizes)
    for start in range(0, copies, 20_000):
        of = found[source[start : start + 20_000]]
        cosines = _copy_cosines(len(of), draw)
        part = found[base + start : base + start + len(of)]
        part[:] = space.copies(of, cosines, draw)
        part[cosines == 1] = of[cosines == 1]
    at, current = base + copies, found[owners[len(sizes) : len(sizes) + chains]]
    for _ in range(CHAIN_LINKS):
        current = space.copies(current, np.full(chains, 0.955), draw).astype(np.float16)
        found[at : at + chains] = current
        at += chains
    of = found[owners[len(sizes) + chains : len(sizes) + chains + templates]]
    for _ in range(TEMPLATE_VARIANTS):
        found[at : at + templates] = space.copies(of, draw.uniform(0.955, 0.97, templates), draw)
        at += templates
    draw.shuffle(found)
    return found


def put_release(
    store: Store,
    name: str,
    batches: Sequence[Halves],
    *,
    rows_per_file: int = 1_000_000,
    embeddings_per_file: int = 250_000,
    order_seed: int = 5,
    best: npt.NDArray[np.bool_] | None = None,
    pdq: Sequence[bytes | None] = (),
) -> Release:
    """Write a release of batches of rows, and their embeddings in an order that `order_seed` draws.

    Row i of a batch has the id of the rows before it + i. Rows marked in `best` come first in the order of quality.
    With hashes `pdq`, by id, there are extended files, too.
    """
    files: list[ReleaseFile] = []
    described: list[ReleaseBatch] = []
    first = 0
    for at, vectors in enumerate(batches):
        batch = f"2026-11-{at + 1:02d}"
        described.append(_batch(batch, at, first, len(vectors)))
        count = -(-len(vectors) // rows_per_file)
        for number, start in enumerate(range(0, len(vectors), rows_per_file)):
            ids = np.arange(start, min(start + rows_per_file, len(vectors))) + first
            path = table_path(FileKind.DATA, "en", batch, number, count)
            marked = best[ids] if best is not None else np.zeros(len(ids), bool)
            with table_writer(store, f"releases/{name}/{path}", data_schema("en", aesthetic=False)) as writer:
                writer.write(data_rows(ids, marked))
            files.append(_file(path, FileKind.DATA, batch, ids, writer))
            if pdq:
                path = table_path(FileKind.EXTENDED, "en", batch, number, count)
                rows = [{"id": one, "pdq": pdq[one]} for one in ids.tolist()]
                with table_writer(store, f"releases/{name}/{path}", extended_schema({})) as writer:
                    writer.write(pa.Table.from_pylist(rows, extended_schema({})))
                files.append(_file(path, FileKind.EXTENDED, batch, ids, writer))
        _put_embeddings(store, name, batch, vectors, first, embeddings_per_file, order_seed)
        first += len(vectors)
    store.write_table(f"releases/{name}/{HOSTS}", HOSTS_SCHEMA.empty_table())
    record = _record(name, described, files, first)
    store.put(f"releases/{name}/{RELEASE_RECORD}", record.to_json())
    return Release(store, f"releases/{name}", record)


def data_rows(ids: npt.NDArray[np.int64], best: npt.NDArray[np.bool_]) -> pa.Table:
    """Return rows of a data file that depend on nothing but their ids."""
    draws = np.random.default_rng([7, int(ids[0])])
    count = len(ids)
    similarity = np.where(best, 0.9, 0.28 + draws.random(count) / 10)
    texts = ids.tolist()
    return pa.table(
        {
            "URL": [f"https://host{one % 97}.example.com/{one}.jpg" for one in texts],
            "TEXT": [f"caption {one % 1009} of {one}" for one in texts],
            "WIDTH": np.where(best, 3_000, draws.integers(64, 2_000, count)).astype(np.int32),
            "HEIGHT": np.where(best, 3_000, draws.integers(64, 2_000, count)).astype(np.int32),
            "similarity": similarity,
            "hash": (ids * 1_000_003).astype(np.int64),
            "pwatermark": np.where(best, 0, draws.random(count)).astype(np.float32),
            "punsafe": np.where(best, 0, draws.random(count) * 0.6).astype(np.float32),
            "id": ids,
            "sha256": [f"{one * 0x9E3779B97F4A7C15 % 2**64:016x}".ljust(64, "0") for one in texts],
        },
        schema=data_schema("en", aesthetic=False),
    )


def _put_embeddings(
    store: Store, name: str, batch: str, vectors: Halves, first: int, rows_per_file: int, order_seed: int
) -> None:
    order = np.random.default_rng([order_seed, first]).permutation(len(vectors))
    folder = f"releases/{name}/{embeddings_path(MODEL, batch)}"
    files = []
    for number, start in enumerate(range(0, len(vectors), rows_per_file)):
        chosen = order[start : start + rows_per_file]
        with store.write(f"{folder}/{image_path(number)}") as file:
            write_header(file, len(chosen), vectors.shape[1])
            for some in _in_pieces(chosen):
                file.write(vectors[some].tobytes())
        store.write_table(f"{folder}/{metadata_path(number)}", pa.table({"id": chosen + first}))
        files += [
            EmbeddingsFile(
                path=path, rows=len(chosen), bytes=store.size(f"{folder}/{path}"), sha256=f"{order_seed:064x}"
            )
            for path in (image_path(number), metadata_path(number))
        ]
    record = EmbeddingsRecord(
        format=FORMAT,
        release=name,
        version="1.0.0",
        batch=batch,
        model=EmbeddingModel(MODEL, "a" * 64, "b" * 64),
        dimensions=vectors.shape[1],
        rows=len(vectors),
        source_rows=len(vectors),
        left_out={},
        missing={},
        files=tuple(files),
    )
    store.put(f"{folder}/{RECORD}", to_json(record))


def _in_pieces(chosen: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(chosen), 20_000):
        yield chosen[start : start + 20_000]


def _batch(batch: str, at: int, first: int, rows: int) -> ReleaseBatch:
    subsets = {"en": SubsetRows(first_id=first, rows=rows)}
    return ReleaseBatch(
        name=batch, version=f"1.{at}.0", writer=pa.__version__, inputs=(), subsets=subsets, dropped={}, contacts={}
    )


def _file(path: str, kind: FileKind, batch: str, ids: npt.NDArray[np.int64], writer: TableWriter) -> ReleaseFile:
    return ReleaseFile(
        path=path, kind=kind, subset="en", batch=batch, variant=None, rows=len(ids), bytes=writer.file.bytes,
        sha256=writer.file.sha256, first_id=int(ids[0]), last_id=int(ids[-1]),
    )  # fmt: skip


def _record(name: str, batches: list[ReleaseBatch], files: list[ReleaseFile], next_id: int) -> ReleaseRecord:
    return ReleaseRecord(
        format=RELEASE_FORMAT,
        name=name,
        version=batches[-1].version,
        previous=None,
        published="2026-11-26T00:00:00Z",
        inputs=(),
        options=ReleaseOptions(unique=(), drop_contacts=False, mixed=False, variants={}, rows_per_file=1_000_000),
        card=CardDetails(),
        columns={},
        aesthetic=False,
        next_id=next_id,
        batches=tuple(batches),
        removed={},
        files=tuple(files),
    )


def _group_sizes(rows: int, copies: int, draw: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many copies each group has; their sum is `copies`."""
    scale = rows / 1e6
    large = [int(one * scale) for one in (20_000, 10_000, 5_000, 5_000, *[2_000] * 5, *[1_000] * 10)]
    sizes = [one for one in large if one >= 50]
    weights = np.arange(2, 501.0) ** -2.5
    left = copies - sum(sizes)
    drawn = draw.choice(np.arange(1, 500), left, p=weights / weights.sum())
    small = drawn[: int(np.searchsorted(np.cumsum(drawn), left)) + 1].astype(np.int64)
    small[-1] -= small.sum() - left
    return np.array([*sizes, *small[small > 0].tolist()], np.int64)


def _copy_cosines(count: int, draw: np.random.Generator) -> npt.NDArray[np.float64]:
    kind = draw.random(count)
    bounds = [(0.35, 1.0, 1.0), (0.60, 0.985, 0.9995), (0.85, 0.96, 0.985), (1.0, 0.90, 0.96)]
    found = np.empty(count)
    lowest = 0.0
    for below, low, high in bounds:
        mine = (kind >= lowest) & (kind < below)
        found[mine] = draw.uniform(low, high, int(mine.sum()))
        lowest = below
    return found


def _spread(dimensions: int, exponent: float) -> Floats:
    variances = np.arange(1, dimensions + 1.0) ** -exponent
    found: Floats = np.sqrt(variances / variances.sum()).astype(np.float32)
    return found


def _unit(rows: npt.NDArray[np.floating]) -> Floats:
    found: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found
