"""Compare the index with autofaiss: build, recall, speed and filters, on vectors like CLIP's.

    python -m tests.benchmarks.bench_index [--rows 1000000] [--folder .shoal/bench-index] [--autofaiss PYTHON]

Both build from the same .npy files on the same cores, one after the other; autofaiss may use as much memory for its
index as ours has bytes. PYTHON is the interpreter of an environment with autofaiss 2.18, 'faiss-cpu<1.12' and
'pyarrow<20'; without it only ours is measured. On a machine that others use, compare CPU seconds: `build_vs_autofaiss`
does, and the keys with cpu in their names are such. Queries are pictures and texts that are in neither index; what is
right is computed from all rows. Of more than a million rows, the texts are those of the first million again and again,
in the same bytes of the disk: only some are queries, and a query's own row does not count. The last line is JSON.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.index.filters import Filter
from dataset.index.lookup import Index, open_index, set_threads
from dataset.index.neighbours import NearestRows, passes
from dataset.store.store import Store
from tests.benchmarks.clip_like import ClipLike

Rows = npt.NDArray[np.float32]

FILE_ROWS = 100_000
QUERIES = 500
BATCH = 32
TEXT_FILES = 10
PAGE = 10_000
PAGES = 30
SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)
THREADS = len(os.sched_getaffinity(0))
GOALS = {
    "build_vs_autofaiss": (">=", 1.0),
    "recall_at_10_images": (">=", 0.95),
    "recall_at_10_texts": (">=", 0.90),
    "engine_queries_per_s": (">=", 1_000),
    "engine_p50_ms": ("<=", 5),
    "filtered_10_percent_latency_ratio": ("<=", 2),
    "recall_filtered_1_percent": (">=", 0.9),
    "page_10000_s": ("<=", 1),
}

AUTOFAISS = """
import json, sys, time
import faiss, numpy as np
from autofaiss import build_index
vectors, out, bytes_, threads, queries = sys.argv[1:]
start = time.perf_counter()
build_index(embeddings=vectors, index_path=out + "/knn.index", index_infos_path=out + "/infos.json",
            max_index_memory_usage=f"{int(bytes_) >> 20}MB", current_memory_available="8GB", metric_type="ip",
            nb_cores=int(threads), save_on_disk=True, verbose=40)
seconds = time.perf_counter() - start
index = faiss.read_index(out + "/knn.index")
faiss.omp_set_num_threads(1)
infos = json.load(open(out + "/infos.json"))
rows = np.load(queries)
found, took = [], []
for row in rows:
    begin = time.perf_counter()
    found.append(index.search(row[None], 10)[1][0])
    took.append(time.perf_counter() - begin)
np.save(out + "/found.npy", np.array(found))
print(json.dumps({"seconds": seconds, "key": infos.get("index_key"), "param": infos.get("index_param"),
                  "p50_ms": 1000 * float(np.median(took))}))
