"""Near-duplicates: recall against a greedy search over all pairs, cost at a million rows, beside two peers.

    python -m tests.benchmarks.bench_dedup [--rows 1000000] [--exact 100000] [--skip-exact] [--group] [--folder F]

Vectors are made as tests/planted.py says. Of `--exact` rows all pairs from .90 on are known, so that recall is exact:
removal recall is the share of removable rows that were removed, where a kept row with a better kept row at the
threshold was removable. Of `--rows` rows, CPU time, the memory of the largest process and scratch are measured of
`dataset dedup` under an enforced limit, then of a second batch of a tenth, and with --group of as many rows of which a
tenth are one group that comes first in quality. Peers in the same run: the join within single cells of spherical
k-means, as SemDeDup and NeMo Curator do it, and faiss PCAR128,IVF1024,PQ64x4fs with k = 64. Both are given the rows
that differ. The last line is JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from dataset.dedup.cells import cell_count, visits
from dataset.dedup.options import Options
from dataset.dedup.prepare import read_cells
from dataset.dedup.projection import encode, unit_rows
from dataset.dedup.quality import DEFAULT_ORDER, quality_keys
from dataset.dedup.rescore import cosine_steps, to_steps
from dataset.dedup.work import Work
from dataset.formats.duplicates import NAME as TABLE
from dataset.formats.releases import FileKind, Release, open_release
from dataset.formats.side_tables import read_side_tables
from dataset.store.store import Store
from tests.planted import MODEL, planted, put_release

NAME = "bench"
LOWEST = 0.90
BLOCK = 4096
MEMORY_GIB = 1.2
NEIGHBOURS, PROBES = 64, 16

Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--exact", type=int, default=100_000)
    parser.add_argument("--skip-exact", action="store_true")
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument(
        "--first-only", action="store_true", help="of --rows only the first batch, for which vectors leave the memory"
    )
    parser.add_argument("--group", action="store_true", help="also search --rows of which a tenth are one group")
    parser.add_argument("--memory", type=float, default=MEMORY_GIB, help="GiB of a process that searches --rows")
    parser.add_argument("--workers", type=int, default=1, help="processes that search --rows")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-dedup"))
    asked = parser.parse_args()
    found: dict[str, Any] = {"rows": asked.rows, "exact_rows": asked.exact}
    with threadpoolctl.threadpool_limits(1):
        if not asked.skip_exact:
            found |= recall(asked.folder / "exact", asked.exact)
            found |= giant(asked.folder / "giant", asked.exact)
        if not asked.skip_large:
            search = partial(dedup, memory=asked.memory, workers=asked.workers)
            found |= {"workers": asked.workers, "limit_mib": int(asked.memory * 1024)}
            found |= cost(
                asked.folder / "large", asked.rows, search, with_group=asked.group, first_only=asked.first_only
            )
    print(json.dumps(found))


@dataclass(frozen=True, slots=True)
class Ran:
    """What a call of `dataset dedup` used."""

    report: dict[str, Any]
    cpu_seconds: float
    seconds: float
    anonymous_bytes: int
    scratch_bytes: int


def dedup(folder: Path, at: float, *options: str, memory: float = 2.0, workers: int = 1) -> Ran:
    """Run the command; measure the CPU time of all its processes, and the anonymous memory of the largest."""
    command = [sys.executable, "-m", "dataset.main", "dedup", NAME, "--store", str(folder), "--model", MODEL]
    command += ["--at", str(at), "--workers", str(workers), "--memory", str(memory), "--json", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, anonymous, scratch, looked = time.monotonic(), 0, 0, 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while True:
            try:
                child.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                anonymous = max(anonymous, _anonymous(child.pid))
                if time.monotonic() - looked > 1:
                    looked = time.monotonic()
                    scratch = max(scratch, _bytes_below(folder / "dedup"))
        assert child.stdout is not None
        said = child.stdout.read()
    assert child.returncode == 0, f"{' '.join(command)} failed"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ran(json.loads(said), cpu, time.monotonic() - start, anonymous, scratch)


Search = Callable[[Path, float], Ran]


def recall(folder: Path, rows: int) -> dict[str, Any]:
    """Compare with all pairs, at three thresholds, and the peers at .94."""
    vectors = planted(rows)
    release = fresh(folder, [vectors])
    order = places(release)
    better, worse, cosine = all_pairs(vectors, order)
    print(f"{rows:,} rows, {len(cosine):,} pairs from {LOWEST} on", flush=True)
    found: dict[str, Any] = {}
    for name, at, options in (
        ("90", 0.90, []), ("96", 0.96, []), ("careful", 0.94, ["--careful"]), ("94", 0.94, []),
    ):  # fmt: skip
        ran = dedup(folder, at, "--restart", *options)
        near = cosine >= to_steps(at)
        kept = kept_rows(release)
        found[f"removal_recall_{name}"] = round(removal_recall(kept, better[near], worse[near]), 5)
        found[f"cpu_s_exact_{name}"] = round(ran.cpu_seconds, 1)
        found[f"lowest_cosine_{name}"] = ran.report["checks"]["lowest_cosine"]
        print(name, {key: value for key, value in found.items() if key.endswith(name)}, flush=True)
    near = cosine >= to_steps(0.94)
    found["pair_recall_94"] = round(visited_share(release, vectors, better[near], worse[near]), 5)
    unique = np.unique(np.ascontiguousarray(vectors).view(f"V{vectors.shape[1] * 2}"), return_index=True)[1]
    found |= single_cells(vectors, order, unique, better[near], worse[near])
    found |= faiss_neighbours(vectors, unique, better[near], worse[near])
    found["vs_single_cluster_recall"] = round(found["removal_recall_94"] - found["single_cluster_recall"], 5)
    shutil.rmtree(folder)
    return found


def giant(folder: Path, rows: int) -> dict[str, Any]:
    """Measure what a group of a tenth of the rows costs that comes first in the order of quality."""
    vectors = planted(rows)
    fresh(folder, [vectors])
    plain = dedup(folder, 0.94)
    found = giant_beside(plain, folder, vectors)
    shutil.rmtree(folder)
    return found


def giant_beside(plain: Ran, folder: Path, vectors: npt.NDArray[np.float16], search: Search = dedup) -> dict[str, Any]:
    """Make a tenth of the rows one group, best in quality, and compare the cost with that of a run without it."""
    draw = np.random.default_rng(3)
    members = draw.permutation(len(vectors))[: len(vectors) // 10]
    first = vectors[members[0]].copy()
    for start in range(0, len(members), BLOCK):
        some = members[start : start + BLOCK]
        noise = draw.normal(0, 0.15 / np.sqrt(vectors.shape[1]), (len(some), vectors.shape[1]))
        vectors[some] = unit_rows(first + noise).astype(np.float16)
    fresh(folder, [vectors], best=np.isin(np.arange(len(vectors)), members))
    large = search(folder, 0.94)
    return {
        "giant_group_rows": len(members),
        "giant_group_cpu_share": round(large.cpu_seconds / plain.cpu_seconds, 3),
        "giant_group_peak_mib": large.anonymous_bytes >> 20,
        "giant_group_residual": large.report["checks"]["with_another_at_threshold"],
    }


def cost(folder: Path, rows: int, search: Search, *, with_group: bool, first_only: bool) -> dict[str, Any]:
    """Measure a first batch, a second of a tenth of its rows, and perhaps a first one with a group of a tenth."""
    if first_only:
        fresh(folder, [planted(rows)])
        first = search(folder, 0.94)
        shutil.rmtree(folder)
        return cost_of_first(rows, first)
    vectors = planted(rows + rows // 10)
    fresh(folder, [vectors[:rows]])
    first = search(folder, 0.94)
    put_release(Store.open(str(folder)), NAME, [vectors[:rows], vectors[rows:]])
    second = search(folder, 0.94)
    print(f"second batch: {second.cpu_seconds:.0f} CPU s, {second.seconds:.0f} s", flush=True)
    group = giant_beside(first, folder, vectors[:rows], search) if with_group else {}
    shutil.rmtree(folder)
    return {
        **cost_of_first(rows, first),
        "increment_cpu_share": round(second.cpu_seconds / first.cpu_seconds, 3),
        **{f"large_{name}": value for name, value in group.items()},
    }


def cost_of_first(rows: int, first: Ran) -> dict[str, Any]:
    """Return what the first batch used."""
    print(f"first batch: {first.cpu_seconds:.0f} CPU s, {first.seconds:.0f} s", json.dumps(first.report), flush=True)
    checks = first.report["checks"]
    return {
        "cpu_s_1m" if rows == 1_000_000 else "cpu_s": round(first.cpu_seconds, 1),
        "wall_s": round(first.seconds, 1),
        "peak_mib": first.anonymous_bytes >> 20,
        "scratch_bytes_per_row": round(first.scratch_bytes / rows),
        "residual": [checks["with_another_at_threshold"], checks["representatives_sampled"]],
        "residual_upper_bound": checks["share_upper_bound"],
    }


def fresh(folder: Path, batches: list[npt.NDArray[np.float16]], best: Bools | None = None) -> Release:
    """Write a release into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return put_release(Store.open(str(folder)), NAME, batches, best=best)


