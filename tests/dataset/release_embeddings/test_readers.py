"""The embeddings of a release are read by the programs that people use: real packages, in separate environments."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataset.formats.releases import open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.release_embeddings.consolidate import Request, consolidate
from dataset.store.store import Store
from tests.embeddings import put_embeddings
from tests.parts import MadeStore, in_parts, make_pair
from tests.readers import reader

ROOT = Path(__file__).resolve().parents[3]
BATCH = "2026-11-26"
ROWS, DIMENSIONS = 250, 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of a release in three files."""
    home = tmp_path_factory.mktemp("store")
    made = MadeStore(Store.open(str(home)))
    put_embeddings(made.store, made.put_run("crawl", in_parts([make_pair(seed) for seed in range(ROWS)])))
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], batch=BATCH))
    consolidate(open_release(made.store, "laion"), Request(model="ViT-L-14", batch=BATCH, rows_per_file=100))
    return home / "releases" / "laion" / "embeddings" / "ViT-L-14" / BATCH


@pytest.fixture(scope="module")
def images(folder: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.float16]]":
    return np.concatenate([np.load(path) for path in sorted(folder.glob("img_emb/*.npy"))])


@pytest.fixture(scope="module")
def ids(folder: Path) -> list[int]:
    return [row for path in sorted(folder.glob("metadata/*")) for row in pq.read_table(path)["id"].to_pylist()]


def run(name: str, program: str, *arguments: Path) -> str:
    """Run a program in the environment of a reader; return its last line."""
    command = [str(reader(name)), "-W", "ignore", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    *_, last = done.stdout.splitlines()
    return last


EMBEDDING_READER = """
import json, sys
from embedding_reader import EmbeddingReader
folder = sys.argv[1]
reader = EmbeddingReader(
    embeddings_folder=folder + "/img_emb", metadata_folder=folder + "/metadata", meta_columns=["id", "url"],
    file_format="parquet_npy",
)
rows, ids = [], []
for vectors, about in reader(batch_size=64, start=0, end=reader.count, show_progress=False):
    rows += vectors.tolist()
    ids += about["id"].tolist()
print(json.dumps([reader.dimension, rows, ids]))
"""


def test_embedding_reader_reads_vectors_with_their_ids(
    folder: Path, images: "np.ndarray[tuple[int, int], np.dtype[np.float16]]", ids: list[int]
) -> None:
    dimension, rows, found = json.loads(run("autofaiss", EMBEDDING_READER, folder))
    assert (dimension, found) == (DIMENSIONS, ids)
    assert np.array_equal(np.array(rows, np.float16), images)


AUTOFAISS = """
import json, sys
import numpy as np
from autofaiss import build_index
folder, out = sys.argv[1:]
index, about = build_index(folder + "/img_emb", index_path=out + "/knn.index", index_infos_path=out + "/infos.json",
                           metric_type="ip", max_index_memory_usage="100MB", current_memory_available="1GB",
                           save_on_disk=True)
queries = np.concatenate([np.load(f"{folder}/img_emb/img_emb_0000{at}.npy") for at in range(3)]).astype(np.float32)
print(json.dumps(index.search(queries, 1)[1][:, 0].tolist()))
"""


def test_autofaiss_builds_an_index_that_finds_each_row(folder: Path, tmp_path: Path) -> None:
    found = json.loads(run("autofaiss", AUTOFAISS, folder, tmp_path))
    assert np.mean(np.array(found) == np.arange(ROWS)) > 0.95


CLIP_RETRIEVAL = """
import json, sys
from dataset.models import torchvision_shim  # with a CPU's torch it cannot be imported otherwise
import faiss
import numpy as np
from clip_retrieval.clip_index import clip_index
folder, out = sys.argv[1:]
clip_index(folder, out, max_index_memory_usage="100MB", current_memory_available="1GB", nb_cores=1)
found = {}
for kind, name in (("image", "img_emb"), ("text", "text_emb")):
    index = faiss.read_index(f"{out}/{kind}.index")
    queries = np.concatenate([np.load(f"{folder}/{name}/{name}_0000{at}.npy") for at in range(3)])
    found[kind] = index.search(queries.astype(np.float32), 1)[1][:, 0].tolist()
print(json.dumps(found))
"""


def test_clip_retrieval_indexes_pictures_and_texts(folder: Path, tmp_path: Path) -> None:
    found = json.loads(run("clip-retrieval", CLIP_RETRIEVAL, folder, tmp_path))
    for rows in found.values():
        assert np.mean(np.array(rows) == np.arange(ROWS)) > 0.95
