"""Where removed rows came from: the files of their crawls that have a copy of them.

    id ─▶ source/ (input, key) ─▶ the input's manifest: the shard by its job, the part by the keys in it, embeddings by
                                  what they were made of, the pack by the shard's row

The manifest does not say which part was made of which shard; a part has samples of one shard, so its first key tells.
What is no longer there is null.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.manifest import ManifestError, Output, OutputKind, outputs
from dataset.formats.releases import ReleaseInput
from dataset.formats.takedowns import FOUND_SCHEMA, TARGETS_SCHEMA
from dataset.select.pictures import KEY_POSITIONS, source_rows
from dataset.store.store import Store, StoreError
from dataset.takedown.plan import Work

PARTS_TRIED = 10_000
"""Filter jobs begin minutes after their shard's download, when other shards are filtered too."""


def write_targets(work: Work, files: int) -> int:
    """Write where each found row came from; return the number of rows. `files` is the number of data files.

    Rows of the crawls that the release does not have come last, without an id.

    Raises: ManifestError, StoreError when the store of a crawl cannot be read.
    """
    path = work.path("targets.parquet")
    if not work.store.exists(path):
        found = [work.store.read_table(work.path(f"found/{at:06d}.parquet")) for at in range(files)]
        rows = pa.concat_tables([FOUND_SCHEMA.empty_table(), *found]).sort_by("id")
        crawled = [work.store.read_table(one) for one in work.store.list(work.path("crawl_found"))]
        work.store.write_table(path, pa.concat_tables([_trace(work, rows), *crawled]))
    return len(work.store.read_table(path, ["id"]))


def read_targets(work: Work) -> pa.Table:
    """Read what `write_targets` wrote."""
    return work.store.read_table(work.path("targets.parquet"))


def _trace(work: Work, found: pa.Table) -> pa.Table:
    ids = found["id"].to_numpy()
    inputs, keys = source_rows(work.release, ids) if len(ids) else (ids, ids)
    rows: list[dict[str, Any]] = [
        {"id": row["id"], "reason": row["reason"]} | ({"input": int(one), "key": int(key)} if one >= 0 else {})
        for row, one, key in zip(found.to_pylist(), inputs, keys, strict=True)
    ]
    by_input: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "key" in row:
            by_input[row["input"]].append(row)
    for number, some in sorted(by_input.items()):
        described = work.release.record.inputs[number]
        trace_rows(work.release.input_store(described.store), described, some)
    return pa.Table.from_pylist(rows, schema=TARGETS_SCHEMA)


def trace_rows(store: Store, described: ReleaseInput, rows: Sequence[dict[str, Any]]) -> None:
    """Add shard, part, embeddings, pack and pack_row to rows with keys of one input; what is not there is left out.

    Raises: ManifestError, StoreError when the crawl's store is there and cannot be read.
    """
    jobs: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        jobs[row["key"] // KEY_POSITIONS].append(row)
    listed = _list_outputs(store, described.run, jobs.keys())
    if listed is None:
        return
    for job, some in jobs.items():
        shard = listed.shards.get(job)
        if shard is not None:
            places = _shard_places(store, shard)
            for row in some:
                row["shard"] = shard
                row["pack_id"], row["pack_row"] = places.get(f"{row['key']:015d}", (None, None))
    parts = dict(_find_parts(store, listed, sorted(jobs)))
    packs = _find_packs(store, described.run, {row["pack_id"] for row in rows if row.get("pack_id") is not None})
    for job, some in jobs.items():
        for row in some:
            row["part"] = parts.get(job)
            sources = {row.get("shard"), row.get("part")}
            row["embeddings"] = sorted(stem for stem, source in listed.embeddings if source in sources)
            row["pack"] = packs.get(row.pop("pack_id", None))


@dataclass(slots=True)
class _Listed:
    shards: dict[int, str] = field(default_factory=dict)
    """By job, of those that are wanted."""
    parts: list[tuple[int, str]] = field(default_factory=list)
    """Job and stem of the parts that may be of the wanted shards."""
    embeddings: list[tuple[str, str]] = field(default_factory=list)
    """Stem and source."""


def _list_outputs(store: Store, run: str, jobs: Collection[int]) -> _Listed | None:
    """Return what the manifest lists that may have the rows of shards; None if the crawl's store is gone."""
    listed, first = _Listed(), min(jobs)
    try:
        if not store.exists("manifest.parquet"):
            return None
        for output in outputs(store, run=run):
            if output.kind is OutputKind.SHARD and output.job in jobs:
                listed.shards[output.job] = output.path
            elif output.kind is OutputKind.PART and output.job >= first and output.rows:
                listed.parts.append((output.job, output.path))
            elif output.kind is OutputKind.EMBEDDINGS and output.source:
                listed.embeddings.append((output.path, output.source))
    except ManifestError as error:
        if "has no run" in str(error):
            return None
        raise
    listed.parts.sort()
    return listed


def _shard_places(store: Store, shard: str) -> dict[str, tuple[int, int]]:
    """Return the pack and row of each link of a shard, by its key."""
    try:
        rows = store.read_table(f"{shard}.parquet", ["key", "pack", "pack_row"])
    except StoreError:
        return {}
    places = zip(rows["pack"].to_pylist(), rows["pack_row"].to_pylist(), strict=True)
    return dict(zip(rows["key"].to_pylist(), places, strict=True))


def _find_parts(store: Store, listed: _Listed, jobs: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield a shard's job and its part's stem, for each wanted shard; each part's footer is read at most once."""
    jobs_of: dict[str, int | None] = {}
    numbers = np.array([job for job, _ in listed.parts], np.int64)
    for job in jobs:
        start = int(np.searchsorted(numbers, job))
        for _, stem in listed.parts[start : start + PARTS_TRIED]:
            if stem not in jobs_of:
                jobs_of[stem] = _shard_job(store, stem)
            if jobs_of[stem] == job:
                yield job, stem
                break


def _shard_job(store: Store, part: str) -> int | None:
    """Return the job of the shard that a part was made of, by its first key; None if it has none any more."""
    try:
        with store.open_input(f"{part}.parquet") as file:
            parquet = pq.ParquetFile(file)
            for batch in parquet.iter_batches(1, columns=["key"]):
                if len(batch):
                    return int(batch["key"][0].as_py()) // KEY_POSITIONS
    except (OSError, StoreError, pa.ArrowException):
        return None
    return None


def _find_packs(store: Store, run: str, wanted: set[int]) -> dict[int | None, str]:
    """Return the stems of packs by their numbers."""
    if not wanted:
        return {}
    packs: Iterator[Output] = outputs(store, kind=OutputKind.PACK, run=run)
    return {output.output_id: output.path for output in packs if output.output_id in wanted}