def all_pairs(vectors: npt.NDArray[np.float16], order: Integers) -> tuple[Integers, Integers, npt.NDArray[np.int16]]:
    """Return all pairs from LOWEST on, the better row first, and their cosines in steps."""
    rows = unit_rows(vectors)
    left, right = [], []
    for first in range(0, len(rows), BLOCK):
        for second in range(first, len(rows), BLOCK):
            a, b = np.nonzero(rows[first : first + BLOCK] @ rows[second : second + BLOCK].T >= LOWEST - 1e-3)
            a, b = (a + first).astype(np.int32), (b + second).astype(np.int32)
            left.append(a[a < b])
            right.append(b[a < b])
    a, b = np.concatenate(left), np.concatenate(right)
    cosine = np.concatenate(
        [cosine_steps(vectors[a[at : at + BLOCK]], vectors[b[at : at + BLOCK]]) for at in range(0, len(a), BLOCK)]
    )
    near = cosine >= to_steps(LOWEST)
    a, b, cosine = a[near].astype(np.int64), b[near].astype(np.int64), cosine[near]
    swap = order[a] > order[b]
    return np.where(swap, b, a), np.where(swap, a, b), cosine


def places(release: Release) -> Integers:
    """Return each row's place in the order of quality."""
    data = [release.store.read_table(release.path(file.path)) for file in release.files(FileKind.DATA)]
    keys = np.concatenate([quality_keys(rows, DEFAULT_ORDER) for rows in data])
    found = np.empty(len(keys), np.int64)
    found[np.lexsort((np.arange(len(keys)), keys))] = np.arange(len(keys))
    return found