"""


@dataclass(frozen=True, slots=True)
class Truth:
    """Queries, pictures first, and the ids of their nearest rows without and with filters."""

    rows: Rows
    nearest: dict[float, list[npt.NDArray[np.int64]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-index"))
    parser.add_argument("--kind", default="auto")
    parser.add_argument("--autofaiss", help="the Python of an environment with autofaiss")
    parser.add_argument("--keep", action="store_true", help="keep the vectors and the indexes")
    asked = parser.parse_args()
    folder = asked.folder / str(asked.rows)
    prepare(folder / "vectors", asked.rows)
    built, folder_of_index = build(folder, asked.kind)
    index = open_index(folder_of_index)
    truth = exact_neighbours(folder / "vectors", asked.rows)
    found: dict[str, object] = {"rows": asked.rows, "kind": index.record.kind, "lists": index.record.lists}
    found |= {"near": asdict(index.record.near), "far": asdict(index.record.far)}
    found |= {"bytes_per_row": round(index.record.bytes / asked.rows, 1)} | built
    found |= measure(index, truth)
    if asked.autofaiss:
        found |= compare(folder, asked.autofaiss, index, truth, built["build_cpu_s"])
    missed = [
        f"{name} is {found[name]}, not {sign} {goal}"
        for name, (sign, goal) in GOALS.items()
        if name in found and not (found[name] >= goal if sign == ">=" else found[name] <= goal)  # type: ignore[operator]
    ]
    print("\n".join(missed) or "all goals are met")
    if not asked.keep:
        shutil.rmtree(folder)
    print(json.dumps(found))


def prepare(folder: Path, rows: int) -> None:
    """Write the vectors and a table for each file, once."""
    if (folder / "made").exists():
        return
    store, made = Store.open(str(folder)), ClipLike()
    draw = np.random.default_rng(5)
    for at in range(-(-rows // FILE_ROWS)):
        count = min(FILE_ROWS, rows - at * FILE_ROWS)
        pieces = [made.pairs(min(20_000, count - start), at * 100 + start) for start in range(0, count, 20_000)]
        again = at >= TEXT_FILES and count == FILE_ROWS
        if again:
            (folder / f"text_emb/text_emb_{at}.npy").hardlink_to(folder / f"text_emb/text_emb_{at % TEXT_FILES}.npy")
        for name, of in (("img_emb", 0), ("text_emb", 1))[: 1 if again else 2]:
            with store.write(f"{name}/{name}_{at}.npy") as file:
                np.save(file, np.concatenate([piece[of] for piece in pieces]))
        store.write_table(f"metadata/metadata_{at}.parquet", pa.table({
            "url": [f"https://images{row % 977}.example/{at}/{row:08x}-{row * 7919 % 10**9}.jpg"
                    for row in range(count)],
            "caption": [f"a caption of about forty characters, {row % 5003}" for row in range(count)],
            "WIDTH": draw.integers(100, 2_000, count).astype(np.int32),
            "HEIGHT": draw.integers(100, 2_000, count).astype(np.int32),
            "punsafe": draw.random(count, np.float32),
            "similarity": draw.random(count),
        }))  # fmt: skip
    (folder / "made").touch()


def build(folder: Path, kind: str) -> tuple[dict[str, float], Path]:
    """Build ours through the command, and measure it."""
    out = folder / "ours"
    shutil.rmtree(out, ignore_errors=True)
    seconds, cpu, peak, _ = watched([sys.executable, "-m", "dataset.main", "index", "build", str(folder / "vectors"),
                                "--out", str(out), "--kind", kind])  # fmt: skip
    print(f"build      {seconds:8.1f} s, {cpu:8.1f} CPU s, {peak / 2**20:,.0f} MiB")
    return {"build_s": round(seconds, 1), "build_cpu_s": round(cpu, 1), "peak_mib": round(peak / 2**20)}, out


def watched(command: list[str]) -> tuple[float, float, int, str]:
    """Run a command; return its seconds and CPU seconds, the most anonymous memory that it held, and its output."""
    start, peak, before = time.perf_counter(), 0, _children_cpu()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
        reader.start()
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        reader.join()
    if process.returncode:
        sys.exit(f"{command[1:4]} failed")
    return time.perf_counter() - start, _children_cpu() - before, peak, "".join(output)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def anonymous_bytes(pid: int) -> int:
    """Return the bytes that a process holds which are not pages of files."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Anonymous:"))


