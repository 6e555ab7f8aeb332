"""Indexes for tests: a release with embeddings in a real store, and folders of vectors as others write them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.index_files import IndexRecord
from dataset.formats.releases import FileKind, Release, open_release
from dataset.index.jobs import build
from dataset.index.plan import IndexOptions, work_on_folder, work_on_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.store.store import Store
from tests.embeddings import put_embeddings, vector
from tests.parts import MadeStore, in_parts, make_pair

BATCH = "2026-11-26"
LANGUAGES = ("de", "fr", "ja")
DIMENSIONS = 16
MEASURED = {"speed.json", "README.md", ".lock"}
"""Files of an index that differ between equal builds: they hold times."""

Rows = npt.NDArray[np.float32]


def publish_batch(made: MadeStore, run: str, seeds: Sequence[int], batch: str = BATCH) -> Release:
    """Put a run with embeddings, publish it as a batch, and gather its embeddings."""
    pairs = [
        make_pair(seed) if seed % 2 else make_pair(seed, subset="multi", LANGUAGE=LANGUAGES[seed // 2 % 3])
        for seed in seeds
    ]
    put_embeddings(made.store, made.put_run(run, in_parts(pairs, 100)))
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", run)], batch=batch, rows_per_file=150))
    release = open_release(made.store, "laion")
    consolidate(release, Request(model="ViT-L-14", batch=batch, rows_per_file=170))
    return release


def made_release(folder: Path, rows: int = 400) -> Release:
    """Publish a release with so many rows and their embeddings in the store `folder`."""
    return publish_batch(MadeStore(Store.open(str(folder))), "crawl", range(rows))


def build_index(release: Release, **options: Any) -> tuple[Path, IndexRecord]:
    """Build an index of a release; return its folder and record."""
    restart = options.pop("restart", False)
    wanted: dict[str, Any] = {"model": "ViT-L-14", "held_out": 16} | options
    asked = IndexOptions(**wanted)
    record = build(partial(work_on_release, release, asked), restart=restart)
    path = release.store.local_path(release.path(f"index/ViT-L-14/{asked.modality}/index.json"))
    assert path is not None
    return path.parent, record


def rows_by_id(release: Release) -> dict[int, dict[str, Any]]:
    """Read all rows of a release by id, with their keys and subsets."""
    found = {}
    files = zip(release.files(FileKind.DATA), release.files(FileKind.SOURCE), strict=True)
    for data, source in files:
        rows = release.store.read_table(release.path(data.path)).to_pylist()
        for row, one in zip(rows, release.store.read_table(release.path(source.path)).to_pylist(), strict=True):
            found[row["id"]] = row | {"key": one["key"], "subset": data.subset}
    return found


def vectors_by_id(release: Release, kind: str = "image") -> tuple[npt.NDArray[np.int64], Rows]:
    """Return the ids of a release in order, and the vectors that its rows must have."""
    rows = rows_by_id(release)
    ids = np.array(sorted(rows), np.int64)
    return ids, np.stack([vector(kind, rows[one]["key"]) for one in ids.tolist()]).astype(np.float32)


def put_vectors(folder: Path, counts: Sequence[int], *, dimensions: int = DIMENSIONS, **changes: Any) -> Rows:
    """Write .npy files, float32 of any length, and parquet files beside them; return the unit rows."""
    draw = np.random.default_rng(7)
    store = Store.open(str(folder))
    found = []
    for at, count in enumerate(counts):
        rows = draw.normal(size=(count, dimensions)).astype(np.float32) * 3
        found.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        with store.write(f"vectors_{at}.npy") as file:
            np.save(file, rows)
        if changes.get("tables", True):
            columns = {
                "url": [f"https://www.host{row % 5}.example/{at}/{row}.jpg" for row in range(count)],
                "caption": [None if row % 7 == 0 else f"caption {at} {row} äöü" for row in range(count)],
                "punsafe": draw.random(count).astype(np.float32),
                "tags": [[str(row)] for row in range(count)],
            }
            store.write_table(f"vectors_{at}.parquet", pa.table(columns))
    return np.concatenate(found)


def build_folder(folder: Path, **options: Any) -> tuple[Path, IndexRecord]:
    """Build the index of a folder of vectors; return its folder and record."""
    wanted: dict[str, Any] = {"model": "", "held_out": 16} | options
    asked = IndexOptions(**wanted)
    record = build(partial(work_on_folder, str(folder), None, asked))
    return folder / "index" / "vectors" / "image", record
