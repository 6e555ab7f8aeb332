"""Measure embeddings, side tables and tars of a release, each compared with a limit or a peer that does the same.

    python -m tests.benchmarks.bench_select [--rows 10000000] [--embedded 2000000] [--folder .shoal/bench-select]

consolidate: `dataset embeddings` (768 dimensions, pictures and texts) beside a plain copy of the same files, synced.
join: `dataset tags join` of a shuffled tag file with a row for each pair, beside DuckDB's join of the same files to
parquet with the same settings, threads and memory limit; once in any order, once by id as ours is.
reshard: `dataset reshard` of 20 kB pictures, bytes of tars by second. The last line is JSON.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.embeddings import IMAGES, LAION_TO_CLIP_RETRIEVAL, METADATA, TEXTS, embeddings_folder
from dataset.formats.manifest import OutputKind, outputs
from dataset.formats.releases import FileKind, open_release
from dataset.store.store import Store
from tests.benchmarks.bench_release import Measured, measure
from tests.benchmarks.release_parts import PART_ROWS, put_parts
from tests.embeddings import MODEL
from tests.manifests import put_manifest

NAME = "bench"
DIMENSIONS = 768
THREADS = 2
PICTURE_BYTES = 20_000
TAR_PARTS = 40

DUCKDB = """
import sys, duckdb
data, tags, out, scratch, gib, threads, order = sys.argv[1:8]
connection = duckdb.connect()
connection.execute(f"SET threads = {threads}; SET memory_limit = '{gib}GiB'; SET temp_directory = '{scratch}'")
connection.execute("SET enable_progress_bar = false; SET preserve_insertion_order = false")
connection.execute(f\"\"\"
    COPY (
        SELECT id, t.pwatermark, t.punsafe
        FROM read_parquet('{data}') d JOIN read_parquet('{tags}') t USING (hash) {order}
    ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, ROW_GROUP_SIZE 100000)
\"\"\")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--embedded", type=int, default=2_000_000, help="rows that have embeddings: 3 kB each")
    parser.add_argument("--memory", type=float, default=1.0, help="GiB for either side of the join")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-select"))
    asked = parser.parse_args()
    folder = asked.folder / str(asked.rows)
    store = prepare(folder, asked.rows, asked.embedded)
    found = consolidate(folder, store, asked.embedded)
    found |= join(folder, store, asked.memory)
    found |= reshard(folder)
    print(json.dumps({"rows": asked.rows} | found))


def dataset(*arguments: str) -> Measured:
    """Run the command and measure it."""
    return measure([sys.executable, "-m", "dataset.main", *arguments])


