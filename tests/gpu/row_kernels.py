"""k-means and the join of row blocks on the device, beside the CPU on the same data.

Predicted: a pair of rows of 768 numbers costs 1,536 operations and 8 to 10 bytes of products written and read, so TF32
takes 3.8 + 2.7 ps for it, and float16 2.0 + 2.3 ps.
"""

import time

import numpy as np
import numpy.typing as npt
import torch

from dataset.models.block_join import join_blocks
from dataset.models.kmeans import assign_rows, fit_kmeans
from tests.gpu.ceilings import COPY_BYTES, MATRIX_FLOPS, TF32_FLOPS
from tests.gpu.inputs import device_name
from tests.gpu.results import Run

DIMENSIONS = 768
CPU_FLOPS = 1.2e12  # 16 cores in float32


def unit_rows(count: int, seed: int, spread: float = 0.6) -> npt.NDArray[np.float16]:
    """Return clustered unit rows (count, 768) float16, as embeddings are."""
    device = device_name()
    draw = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(max(64, count // 64), DIMENSIONS, device=device, generator=draw)
    owner = torch.randint(0, len(centres), (count,), device=device, generator=draw)
    made = torch.empty(count, DIMENSIONS, dtype=torch.float16, device=device)
    for start in range(0, count, 65_536):
        some = owner[start : start + 65_536]
        rows = centres[some] + spread * torch.randn(len(some), DIMENSIONS, device=device, generator=draw)
        made[start : start + 65_536] = torch.nn.functional.normalize(rows, dim=1).half()
    found: npt.NDArray[np.float16] = made.cpu().numpy()
    return found


def measure_kmeans(run: Run) -> None:
    """Measure k-means beside faiss, and at a size for which a CPU takes hours."""
    device = device_name()
    small = run.quick or device == "cpu"
    count, clusters, iterations = (16_384, 256, 5) if small else (262_144, 4_096, 10)
    rows = unit_rows(count, 1)
    fit_kmeans(rows[:4096], 64, iterations=1, device=device)
    pairs = count * clusters
    started = time.perf_counter()
    centroids, inertia = fit_kmeans(rows, clusters, iterations=iterations, seed=1, device=device)
    taken = time.perf_counter() - started
    seconds = pairs * (iterations + 1) * (2 * DIMENSIONS / TF32_FLOPS + 8 / COPY_BYTES)
    title = f"k-means {count:,} x {clusters:,}, {iterations} iterations"
    run.record(title, taken, "s", seconds + rows.nbytes / 10e9)
    run.record("inertia a row", inertia / count, "distance")
    again, _ = fit_kmeans(rows, clusters, iterations=iterations, seed=1, device=device)
    run.expect("k-means gives the same bytes again", again.tobytes() == centroids.tobytes())
    labels, distances = assign_rows(rows[:4096], centroids, device=device)
    wanted, exact = assign_rows(rows[:4096], centroids, device="cpu")
    worse = float((distances - exact).max())
    run.record("rows assigned as on the CPU", 100 * float(np.mean(labels == wanted)), "%", 99.5)
    run.expect("no row is assigned to a centroid farther by 1e-3", worse < 1e-3, f"by {worse:.1e} at most")
    try:
        import faiss
    except ImportError:
        run.record("faiss on the CPU", None, "s", note="faiss is not installed")
    else:
        wide = rows.astype(np.float32)
        peer = faiss.Kmeans(DIMENSIONS, clusters, niter=iterations, seed=1, max_points_per_centroid=count)
        started = time.perf_counter()
        peer.train(wide)
        peer_seconds = time.perf_counter() - started
        predicted = 2 * pairs * DIMENSIONS * iterations / CPU_FLOPS
        run.record(f"faiss on the CPU: {title}", peer_seconds, "s", predicted, f"{peer_seconds / taken:.0f} times")
        _, reached = assign_rows(rows, np.asarray(peer.centroids), device=device)
        run.record("faiss: inertia a row", float(reached.mean()), "distance", inertia / count)
    if device == "cuda":
        count, clusters, iterations = (262_144, 8_192, 2) if run.quick else (2_097_152, 32_768, 3)
        rows = unit_rows(count, 2)
        started = time.perf_counter()
        fit_kmeans(rows, clusters, iterations=iterations, seed=1, device=device)
        taken = time.perf_counter() - started
        seconds = count * clusters * (iterations + 1) * (2 * DIMENSIONS / TF32_FLOPS + 8 / COPY_BYTES)
        title = f"k-means {count:,} x {clusters:,}, {iterations} iterations"
        run.record(title, taken, "s", seconds + rows.nbytes / 10e9)


def measure_join(run: Run) -> None:
    """Measure the join of two blocks, and compare its pairs with the CPU's."""
    device = device_name()
    side = 8_192 if run.quick or device == "cpu" else 65_536
    left, right = unit_rows(side, 3, 0.4), unit_rows(side, 3, 0.4)
    right = right[::-1].copy()
    threshold = 0.88
    join_blocks(left[:4096], right[:4096], threshold, device=device)
    for title, one, other, cost in (
        ("float16", left, right, 2 * DIMENSIONS / MATRIX_FLOPS + 7 / COPY_BYTES),
        ("float32", left.astype(np.float32), right.astype(np.float32), 2 * DIMENSIONS / TF32_FLOPS + 10 / COPY_BYTES),
    ):
        started = time.perf_counter()
        found, _, _ = join_blocks(one, other, threshold, device=device)
        taken = time.perf_counter() - started
        bytes_copied = one.nbytes + other.nbytes
        predicted = side * side * cost + bytes_copied / 10e9
        note = f"{len(found):,} pairs, {side * side / taken / 1e9:.1f} G comparisons/s"
        run.record(f"join {side:,} x {side:,}, {title}", taken, "s", predicted, note)
        if title == "float16":
            few = 4096
            started = time.perf_counter()
            wanted = join_blocks(left[:few], right[:few], threshold, device="cpu")
            run.record(
                f"join {few:,} x {few:,} on the CPU", time.perf_counter() - started, "s", 2 * few**2 * 768 / CPU_FLOPS
            )
            got = join_blocks(left[:few], right[:few], threshold, device=device)
            run.expect(
                "the join finds the CPU's pairs",
                all(a.tolist() == b.tolist() for a, b in zip(got[:2], wanted[:2], strict=True)),
                f"{len(wanted[0]):,} pairs",
            )
            worst = float(np.abs(got[2] - wanted[2]).max()) if len(wanted[2]) == len(got[2]) else float("nan")
            run.record("greatest difference of a cosine", worst, "cosine", 6e-8)