def exact_neighbours(folder: Path, rows: int) -> Truth:
    """Compare queries that are not in the index with all rows."""
    pictures, texts = ClipLike().pairs(QUERIES, 10**6)
    queries = np.concatenate((pictures, texts)).astype(np.float32)
    nearest = {share: NearestRows(queries, (share,)) for share in (1.0, *SELECTIVITIES)}
    first = 0
    for at in range(-(-rows // FILE_ROWS)):
        vectors = np.load(folder / f"img_emb/img_emb_{at}.npy", mmap_mode="r")
        for start in range(0, len(vectors), 20_000):
            block = np.asarray(vectors[start : start + 20_000])
            ids = np.arange(first + start, first + start + len(block))
            for share, one in nearest.items():
                here = passes(ids, share)
                one.add(ids[here], block[here])
        first += len(vectors)
    return Truth(queries, {share: [ids[:10] for ids, _ in one.lists(0)] for share, one in nearest.items()})


def measure(index: Index, truth: Truth) -> dict[str, object]:
    """Measure recall, speed and filters of the open index."""
    set_threads(1)
    found: dict[str, object] = {}
    ids, single = timed(lambda query, where: index.search(query, 10, where=where)[0].ids, truth.rows, Filter())
    found["recall_at_10_images"] = recall(ids[:QUERIES], truth.nearest[1.0][:QUERIES])
    found["recall_at_10_texts"] = recall(ids[QUERIES:], truth.nearest[1.0][QUERIES:])
    found["engine_p50_ms"] = round(single, 2)
    before = time.process_time()
    timed(lambda query, where: index.search(query, 10, where=where)[0].ids, truth.rows, Filter())
    found["engine_cpu_ms"] = round(1_000 * (time.process_time() - before) / len(truth.rows), 2)
    batches = [truth.rows[at : at + BATCH] for at in range(0, len(truth.rows), BATCH)] * 4
    start, before = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda queries: index.search(queries, 10), batches))
    asked = sum(map(len, batches))
    found["engine_queries_per_s"] = round(asked / (time.perf_counter() - start))
    found["engine_queries_per_cpu_s"] = round(asked / (time.process_time() - before))
    for share in SELECTIVITIES:
        where = Filter(share=share)
        index.search(truth.rows[:1], 10, where=where)  # makes the bitmap
        ids, took = timed(lambda query, where: index.search(query, 10, where=where)[0].ids, truth.rows, where)
        short = sum(len(one) < min(10, len(right)) for one, right in zip(ids, truth.nearest[share], strict=True))
        name = f"{100 * share:g}_percent".replace(".", "_")
        found[f"recall_filtered_{name}"] = recall(ids, truth.nearest[share])
        found[f"filtered_{name}_latency_ratio"] = round(took / single, 2)
        found[f"filtered_{name}_short"] = short
    pages = []
    for at in range(PAGES):
        start = time.perf_counter()
        (hits,) = index.search(truth.rows[at : at + 1], PAGE)
        rows = index.rows(hits.ids)
        pages.append(time.perf_counter() - start)
        assert len(rows) == PAGE
        assert all(rows)
    found["page_10000_s"] = round(statistics.median(pages), 3)
    found["page_10000_last_vs_first"] = round(statistics.median(pages[-5:]) / statistics.median(pages[1:6]), 2)
    for name, value in found.items():
        print(f"{name:<36} {value}")
    return found


def timed(
    search: Callable[[Rows, Filter], npt.NDArray[np.int64]], queries: Rows, where: Filter
) -> tuple[list[npt.NDArray[np.int64]], float]:
    """Search with one query at a time; return the ids, and the median milliseconds."""
    found, took = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query[None], where))
        took.append(time.perf_counter() - start)
    return found, 1_000 * statistics.median(took)


def recall(found: list[npt.NDArray[np.int64]], right: list[npt.NDArray[np.int64]]) -> float:
    """Return the mean share of the right rows that were found."""
    pairs = [(one, wanted) for one, wanted in zip(found, right, strict=True) if len(wanted)]
    return round(float(np.mean([len(np.intersect1d(one, wanted)) / len(wanted) for one, wanted in pairs])), 4)


def compare(folder: Path, python: str, index: Index, truth: Truth, ours: float) -> dict[str, object]:
    """Build autofaiss's index with equal memory, and search it with the same queries."""
    out = folder / "autofaiss"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    np.save(folder / "queries.npy", truth.rows)
    size = index.record.bytes
    command = [python, "-c", AUTOFAISS, str(folder / "vectors" / "img_emb"), str(out), str(size), str(THREADS),
               str(folder / "queries.npy")]  # fmt: skip
    _, cpu, peak, output = watched(command)
    said = json.loads(output.strip().splitlines()[-1])
    found = list(np.load(out / "found.npy"))
    theirs = {
        "build_vs_autofaiss": round(cpu / ours, 2),
        "autofaiss_build_cpu_s": round(cpu, 1),
        "autofaiss_build_s": round(said["seconds"], 1),
        "autofaiss_key": said["key"],
        "autofaiss_param": said["param"],
        "autofaiss_peak_mib": round(peak / 2**20),
        "autofaiss_bytes_per_row": round((out / "knn.index").stat().st_size / index.record.rows, 1),
        "autofaiss_recall_at_10_images": recall(found[:QUERIES], truth.nearest[1.0][:QUERIES]),
        "autofaiss_recall_at_10_texts": recall(found[QUERIES:], truth.nearest[1.0][QUERIES:]),
        "autofaiss_p50_ms": round(said["p50_ms"], 2),
    }
    for name, value in theirs.items():
        print(f"{name:<36} {value}")
    return theirs


if __name__ == "__main__":
    main()