def prepare(folder: Path, rows: int, embedded: int) -> Store:
    """Make the parts, embeddings and tars of the first of them, and the release; once."""
    store = put_parts(folder, rows)
    if store.exists(f"releases/{NAME}/release.json"):
        return store
    draw = np.random.default_rng(1)
    block = draw.normal(size=(4 * PART_ROWS, DIMENSIONS)).astype(np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    halves = block.astype(np.float16)
    parts = list(outputs(store, kind=OutputKind.PART))
    for part in parts[: embedded // PART_ROWS]:
        table = store.read_table(f"{part.path}.parquet", ["key", "hash", "URL", "TEXT", "similarity"])
        place = embeddings_folder(part.path)
        for name in (IMAGES, TEXTS):
            with store.write(f"{place}/{name}") as file:
                start = int(draw.integers(0, 3 * PART_ROWS))
                np.save(file, halves[start : start + len(table)])
        about = table.rename_columns([LAION_TO_CLIP_RETRIEVAL.get(name, name) for name in table.column_names])
        store.write_table(f"{place}/{METADATA}", about.replace_schema_metadata(None), MODEL)
    listed: list[dict[str, object]] = []
    for part in parts[:TAR_PARTS]:
        keys = store.read_table(f"{part.path}.parquet", ["key"])["key"].to_pylist()
        with store.write(f"{part.path}.tar") as out, tarfile.open(fileobj=out, mode="w") as tar:
            for key in keys:
                for ending, data in (("jpg", draw.bytes(PICTURE_BYTES)), ("txt", b"text"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    for at, part in enumerate(parts):
        tar_bytes = 1 if at < TAR_PARTS else 0
        listed.append({"kind": "part", "run": "crawl", "path": part.path, "rows": part.rows, "tar_bytes": tar_bytes})
    put_manifest(store, listed)
    dataset("publish", NAME, "--input", "crawl", "--store", str(folder), "--workers", str(THREADS))
    return store


def consolidate(folder: Path, store: Store, embedded: int) -> dict[str, object]:
    """Measure the embeddings of the release beside a copy of their sources."""
    rows = embedded // PART_ROWS * PART_ROWS
    sources = sorted((folder / "crawl" / "parts").glob("*.embeddings/*/*"))
    copied = folder / "copied"
    command = ("embeddings", NAME, "--model", MODEL["shoal.model"], "--store", str(folder), "--restart", "--json")
    copy_seconds, ours = [], []
    for _ in range(2):
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir()
        os.sync()
        copy_seconds.append(copy_files(sources, copied))
        shutil.rmtree(copied)
        os.sync()
        ours.append(dataset(*command, "--workers", str(THREADS)))
        ours[-1].report("embeddings", rows)
    print(f"copy     {min(copy_seconds):8.1f} s of {sum(path.stat().st_size for path in sources) / 2**30:.2f} GiB")
    best = min(ours, key=lambda one: one.seconds)
    return {
        "consolidate_rows_per_s": round(rows / best.seconds),
        "consolidate_vs_copy": round(min(copy_seconds) / best.seconds, 3),
        "consolidate_peak_mib": round(best.peak / 2**20),
    }


def copy_files(sources: list[Path], folder: Path) -> float:
    """Copy files into few large ones, as the result has them, and sync each; return the seconds."""
    start = time.perf_counter()
    for kind in ("img_emb", "text_emb", "metadata"):
        with (folder / kind).open("wb") as target:
            for path in sources:
                if path.parent.name == kind:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, target, 16 << 20)
            os.fsync(target.fileno())
    return time.perf_counter() - start


def join(folder: Path, store: Store, memory: float) -> dict[str, object]:
    """Measure the join of a tag file beside DuckDB."""
    release = open_release(store, NAME)
    paths = [release.path(file.path) for file in release.files(FileKind.DATA)]
    hashes = pa.concat_tables([store.read_table(path, ["hash"]) for path in paths])["hash"].to_numpy()
    draw = np.random.default_rng(2)
    rows = len(hashes)
    tags = {"hash": draw.permutation(hashes), "pwatermark": draw.random(rows, np.float32)}
    pq.write_table(pa.table(tags | {"punsafe": draw.random(rows, np.float32)}), folder / "tags.parquet",
                   row_group_size=1_000_000)  # fmt: skip
    ours = [
        dataset("tags", "join", NAME, str(folder / "tags.parquet"), "--store", str(folder), "--workers", str(THREADS),
                "--memory", str(memory))
        for _ in range(2)
    ]  # fmt: skip
    best = min(ours, key=lambda one: one.seconds)
    best.report("join", rows)
    files = str(folder / release.path("data/*/*/*.parquet"))
    arguments = [files, str(folder / "tags.parquet"), str(folder / "joined.parquet"), str(folder / "duckdb-scratch")]
    arguments += [str(memory), str(THREADS)]
    theirs = {}
    for order in ("", "ORDER BY id"):
        took = [measure([sys.executable, "-c", DUCKDB, *arguments, order]) for _ in range(2)]
        theirs[order] = min(took, key=lambda one: one.seconds)
        theirs[order].report(f"DuckDB {order}", rows)
        if pq.ParquetFile(folder / "joined.parquet").metadata.num_rows != rows:
            sys.exit("DuckDB has joined another number of rows")
    return {
        "join_rows_per_s": round(rows / best.seconds),
        "join_vs_duckdb": round(theirs[""].seconds / best.seconds, 3),
        "join_vs_duckdb_by_id": round(theirs["ORDER BY id"].seconds / best.seconds, 3),
        "join_peak_mib": round(best.peak / 2**20),
        "duckdb_peak_mib": round(theirs[""].peak / 2**20),
    }


def reshard(folder: Path) -> dict[str, object]:
    """Measure the tars of a selection of the parts that keep their pictures."""
    selection, out = folder / "selection", folder / "tars"
    for made in (selection, out):
        shutil.rmtree(made, ignore_errors=True)
    where = f"epoch(fetched) < {1_760_000_000 + TAR_PARTS}"
    dataset("select", NAME, "--store", str(folder), "--where", where, "--out", str(selection)).report("select", 1)
    took = dataset("reshard", str(selection), "--out", str(out), "--store", str(folder), "--workers", str(THREADS))
    written = sum(path.stat().st_size for path in out.glob("*.tar"))
    took.report("reshard", written // PICTURE_BYTES)
    return {"reshard_mib_per_s": round(written / 2**20 / took.seconds, 1)}


if __name__ == "__main__":
    main()
