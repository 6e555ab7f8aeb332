"""Embeddings, side tables, selections and tars that are killed at random moments until they come to their end.

    python -m tests.dataset.select.killing [--kills 30] [--seed N]

A child does one step in small units, with two threads, and prints a line for each that is done; the parent waits for a
random line and a random moment behind it, and kills the child with SIGKILL. The bytes have to be those of an
undisturbed run, and no work may be left. The last line is JSON.
"""

import argparse
import io
import json
import random
import shutil
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.releases import FileKind, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.release_embeddings.consolidate import ROW_BYTES, consolidate
from dataset.release_embeddings.consolidate import Request as EmbeddingsRequest
from dataset.select.reshard import reshard
from dataset.select.select import Request, Selection
from dataset.side_tables.join import join_tables
from dataset.side_tables.rows import ReleaseRows
from dataset.side_tables.sources import JoinOn, TableSource
from dataset.store.store import Store
from tests.embeddings import put_embeddings
from tests.killing import digests, kill_until_done
from tests.manifests import put_manifest
from tests.parts import MadeStore, in_parts, make_pair

MODULE = "tests.dataset.select.killing"
STEPS = ("embeddings", "tags", "select", "reshard")
BATCH = "2026-11-26"


def fill(folder: Path) -> None:
    """Make a release of 1,200 rows with embeddings, tars and a tag file."""
    made = MadeStore(Store.open(str(folder)))
    parts = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(1_200)], 100))
    put_embeddings(made.store, parts)
    for listed, path in zip(made.listed, parts, strict=True):
        with made.store.write(path.replace(".parquet", ".tar")) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for row in made.store.read_table(path).to_pylist():
                member = tarfile.TarInfo(f"{row['key']}.webp")
                member.size = 2_000
                tar.addfile(member, io.BytesIO(row["sha256"].encode()[:50] * 40))
        listed["tar_bytes"] = 1
    put_manifest(made.store, made.listed)
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], batch=BATCH, rows_per_file=150))
    release = open_release(made.store, "laion")
    files = [release.store.read_table(release.path(file.path)) for file in release.files(FileKind.DATA)]
    rows = pa.concat_tables(files).select(["hash", "pwatermark"]).sort_by("pwatermark")
    pq.write_table(rows, folder / "tags.parquet", row_group_size=60)


RECORDS = {"select": "selection/selection.json", "reshard": "tars/reshard.json"}
"""Written last. Where it is, the step is done, and to do it again would be refused."""


def work(folder: Path, step: str) -> None:
    """Do a step in small units, unless it is done; print a line for each unit."""
    if step in RECORDS and (folder / RECORDS[step]).exists():
        return

    def show(phase: str, done: int, total: int) -> None:
        print(phase, done, total, flush=True)

    store = Store.open(str(folder))
    release = open_release(store, "laion")
    match step:
        case "embeddings":
            request = EmbeddingsRequest(model="ViT-L-14", batch=BATCH, rows_per_file=130)
            consolidate(release, request, memory_bytes=2 * ROW_BYTES * 150, threads=2, on_progress=show)
        case "tags":
            source = TableSource.open(str(folder / "tags.parquet"), JoinOn.HASH, None)
            join_tables(release, "tags", source, said="tags", memory_bytes=4, threads=2, on_progress=show)
        case "select":
            asked = Request(where="tags.pwatermark < 0.9", sample=900, max_per_host=20, rows_per_file=100)
            Selection(ReleaseRows.open(release), asked, threads=2).write(Store.open(str(folder / "selection")), show)
        case "reshard":
            out = Store.open(str(folder / "tars"))
            selection = Store.open(str(folder / "selection"))
            reshard(release, selection, out, samples_per_shard=40, memory_bytes=10**7, threads=2, on_progress=show)


def kill_and_compare(home: Path, draw: random.Random, kills: int) -> dict[str, int]:
    """Do each step undisturbed and killed, until each was killed its share of `kills`; return how often.

    Raises: AssertionError when the bytes differ.
    """
    undisturbed = home / "undisturbed"
    fill(undisturbed)
    killed = dict.fromkeys(STEPS, 0)
    for at, step in enumerate(STEPS):
        before = home / f"before-{step}"
        shutil.copytree(undisturbed, before)
        work(undisturbed, step)
        expected = digests(undisturbed)
        share = kills * (at + 1) // len(STEPS) - kills * at // len(STEPS)
        while killed[step] < share:
            disturbed = home / f"killed-{step}-{killed[step]}"
            shutil.copytree(before, disturbed)
            arguments = ["--child", step, "--folder", str(disturbed)]
            killed[step] += kill_until_done(MODULE, arguments, draw, share - killed[step], lines=9, seconds=0.05)
            assert digests(disturbed) == expected, f"{step} has other bytes after it was killed"
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work(asked.folder, asked.child)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-kill-") as home:
        killed = kill_and_compare(Path(home), random.Random(asked.seed), asked.kills)
    print(json.dumps({"seed": asked.seed, "killed": killed, "equal": True}))


if __name__ == "__main__":
    main()
