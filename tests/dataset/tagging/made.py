"""A published release with embeddings and kept pictures, and heads for it."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dataset.formats.releases import Release, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.recipe.tags import Tag
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.store.store import Store
from dataset.tags.heads import Embedder, Head, Layer, Output, add_head
from dataset.tags.picture_heads import PictureLayout, picture_head_bytes
from tests.embeddings import put_embeddings
from tests.manifests import put_manifest
from tests.parts import MadeStore, in_parts, make_pair

MODEL = "ViT-L-14"
DIMENSIONS = 16
ROWS, PART_ROWS = 200, 50
LAYOUT = PictureLayout("mobilenetv3_small_050", 32, ("watermark", "clear"))
BROKEN_EVERY = 17
"""Of the kept pictures, one in so many cannot be decoded."""


def linear_head(tag: Tag = Tag.PUNSAFE, seed: int = 1, sha256: str | None = "a" * 64, dimensions: int = 16) -> Head:
    """Return a head whose weights are drawn."""
    weight = np.random.default_rng(seed).normal(0, 3, (1, dimensions)).astype(np.float32)
    layer = Layer(weight, np.zeros(1, np.float32), False)
    return Head(tag, (layer,), Output.SIGMOID, Embedder(MODEL, sha256), about={"source": f"seed {seed}"})


def picture_head() -> bytes:
    """Return the file of a small classifier of watermarks with random weights."""
    torch.manual_seed(5)
    state = {name: tensor.numpy() for name, tensor in LAYOUT.network().eval().state_dict().items()}
    return picture_head_bytes(LAYOUT, Tag.PWATERMARK, state, {})


def picture_of(key: str) -> bytes:
    """Return the picture of a row, a PNG of some colours, or a damaged one."""
    if int(key) % BROKEN_EVERY == 0:
        return b"not a picture"
    colours = np.random.default_rng(int(key)).integers(0, 256, (4, 6, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(colours).resize((60, 40)).save(data, "PNG")
    return data.getvalue()


def made_release(folder: Path) -> Release:
    """Publish 200 rows of 4 parts in files of 60: two shards keep their tars, one part has its own, one has none.

    The rows have embeddings; the store has the heads `unsafe` of embeddings, with a model card, and `mark` of pictures.
    """
    made = MadeStore(Store.open(str(folder)))
    pairs = [make_pair(seed, subset=("en", "multi")[seed % 2]) for seed in range(ROWS)]
    put_embeddings(made.store, made.put_run("crawl", in_parts(pairs, PART_ROWS)))
    shards = []
    for at, part in enumerate(made.listed):
        rows = made.store.read_table(f"{part['path']}.parquet").to_pylist()
        shard = {
            "kind": "shard",
            "run": "crawl",
            "path": rows[0]["shard"],
            "job": part["job"],
            "tar_bytes": int(at < 2),
        }
        keys = [row["key"] for row in rows]
        if at < 2:
            _put_tar(made.store, rows[0]["shard"], keys)
        if at == 2:
            part["tar_bytes"] = _put_tar(made.store, str(part["path"]), keys)
        part["job"] = 100 + at
        shards.append(shard)
    put_manifest(made.store, [*shards, *made.listed])
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], rows_per_file=60))
    release = open_release(made.store, "laion")
    consolidate(release, Request(model=MODEL, batch=release.record.batches[0].name, rows_per_file=90))
    add_head(made.store, "unsafe", linear_head().to_bytes())
    made.store.put("heads/unsafe.md", b"# unsafe\n\nA card.\n")
    add_head(made.store, "mark", picture_head())
    return release


def _put_tar(store: Store, path: str, keys: list[str]) -> int:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for key in keys:
            for ending, content in (("png", picture_of(key)), ("txt", b"text")):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    store.put(f"{path}.tar", data.getvalue())
    return len(data.getvalue())
