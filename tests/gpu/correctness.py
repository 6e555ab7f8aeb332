"""The towers on the device beside float32 on the CPU, in all precisions and batch sizes; and memory that runs out.

Predicted: a float16 number is off by 2^-12 of itself on average half of that, a bfloat16 number by 2^-9; the errors of
some 50 layers add up as the root of their number, and a similarity sums 512 of them with random signs.
"""

import time

import numpy as np
import torch

from dataset.models.clip import ClipModel
from dataset.models.decoders import MODELS, Decoders
from dataset.models.pipeline import decoder_processes
from dataset.models.towers import MOST_STRAY, Embeddings, Precision
from tests.gpu.inputs import Batch, device_name, model_named, painted_samples, prepared, web_samples
from tests.gpu.results import Run

SIDES = (0.28, 0.26)
MAX_CHANGED = 1e-3
WEB_SPREAD = 0.2
"""Pairs of the web have similarities from 0.15 to 0.35 in ViT-B/32. Random weights give all pairs nearly the same, so
their changes of sides would say nothing; on the web, a difference of d moves d / 0.2 of all pairs across a side."""

FULL, ODD = 1024, 333
PREDICTED = {Precision.FLOAT16: (5e-5, 4e-4), Precision.BFLOAT16: (4e-4, 3e-3), Precision.FLOAT32: (1e-7, 1e-6)}
"""Mean and maximum difference of a similarity."""


def check_rows(run: Run) -> None:
    """Compare rows and similarities; the demo's model is trained, so its pairs lie around the thresholds."""
    device = device_name()
    kinds = [Precision.FLOAT32, Precision.BFLOAT16, Precision.FLOAT16] if device == "cuda" else [Precision.BFLOAT16]
    for name, samples in (
        ("demo", painted_samples(512 if run.quick else 4096)),
        ("ViT-B-32", web_samples(128 if run.quick else 1024)),
    ):
        exact_model = model_named(name, run.folder, "cpu", Precision.FLOAT32)
        with Decoders(decoder_processes(device), MODELS) as decoders:
            batch = prepared(exact_model, samples, decoders, pinned=False)
        started = time.perf_counter()
        exact = rows(exact_model, batch, 256)
        run.record(f"{name}: float32 on the CPU", len(samples) / (time.perf_counter() - started), "samples/s")
        model = model_named(name, run.folder, device)
        for precision in kinds:
            model.towers.precision = precision
            compare(run, model, batch, exact, precision.value)
            if precision is Precision.FLOAT16:
                check_compiled(run, model, batch, exact)


def check_compiled(run: Run, model: ClipModel, batch: Batch, exact: tuple[Embeddings, Embeddings]) -> None:
    """Compile the image tower, and compare again."""
    started = time.perf_counter()
    reason = model.towers.compile((model.preparation.height, model.preparation.width), FULL)
    run.record(f"{model.name}: compiling", time.perf_counter() - started, "s", 40, reason or "")
    run.expect(f"{model.name}: compiles", reason is None, reason or "")
    compare(run, model, batch, exact, f"{model.towers.precision.value}, compiled")


def compare(run: Run, model: ClipModel, batch: Batch, exact: tuple[Embeddings, Embeddings], title: str) -> None:
    """Record how far similarities are from the exact ones, and that no row depends on the size of its batch."""
    wanted = similarities(*exact)
    got_rows = rows(model, batch, FULL)
    got = similarities(*got_rows)
    mean, most = PREDICTED[model.towers.precision]
    title = f"{model.name} {title}"
    run.record(f"{title}: mean difference", float(np.abs(got - wanted).mean()), "cosine", mean)
    run.record(f"{title}: greatest difference", float(np.abs(got - wanted).max()), "cosine", most)
    if model.name == "demo":
        for side in SIDES:
            changed = float(np.mean((got >= side) != (wanted >= side)))
            within = float(np.mean(np.abs(wanted - side) < 0.01))
            run.record(f"{title}: change sides at {side:.2f}", 100 * changed, "%", 100 * within / 0.02 * mean)
            if model.towers.precision is not Precision.BFLOAT16:
                run.expect(f"{title}: fewer than 0.1 % at {side}", changed < MAX_CHANGED)
    else:
        changed = float(np.abs(got - wanted).mean()) / WEB_SPREAD
        run.record(f"{title}: would change sides", 100 * changed, "%", 100 * mean / WEB_SPREAD)
        if model.towers.precision is not Precision.BFLOAT16:
            run.expect(f"{title}: fewer than 0.1 % would", changed < MAX_CHANGED)
    for size, count in ((1, 16), (ODD, min(len(wanted), 2 * ODD))):
        some = rows(model, (batch[0][:count], batch[1][:count]), size)
        stray = max(float(np.linalg.norm(a - b[:count], axis=1).max()) for a, b in zip(some, got_rows, strict=True))
        note = f"greatest distance {stray:.1e}"
        run.expect(f"{title}: batches of {size} agree", stray <= MOST_STRAY[model.towers.precision], note)


def check_halving(run: Run) -> None:
    """Let the device run out of memory: batches become smaller, and the rows stay the same."""
    model = model_named("ViT-B-32", run.folder, "cuda", Precision.FLOAT16)
    samples = web_samples(FULL)
    with Decoders(decoder_processes("cuda"), MODELS) as decoders:
        batch = prepared(model, samples, decoders, pinned=True)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    plenty = rows(model, batch, FULL)
    peak = torch.cuda.max_memory_allocated()
    run.record("ViT-B-32 float16: memory of a batch of 1,024", (peak - before) / 2**20, "MiB", 1_200)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 0.4 * (peak - before)) / total)
    scarce = rows(model, batch, FULL)
    torch.cuda.set_per_process_memory_fraction(1.0)
    stray = max(float(np.linalg.norm(a - b, axis=1).max()) for a, b in zip(scarce, plenty, strict=True))
    run.record("rows at once after memory ran out", model.towers.most, "rows", 256)
    run.expect("memory ran out, and batches were halved", model.towers.most < FULL)
    run.expect("rows are the same", stray <= MOST_STRAY[Precision.FLOAT16], f"greatest distance {stray:.1e}")


def rows(model: ClipModel, batch: Batch, size: int) -> tuple[Embeddings, Embeddings]:
    """Embed in batches of `size`."""
    pixels, tokens = batch
    done = [
        model.towers.embed(pixels[start : start + size], tokens[start : start + size]).result()
        for start in range(0, len(pixels), size)
    ]
    return np.concatenate([images for images, _ in done]), np.concatenate([texts for _, texts in done])


def similarities(images: Embeddings, texts: Embeddings) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the cosine of each pair."""
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = np.einsum("nd,nd->n", images, texts, dtype=np.float64)
    return found
