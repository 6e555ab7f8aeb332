"""What the machine can do at best: copies, matrix products, decoding and tokenizing, each alone."""

import os

import numpy as np
import open_clip
import torch

from dataset.models.clip import preparation_of
from dataset.models.decoders import CHUNK_SAMPLES, MODELS, Decoders
from dataset.models.towers import Precision
from tests.gpu.inputs import device_name, web_samples
from tests.gpu.results import Run, seconds, seconds_on_gpu

# Leads for one H100 SXM: read on such machines and in its datasheet; what is measured here replaces them.
COPY_BYTES = 3.0e12  # device to device, bytes read and written
MATRIX_FLOPS = 790e12  # bf16 or fp16, random numbers
TF32_FLOPS = 400e12
PCI_BYTES = 50e9  # PCIe 5 x16, pinned
DECODE_SECONDS = 1.3e-3  # CPU time of one picture of 256 pixels: decode 0.8, resize 0.5
TOKENIZE_SECONDS = 0.05e-3


def measure_device(run: Run) -> None:
    """Measure copies and matrix products."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    taken = seconds_on_gpu(lambda: target.copy_(source))
    run.record("device copy", 2 * source.numel() / taken / 1e12, "TB/s", COPY_BYTES / 1e12)
    host = torch.empty((1024, 224, 224, 3), dtype=torch.uint8, pin_memory=True).random_()
    there = torch.empty_like(host, device="cuda")
    rate = host.numel() / seconds_on_gpu(lambda: there.copy_(host, non_blocking=True))
    note = f"{rate / (224 * 224 * 3):,.0f} pictures/s"
    run.record("pinned copy to the device", rate / 1e9, "GB/s", PCI_BYTES / 1e9, note)
    back = torch.empty((1024, 512), pin_memory=True)
    rows = torch.randn(1024, 512, device="cuda")
    taken = seconds_on_gpu(lambda: back.copy_(rows, non_blocking=True))
    run.record("pinned copy of 1,024 rows back", taken * 1e6, "us", 4 * 1024 * 512 / PCI_BYTES * 1e6)
    for kind, predicted in ((torch.bfloat16, MATRIX_FLOPS), (torch.float16, MATRIX_FLOPS), (torch.float32, TF32_FLOPS)):
        torch.set_float32_matmul_precision("high")
        left, right = (torch.randn(8192, 8192, device="cuda", dtype=kind) for _ in range(2))
        rate = 2 * 8192**3 / seconds_on_gpu(lambda left=left, right=right: left @ right, 10)  # type: ignore[misc]
        name = "tf32" if kind == torch.float32 else str(kind).removeprefix("torch.")
        run.record(f"matrix product 8192, {name}", rate / 1e12, "TFLOP/s", predicted / 1e12)


def measure_decoders(run: Run) -> None:
    """Measure decoding and tokenizing, without a model on the device."""
    transforms, tokenizer = open_clip.image_transform(224, is_train=False), open_clip.get_tokenizer("ViT-B-32")
    preparation = preparation_of(transforms, tokenizer, 224, Precision.FLOAT16)
    samples = web_samples(1024 if run.quick else 4096)
    shape = (preparation.height, preparation.width, 3)
    texts = [sample.caption for sample in samples]
    preparation.tokens(texts[:64])
    alone = seconds(lambda: preparation.tokens(texts)) / len(texts)
    run.record("tokenizer alone, one process", 1 / alone, "texts/s", 1 / TOKENIZE_SECONDS)
    cores = os.cpu_count() or 1
    counts = sorted({1, max(1, cores // 2), max(1, cores - 1), cores})
    for count in counts if device_name() == "cuda" else [1]:
        some = samples if count > 1 else samples[:256]
        with Decoders(count, MODELS) as decoders:
            pixels = np.empty((len(some), *shape), np.uint8)
            # each decoder is started by its first chunk
            decoders.prepare(
                some[: count * CHUNK_SAMPLES], preparation, pixels[: count * CHUNK_SAMPLES], age=0
            ).result()
            taken = seconds(lambda: decoders.prepare(some, preparation, pixels, age=0).result())  # noqa: B023
        predicted = count / (DECODE_SECONDS + TOKENIZE_SECONDS)
        run.record(f"decode and tokenize, {count} processes", len(some) / taken, "samples/s", predicted)
