"""From a release to a trained CLIP: open_clip's own trainer on the tars of `dataset reshard`; its loss has to fall.

    python -m tests.training.run [--samples 2000] [--folder FOLDER]

The pictures have two colours, and their captions name them. A tiny model is trained for one epoch on a CPU, four
times: with TEXT; with captions of a side table; with weights that repeat samples; and with one of each group of
near-duplicates, as often as the group has rows, with the captions of all of them. The losses are the trainer's, as it
logs them: of the first batches and of the last. The last line is JSON.
"""

import argparse
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dataset.formats.embeddings import PairEmbeddings, write_embeddings
from dataset.formats.parts import PRIVATE_COLUMNS
from dataset.formats.releases import FileKind, open_release
from dataset.store.store import Store
from tests.embeddings import MODEL as EMBEDDED
from tests.embeddings import vector
from tests.manifests import put_manifest
from tests.parts import MadeStore, in_parts, make_pair
from tests.readers import FOLDER

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {
    "red": (220, 30, 30), "green": (30, 170, 40), "blue": (40, 60, 220), "yellow": (240, 220, 30),
    "black": (10, 10, 10), "white": (245, 245, 245), "pink": (250, 130, 190), "brown": (110, 70, 30),
}  # fmt: skip
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49_408, "width": 64, "heads": 2, "layers": 2},
}
TRAINER_PYTHON = FOLDER / "open_clip" / "bin" / "python"
"""Of its own: the trainer needs an older webdataset than the tests."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Threads of so small a model wait for each other most of the time."""
BATCH = 50
FALL = 0.8
"""The mean loss of the last batches is at most this share of that of the first ones."""
TRAINER = """
import sys
from dataset.models import torchvision_shim
import open_clip
from open_clip_train.main import main
open_clip.add_model_config(sys.argv[1])
main(sys.argv[2:])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="keep everything here")
    asked = parser.parse_args()
    if not TRAINER_PYTHON.exists():
        sys.exit("open_clip's trainer is not there: make readers")
    with tempfile.TemporaryDirectory(prefix="shoal-train-") as temporary:
        found = train_all(asked.folder or Path(temporary), asked.samples)
    print(json.dumps(found))
    sys.exit(0 if all(one["last"] <= FALL * one["first"] for one in found.values()) else "A loss has not fallen.")


def train_all(folder: Path, samples: int) -> dict[str, dict[str, float]]:
    """Make the release, train on its four sets of tars, and return the mean losses at the start and at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.json").write_text(json.dumps(MODEL), encoding="utf-8")
    make_release(folder, samples)
    dataset(folder, "select", "colours", "--where", "similarity > 0.28", "--out", str(folder / "selection"))
    dataset(folder, "select", "colours", "--drop-duplicates", "--out", str(folder / "groups"))
    found = {}
    options = {
        "text": ["selection"],
        "captions": ["selection", "--caption", "captions.caption"],
        "weights": ["selection", "--caption", "captions.caption", "--copies", "weights.weight"],
        "duplicates": ["groups", "--caption", "duplicates.captions", "--copies", "duplicates.group_size"],
    }
    for name, (selected, *how) in options.items():
        tars = folder / f"tars-{name}"
        dataset(folder, "reshard", str(folder / selected), "--out", str(tars), "--samples-per-shard", "500", *how)
        losses = train(folder, name, tars)
        some = len(losses) // 8
        first, last = (round(sum(part) / some, 3) for part in (losses[:some], losses[-some:]))
        found[name] = {"batches": len(losses), "first": first, "last": last}
    # TEXT tells the colours of two pictures in three, so captions have to be the better teachers.
    if found["captions"]["last"] >= found["text"]["last"]:
        sys.exit(f"The captions were not used: {found}")
    return found