def kept_rows(release: Release) -> Bools:
    """Return which rows are representatives."""
    files = read_side_tables(release)[TABLE].files
    tables = [release.store.read_table(release.path(file.path), ["id", "representative"]) for file in files]
    return np.concatenate([table["id"].to_numpy() == table["representative"].to_numpy() for table in tables])


def removal_recall(kept: Bools, better: Integers, worse: Integers) -> float:
    """Return the share of removable rows that were removed."""
    missed = len(np.unique(worse[kept[better] & kept[worse]]))
    removed = int((~kept).sum())
    return removed / (removed + missed)


def visited_share(release: Release, vectors: npt.NDArray[np.float16], a: Integers, b: Integers) -> float:
    """Return the share of pairs of different rows of which one visits the other's home."""
    work = Work(open_release(release.store, NAME), Options(model=MODEL, at=0.94))
    cells = read_cells(work)
    codes = encode(vectors, work.open("parameters").read("projection")).astype(np.float32)
    home, rows, visited = visits(codes, cells, work.options.gap)
    known = np.sort(np.concatenate([rows, np.arange(len(home))]) * len(cells.below) + np.concatenate([visited, home]))
    found = np.zeros(len(a), bool)
    for one, other in ((a, b), (b, a)):
        wanted = one * len(cells.below) + home[other]
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        found |= known[at] == wanted
    return float(found.mean())


def single_cells(
    vectors: npt.NDArray[np.float16], order: Integers, unique: Integers, better: Integers, worse: Integers
) -> dict[str, Any]:
    """Remove a row if a better one in its own cell reaches .94: SemDeDup's join, in our order of quality."""
    import faiss

    faiss.omp_set_num_threads(1)
    start = time.process_time()
    rows = unit_rows(vectors[unique])
    cells = faiss.Kmeans(rows.shape[1], cell_count(len(rows)), niter=10, spherical=True, seed=3)
    cells.train(rows)
    home = cells.index.search(rows, 1)[1][:, 0]
    removed = np.ones(len(vectors), bool)
    removed[unique] = False
    for cell in np.unique(home).tolist():
        mine = np.flatnonzero(home == cell)
        mine = mine[np.argsort(order[unique[mine]])]
        highest = np.triu(rows[mine] @ rows[mine].T, 1).max(axis=0)
        removed[unique[mine[highest >= 0.94]]] = True
    seconds = time.process_time() - start
    return {
        "single_cluster_recall": round(removal_recall(~removed, better, worse), 5),
        "single_cluster_cpu_s": round(seconds, 1),
    }


def faiss_neighbours(vectors: npt.NDArray[np.float16], unique: Integers, a: Integers, b: Integers) -> dict[str, Any]:
    """Search the 64 nearest of each row by 4-bit codes; exact cosines and grouping are not counted."""
    import faiss

    faiss.omp_set_num_threads(1)
    start = time.process_time()
    rows = unit_rows(vectors[unique])
    index = faiss.index_factory(rows.shape[1], "PCAR128,IVF1024,PQ64x4fs", faiss.METRIC_INNER_PRODUCT)
    index.train(rows[: min(len(rows), 60_000)])
    index.add(rows)
    faiss.extract_index_ivf(index).nprobe = PROBES
    nearest = np.concatenate([index.search(rows[at : at + BLOCK], NEIGHBOURS)[1] for at in range(0, len(rows), BLOCK)])
    seconds = time.process_time() - start
    known = np.unique((np.repeat(unique, NEIGHBOURS) * len(vectors) + unique[nearest.ravel()])[nearest.ravel() >= 0])
    alone = np.zeros(len(vectors), bool)
    alone[unique] = True
    both = alone[a] & alone[b]
    found = np.zeros(int(both.sum()), bool)
    for one, other in ((a[both], b[both]), (b[both], a[both])):
        wanted = one * len(vectors) + other
        found |= known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
    return {"faiss_pair_recall": round(float(found.mean()), 5), "faiss_cpu_s": round(seconds, 1)}


def _anonymous(pid: int) -> int:
    """Return the largest memory, mapped files aside, of a process and those below it."""
    waiting, most = [pid], 0
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            status = (process / "status").read_text()
            most = max(most, int(status.split("RssAnon:")[1].split()[0]) << 10)
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return most


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


if __name__ == "__main__":
    main()
