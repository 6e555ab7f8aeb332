"""A crawl with every kind of file, and the release of it, for tests of takedowns."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.packs import PACK_SCHEMA, PackWriter
from dataset.formats.parts import SCORES_SCHEMA
from dataset.formats.releases import Release, open_release
from dataset.formats.shards import SHARD_SCHEMA
from dataset.formats.url_hashes import url_hashes
from dataset.index.jobs import build
from dataset.index.plan import IndexOptions, work_on_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.recipe.tags import Tag
from dataset.release_embeddings.consolidate import Request as EmbeddingsRequest
from dataset.release_embeddings.consolidate import consolidate
from dataset.side_tables.join import join_tables
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from dataset.tagging.given_heads import find_heads
from dataset.tagging.run import tag
from dataset.tags.heads import Embedder, Head, Layer, Output, add_head
from tests.embeddings import MODEL, put_embeddings
from tests.manifests import put_manifest
from tests.parts import MadeStore, make_pair

BATCH = "2026-11-26"
PER_SHARD = 20
SUBSETS = ("en", "multi", "nolang")


def sample(seed: int) -> dict[str, Any]:
    """Return the row of a part for the link of this number; each three successive shards have three subsets."""
    subset = SUBSETS[seed // PER_SHARD % 3]
    language = {"en": "en", "multi": "de", "nolang": None}[subset]
    sha1 = hashlib.sha1(str(seed).encode()).hexdigest()
    return make_pair(seed, subset=subset, LANGUAGE=language, sha1=sha1, pack=1_000 + seed // PER_SHARD,
                     pack_row=seed % PER_SHARD, key=key_of(seed))  # fmt: skip


def key_of(seed: int) -> str:
    """Return the key of a link: shard jobs are numbered from 100 on."""
    return f"{100 + seed // PER_SHARD:010d}{seed % PER_SHARD:05d}"


def make_crawl(folder: Path, shards: int = 6) -> Store:
    """Write shards, tars, packs, parts, scores, embeddings of two models, and the manifest."""
    made = MadeStore(Store.open(str(folder)))
    listed: list[dict[str, object]] = []
    for shard in range(shards):
        rows = [sample(seed) for seed in range(shard * PER_SHARD, (shard + 1) * PER_SHARD)]
        (part,) = made.put_run("crawl", [rows])
        stem = part.removesuffix(".parquet")
        _put_scores(made.store, stem, rows)
        put_embeddings(made.store, [part])
        put_tar(made.store, f"{stem}.tar", rows)
        _put_shard(made.store, shard, rows)
        _put_pack(made.store, shard, rows)
        count = len(rows)
        listed.append({"kind": "pack", "path": f"crawl/packs/{shard}.0", "output_id": 1_000 + shard, "rows": count})
        listed.append({"kind": "shard", "path": f"crawl/shards/{shard}", "job": 100 + shard, "rows": count,
                       "tar_bytes": 1})  # fmt: skip
        listed.append({"kind": "part", "path": stem, "job": 200 + shard, "rows": count, "tar_bytes": 1})
        second = f"crawl/embeddings/second/{shard}"
        _put_second(made.store, part, second)
        listed.append({"kind": "embeddings", "path": second, "job": 300 + shard, "rows": count, "source": stem})
    put_manifest(made.store, [{"output_id": at} | row | {"run": "crawl"} for at, row in enumerate(listed)])
    return made.store


def make_release(
    store: Store, name: str = "laion", rows_per_file: int = 15, index: str = "", **options: Any
) -> Release:
    """Publish the crawl with a variant, consolidate the embeddings of two models, and join a side table.

    `index` is the kind of an index that is built, '' for none.
    """
    publish(
        store,
        Request(name=name, inputs=[InputName(".", "crawl")], batch=BATCH, rows_per_file=rows_per_file,
                variants={"safe": "punsafe < 0.5"}, **options),
    )  # fmt: skip
    release = open_release(store, name)
    for model in (MODEL["shoal.model"], SECOND["shoal.model"]):
        consolidate(release, EmbeddingsRequest(model=model, batch=BATCH, rows_per_file=40))
    make_captions(store, release)
    if index:
        asked = IndexOptions(model=MODEL["shoal.model"], kind=index, lists=4 if index != "flat" else 0, held_out=8)
        build(partial(work_on_release, release, asked))
    return release


def make_captions(store: Store, release: Release) -> None:
    """Join a side table with the captions of a release."""
    captions = pa.concat_tables(store.read_table(release.path(file.path), ["id", "TEXT"]) for file in _data(release))
    store.write_table("captions.parquet", captions.rename_columns(["id", "caption"]))
    source = TableSource.open(f"{store.uri}/captions.parquet", JoinOn.ID, None)
    try:
        join_tables(release, "captions", source, said="captions")
    finally:
        store.delete("captions.parquet")


def make_tables(release: Release) -> None:
    """Write the side tables of builds: near-duplicates, and tags by a head of embeddings."""
    search(release, Options(model=MODEL["shoal.model"], at=0.94))
    weight = np.random.default_rng(1).normal(0, 3, (1, 16)).astype(np.float32)
    layer = Layer(weight, np.zeros(1, np.float32), False)
    embedder = Embedder(MODEL["shoal.model"], MODEL["shoal.sha256"])
    add_head(release.store, "unsafe", Head(Tag.PUNSAFE, (layer,), Output.SIGMOID, embedder).to_bytes())
    tag(release, find_heads(release.store, ["unsafe"]))


SECOND = {"shoal.model": "second", "shoal.sha256": "d" * 64, "shoal.config_sha256": "e" * 64}


def _data(release: Release) -> list[Any]:
    return [file for file in release.record.files if file.kind == "data"]


def _put_scores(store: Store, stem: str, rows: list[dict[str, Any]]) -> None:
    scores = [{"hash": row["hash"], "key": row["key"], "similarity": row["similarity"], "reason": "kept"}
              for row in rows]  # fmt: skip
    scores.append({"hash": 1, "key": rows[0]["key"][:10] + "99999", "similarity": 0.1, "reason": "below_threshold"})
    store.write_table(f"{stem}.scores.parquet", pa.Table.from_pylist(scores, schema=SCORES_SCHEMA), {"shoal.x": "y"})


def put_tar(store: Store, path: str, rows: list[dict[str, Any]], picture: bytes | None = None) -> None:
    """Write a tar of made-up pictures, or of the same picture for all rows."""
    with store.write(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            data = picture or b"picture " + row["sha256"].encode()
            members = {"jpg": data, "txt": row["TEXT"].encode(),
                       "json": row["URL"].encode()}  # fmt: skip
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{row['key']}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def _put_shard(store: Store, shard: int, rows: list[dict[str, Any]]) -> None:
    def told(row: Mapping[str, Any]) -> dict[str, Any]:
        return {"key": row["key"], "url": row["URL"], "caption": row["TEXT"], "status": "success",
                "sha256": row["sha256"], "md5": row["md5"], "outcome": "success", "final_url": row["URL"],
                "final": True, "attempt": 1, "language": row["LANGUAGE"], "subset": row["subset"],
                "pack": row["pack"], "pack_row": row["pack_row"]}  # fmt: skip

    put_tar(store, f"crawl/shards/{shard}.tar", rows)
    store.write_table(
        f"crawl/shards/{shard}.parquet", pa.Table.from_pylist([told(row) for row in rows], schema=SHARD_SCHEMA)
    )


def _put_pack(store: Store, shard: int, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(
        [{"url": row["URL"], "text": row["TEXT"], "language": row["LANGUAGE"], "probability": 0.9,
          "subset": row["subset"], "page_url": f"https://page.example/{row['key']}"} for row in rows],
        schema=PACK_SCHEMA,
    )  # fmt: skip
    with store.write(f"crawl/packs/{shard}.0.parquet") as file, PackWriter([file]) as pack:
        for start in range(0, len(table), 8):  # several row groups
            some = table.slice(start, 8)
            pack.write(some, url_hashes(some["url"]))
        pack.finish({"wat": "crawl-data/x.wat.gz"})


def _put_second(store: Store, part: str, stem: str) -> None:
    """Write the embeddings of a part by a second model, as `worker embed` does."""
    store.write_table(f"{stem}.parquet", store.read_table(part))
    put_embeddings(store, [f"{stem}.parquet"], model=SECOND, dimensions=8)
    store.delete(f"{stem}.parquet")