def make_release(folder: Path, samples: int) -> None:
    """Publish pairs of two colours; captions, weights and near-duplicates become side tables."""
    made = MadeStore(Store.open(str(folder / "store")))
    names = list(COLOURS)
    pairs = []
    for seed in range(samples):
        left, right = names[seed % 8], names[seed // 8 % 8]
        said = f"{left} and {right}" if seed % 3 else "a picture"
        pairs.append(make_pair(seed, URL=f"https://a.example/{left}/{right}/{seed}", TEXT=said))
    parts = made.put_run("crawl", in_parts(pairs, 500))
    for listed, path in zip(made.listed, parts, strict=True):
        with made.store.write(path.replace(".parquet", ".tar")) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for row in made.store.read_table(path, ["key", "URL"]).to_pylist():
                data = picture(*row["URL"].split("/")[3:5])
                member = tarfile.TarInfo(f"{row['key']}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        listed["tar_bytes"] = 1
        part = made.store.read_table(path).drop_columns([*PRIVATE_COLUMNS])
        vectors = [vector(*url.split("/")[3:5], dimensions=64) for url in part["URL"].to_pylist()]
        rows = [PairEmbeddings(one, one) for one in vectors]
        write_embeddings(made.store, path.removesuffix(".parquet"), rows, part.replace_schema_metadata(None), EMBEDDED)
    put_manifest(made.store, made.listed)
    dataset(folder, "publish", "colours", "--input", "crawl")
    release = open_release(made.store, "colours")
    found: list[dict[str, Any]] = []
    for table in release.files(FileKind.DATA):
        found += made.store.read_table(release.path(table.path), ["id", "URL"]).to_pylist()
    ids = [row["id"] for row in found]
    captions = [" and ".join(row["URL"].split("/")[3:5]) for row in found]
    pq.write_table(pa.table({"id": ids, "caption": captions}), folder / "captions.parquet")
    dataset(folder, "captions", "import", "colours", str(folder / "captions.parquet"))
    pq.write_table(pa.table({"id": ids, "weight": [0.5 + one % 4 for one in ids]}), folder / "weights.parquet")
    dataset(folder, "tags", "join", "colours", str(folder / "weights.parquet"), "--on", "id", "--as", "weights")
    dataset(folder, "embeddings", "colours", "--model", EMBEDDED["shoal.model"])
    dataset(folder, "dedup", "colours", "--model", EMBEDDED["shoal.model"])


def picture(left: str, right: str) -> bytes:
    """Return a JPEG of two colours side by side."""
    image = Image.new("RGB", (48, 48), COLOURS[left])
    image.paste(COLOURS[right], (24, 0, 48, 48))
    data = io.BytesIO()
    image.save(data, "JPEG")
    return data.getvalue()


def dataset(folder: Path, *arguments: str) -> None:
    """Run `dataset` in the store."""
    subprocess.run([sys.executable, "-m", "dataset.main", *arguments, "--store", str(folder / "store")],
                   cwd=ROOT, check=True)  # fmt: skip


def train(folder: Path, name: str, tars: Path) -> list[float]:
    """Train for one epoch on tars, and return the loss of each batch as the trainer logs it."""
    shards = len(list(tars.glob("*.tar")))
    options = {
        "--train-data": f"{tars}/{{00000..{shards - 1:05d}}}.tar",
        "--dataset-type": "webdataset",
        "--model": "tiny",
        "--batch-size": str(BATCH),
        "--epochs": "1",
        "--workers": "0",
        "--device": "cpu",
        "--precision": "fp32",
        "--lr": "1e-3",
        "--warmup": "10",
        "--log-every-n-steps": "1",
        "--save-frequency": "0",
        "--logs": str(folder / "logs"),
        "--name": name,
    }
    command = [str(TRAINER_PYTHON), "-W", "ignore", "-c", TRAINER, str(folder / "tiny.json")]
    command += [word for option in options.items() for word in option]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | ONE_THREAD, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    log = (folder / "logs" / name / "out.log").read_text(encoding="utf-8")
    return [float(loss) for loss in re.findall(r"Contrastive_loss: ([0-9.]+)", log)]


if __name__ == "__main__":
    main()
