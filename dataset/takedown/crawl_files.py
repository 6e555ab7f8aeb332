"""Crawl phase: removed rows leave the shards, packs, parts and embeddings that they came from.

A row of a shard or a pack is blanked, because others are named by their place; a row of a part, its scores, tar and
embeddings is dropped. Each unit is one output of the manifest, and may be repeated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from dataset.formats.embeddings import IMAGES, METADATA, TEXTS, embeddings_folder, remove_embeddings
from dataset.formats.packs import blank_rows
from dataset.formats.parts import Verdict, remove_pairs
from dataset.formats.releases import Release
from dataset.safety.removal import remove_members, remove_samples
from dataset.store.store import Store

_EMBEDDINGS = tuple(embeddings_folder("") + f"/{name}" for name in (IMAGES, TEXTS, METADATA))


class CrawlFile(StrEnum):
    """A kind of output that holds copies of a row; the value is the column of the targets that names it."""

    SHARD = "shard"
    PART = "part"
    EMBEDDINGS = "embeddings"
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class CrawlUnit:
    """An output of an input's store, and the keys of the rows that leave it, or their places in a pack."""

    kind: CrawlFile
    store: str
    stem: str
    keys: tuple[str, ...]
    rows: tuple[int, ...]


def plan_units(release: Release, targets: pa.Table) -> Iterator[CrawlUnit]:
    """Yield the outputs that hold copies of the targets, in a fixed order."""
    found: dict[tuple[CrawlFile, str, str], tuple[set[str], set[int]]] = {}
    stores = [one.store for one in release.record.inputs]
    for row in targets.to_pylist():
        if row["input"] is None:
            continue
        for kind in CrawlFile:
            stems = row[kind.value]
            for stem in [stems] if isinstance(stems, str) else stems or ():
                keys, rows = found.setdefault((kind, stores[row["input"]], stem), (set(), set()))
                keys.update([] if row["key"] is None else [f"{row['key']:015d}"])
                if row["pack_row"] is not None:
                    rows.add(row["pack_row"])
    for (kind, store, stem), (keys, rows) in sorted(found.items()):
        yield CrawlUnit(kind, store, stem, tuple(sorted(keys)), tuple(sorted(rows)))


def remove_from(store: Store, unit: CrawlUnit) -> int:
    """Remove the rows of a unit from its files; return the bytes that were written.

    Raises: StoreError when a file cannot be written; the next call goes on from there.
    """
    before = _sizes(store, unit)
    match unit.kind:
        case CrawlFile.SHARD:
            if store.exists(f"{unit.stem}.parquet"):
                remove_samples(store, unit.stem, dict.fromkeys(unit.keys, Verdict.RESTRICTED))
        case CrawlFile.PART:
            remove_members(store, f"{unit.stem}.tar", unit.keys)
            remove_pairs(store, unit.stem, unit.keys)
        case CrawlFile.EMBEDDINGS:
            remove_embeddings(store, unit.stem, unit.keys)
        case CrawlFile.PACK:
            if store.exists(f"{unit.stem}.parquet"):
                blank_rows(store, f"{unit.stem}.parquet", unit.rows)
    return before


def _sizes(store: Store, unit: CrawlUnit) -> int:
    """Return the bytes of the files that a unit rewrites."""
    endings = {
        CrawlFile.SHARD: (".tar", ".parquet"),
        CrawlFile.PART: (".tar", ".parquet", ".scores.parquet", *_EMBEDDINGS),
        CrawlFile.EMBEDDINGS: _EMBEDDINGS,
        CrawlFile.PACK: (".parquet",),
    }[unit.kind]
    paths = [f"{unit.stem}{ending}" for ending in endings]
    return sum(store.size(path) for path in paths if store.exists(path))
