"""Compare the filter end to end, from shards to parts, with the bare forward pass on the same batches.

ViT-B/32 (and ViT-L/14 on a GPU) as open_clip builds them, with random weights: the time does not depend on the values,
and a machine without a network has no others. Pictures are noise and gradients as JPEGs of 256 pixels on the shorter
side, as a download leaves them; captions have from 3 to 60 words, most of them few, as alt texts do.

Measured in one process, one after the other on the same samples:

    bare       the towers on batches that lie prepared in memory: nothing is read, decoded, tokenized or written
    open_clip  encode_image and encode_text on the same batches, the text padded to 77 tokens, in the same precision
    filter     `filter_shard` on all shards, abreast as the worker does it, from the store into the store

and on a GPU each limit alone: decode (all decoders, no model), copy (batches to the device), model (batches that lie on
the device). Similarities are compared with float32 on the CPU; a pair counts as changed if it is on the other side of
the median, which is where a threshold would change the most.

The last line is one JSON object.
"""

import argparse
import io
import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dataset.filter.shard import filter_shard
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import Sample, read_samples
from dataset.models.clip import ClipModel, load_model
from dataset.models.decoders import Decoders
from dataset.models.pipeline import BATCH_SAMPLES, Pipeline, decoder_processes
from dataset.pictures.open_stored import open_stored
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.recipe import ModelRecipe, Recipe
from dataset.store.store import Store

import open_clip  # isort: skip - after dataset.models.clip, which makes torchvision importable

ABREAST = 3
ROUNDS = 3
WORDS = ("red", "old", "house", "with", "a", "garden", "by", "the", "sea", "black", "leather", "shoes", "for", "men")

PEERS = """
For comparison, as others have told it (not measured here):
  LAION-5B's inference      1,800 samples/s ViT-B/32 and 312 ViT-L/14 on an A100
  clip-retrieval inference  about 1,500 samples/s ViT-B/32 on an RTX 3080, 20 h for 100 million
""".strip("\n")


@dataclass(frozen=True, slots=True)
class Result:
    """Samples a second; the last two are CPU seconds of this process, which a busy machine stretches less."""

    bare: float
    open_clip: float
    filter: float
    bare_cpu: float
    filter_cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--samples", type=int, help="in a shard; default: 96 on a CPU, 10,000 on a GPU")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    samples = arguments.samples or (10_000 if on_gpu else 96)
    said: dict[str, float | None] = {"gpu_b32_per_s": None, "gpu_l14_per_s": None, "cpu_vs_forward": None}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        store = Store.open(folder)
        shards = [write_shard(store, number, samples) for number in range(arguments.shards)]
        if on_gpu:
            for architecture, key in (("ViT-B-32", "gpu_b32_per_s"), ("ViT-L-14", "gpu_l14_per_s")):
                model = random_model(folder, architecture, "cuda")
                result = measured(store, shards, model)
                said[key] = round(result.filter, 1)
                said[key.replace("per_s", "vs_forward")] = round(result.filter / result.bare, 3)
                limits(store, shards, model)
                said[f"{key}_compiled"] = measured_compiled(store, shards, model)
        else:
            result = measured(store, shards, random_model(folder, "ViT-B-32", "cpu"))
            said["cpu_vs_forward"] = round(result.filter / result.bare, 3)
            said["cpu_seconds_vs_forward"] = round(result.bare_cpu / result.filter_cpu, 3)
            said["cpu_b32_per_s"] = round(result.filter, 2)
            said["cpu_vs_open_clip"] = round(result.filter / result.open_clip, 3)
        said |= differences(store, shards[0], folder, "cuda" if on_gpu else "cpu")
    print(PEERS)
    print(json.dumps(said))


def measured(store: Store, shards: Sequence[str], model: ClipModel) -> Result:
    """Run all three ways over the same samples, and print what each took."""
    kind = model.device.type
    batches = prepared(store, shards, model, BATCH_SAMPLES[kind])
    n = sum(len(pixels) for pixels, _ in batches)
    for pixels, tokens in batches[:1]:
        model.towers.embed(pixels, tokens).result()
    plain = timed(lambda: [open_clips_way(model, pixels, tokens) for pixels, tokens in batches])
    models = {"en": model, "other": model}
    spec = {"model": model.name, "pretrained": "random"}
    # No prompts: random weights would drop samples at random, and a worker embeds them once a run, not for each shard.
    recipe = Recipe.from_json({"models": {"en": spec, "other": spec}, "safety": {"prompts": None}})
    with Pipeline(decoder_processes(kind)) as pipeline, ThreadPoolExecutor(ABREAST) as threads:
        filter_shard(store, shards[0], "parts/warm", models=models, recipe=recipe, pipeline=pipeline)

        def work() -> None:
            for job in [
                threads.submit(
                    filter_shard, store, shard, f"parts/{i}", models=models, recipe=recipe, pipeline=pipeline
                )
                for i, shard in enumerate(shards)
            ]:
                assert job.result().samples == n // len(shards)

        rounds = []
        for _ in range(ROUNDS):  # in turns, so that both see the same machine
            cpu = time.process_time()
            bare = timed(lambda: [model.towers.embed(pixels, tokens) for pixels, tokens in batches][-1].result())
            bare_cpu = time.process_time() - cpu
            whole = timed(work)
            rounds.append((bare, whole, bare_cpu, time.process_time() - cpu - bare_cpu))
    bare, whole, bare_cpu, whole_cpu = np.median(rounds, axis=0)
    result = Result(n / bare, n / plain, n / whole, bare_cpu, whole_cpu)
    print(f"{model.name} on {model.device}, {model.towers.precision}, {len(shards)} shards, {n} samples, per second:")
    print(f"  bare forward pass   {result.bare:9.1f}")
    print(f"  open_clip, padded   {result.open_clip:9.1f}")
    print(f"  filter, end to end  {result.filter:9.1f}   {result.filter / result.bare:.3f} of the bare forward pass")
    return result


def measured_compiled(store: Store, shards: Sequence[str], model: ClipModel) -> float | None:
    """The same with the image tower compiled, in samples a second; None where that cannot be."""
    started = time.perf_counter()
    reason = model.towers.compile((model.preparation.height, model.preparation.width), BATCH_SAMPLES[model.device.type])
    print(f"compiled in {time.perf_counter() - started:.0f} s" if reason is None else f"not compiled: {reason}")
    return round(measured(store, shards, model).filter, 1) if reason is None else None


def limits(store: Store, shards: Sequence[str], model: ClipModel) -> None:
    """Print how many samples a second each part of the way could do alone, and name the least."""
    samples = [sample for shard in shards for sample in read_samples(store, shard) if isinstance(sample, Sample)]
    size = BATCH_SAMPLES[model.device.type]
    shape = (model.preparation.height, model.preparation.width, 3)
    reading = timed(lambda: [None for shard in shards for _ in read_samples(store, shard)])
    with Pipeline(decoder_processes(model.device.type)) as pipeline:
        decoders = pipeline.decoders
        decode_all(decoders, model, samples[:size], size, shape)
        decoding = timed(lambda: decode_all(decoders, model, samples, size, shape))
    pixels = torch.empty((size, *shape), dtype=torch.uint8, pin_memory=True)
    tokens = torch.from_numpy(model.preparation.tokens([sample.caption for sample in samples[:size]]))

    def copy() -> None:
        pixels.to("cuda", non_blocking=True)
        torch.cuda.synchronize()

    copying = timed(copy, times=10) / size
    there = pixels.to("cuda")
    computing = timed(lambda: model.towers.embed(there, tokens).result(), times=10) / size
    rates = {
        "read": len(samples) / reading,
        "decode": len(samples) / decoding,
        "copy": 1 / copying,
        "model": 1 / computing,
    }
    print("  each alone, samples/s: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))
    print(f"  the limit is {min(rates, key=lambda name: rates[name])}")


def decode_all(decoders: Decoders, model: ClipModel, samples: Sequence[Sample], size: int, shape: Any) -> None:
    waiting = [
        decoders.prepare(
            samples[start : start + size],
            model.preparation,
            np.empty((len(samples[start : start + size]), *shape), np.uint8),
            age=0,
        )
        for start in range(0, len(samples), size)
    ]
    for batch in waiting:
        batch.result()


def differences(store: Store, shard: str, folder: str, kind: str) -> dict[str, float]:
    """Compare the fast path's similarities with open_clip's in float32 on the CPU, on 256 samples."""
    fast = random_model(folder, "ViT-B-32", kind)
    exact = random_model(folder, "ViT-B-32", "cpu")
    samples = [sample for sample in read_samples(store, shard) if isinstance(sample, Sample)][:256]
    with Pipeline() as pipeline:
        (batch,) = pipeline.embed([(fast, samples)])
    got = np.einsum("nd,nd->n", batch.image_features, batch.text_features, dtype=np.float64)
    pictures = [Image.open(io.BytesIO(sample.image)) for sample in batch.samples]
    pixels = torch.from_numpy(np.stack([exact.preparation.pixels(picture) for picture in pictures]))
    tokens = torch.from_numpy(exact.preparation.tokens([sample.caption for sample in batch.samples]))
    images, texts = open_clips_way(exact, pixels, tokens)
    want = torch.einsum("nd,nd->n", images.double(), texts.double()).numpy()
    threshold = float(np.median(want))
    return {
        "max_similarity_difference": float(np.abs(got - want).max()),
        "mean_similarity_difference": float(np.abs(got - want).mean()),
        "changed_at_threshold": float(np.mean((got >= threshold) != (want >= threshold))),
    }


def open_clips_way(model: ClipModel, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed as open_clip's README does, (N, D) float32 unit rows each, on the CPU."""
    network = model.towers.network
    device = model.device
    with torch.inference_mode(), torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
        colours = pixels.to(device).permute(0, 3, 1, 2).contiguous().float().div_(255)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in model.towers.normalisation)
        images = network.encode_image((colours - mean) / std, normalize=True)
        texts = network.encode_text(tokens.to(device).long(), normalize=True)
    return images.float().cpu(), texts.float().cpu()


def prepared(
    store: Store, shards: Sequence[str], model: ClipModel, size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make the batches that the filter makes, in memory (pinned for a GPU)."""
    batches = []
    for shard in shards:
        samples = [sample for sample in read_samples(store, shard) if isinstance(sample, Sample)]
        for start in range(0, len(samples), size):
            batch = samples[start : start + size]
            pixels = torch.empty(
                (len(batch), model.preparation.height, model.preparation.width, 3),
                dtype=torch.uint8,
                pin_memory=model.device.type == "cuda",
            )
            for row, sample in zip(pixels.numpy(), batch, strict=True):
                picture = open_stored(sample.image)
                assert picture is not None
                row[:] = model.preparation.pixels(picture)
            tokens = model.preparation.tokens([sample.caption for sample in batch])
            batches.append((pixels, torch.from_numpy(tokens)))
    return batches


def random_model(folder: str, architecture: str, device: str) -> ClipModel:
    """Make a model of this architecture with weights from a fixed seed, through a file as all models come."""
    weights = Path(folder) / f"{architecture}.pt"
    if not weights.exists():
        torch.manual_seed(7)
        torch.save(open_clip.create_model(architecture).state_dict(), weights)
    return load_model(ModelRecipe(architecture, str(weights), 0.28), device=device)


def write_shard(store: Store, number: int, samples: int) -> str:
    """Write a shard of `samples` pictures; 64 different ones, since only their size costs time."""
    rng = np.random.default_rng(number)
    pictures = [picture(rng) for _ in range(64)]
    output = f"shards/{number}"
    with ShardWriter(store, output, job_id=number, subset="en") as writer:
        for position in range(samples):
            writer.add(
                LinkRow(
                    position=position,
                    pack=1,
                    pack_row=position,
                    attempt=1,
                    final=True,
                    language="en",
                    url=f"http://a.example/{number}/{position}.jpg",
                    caption=" ".join(rng.choice(WORDS, int(np.clip(rng.lognormal(2.2, 0.6), 3, 60)))),
                    outcome=Outcome.SUCCESS,
                    picture=pictures[position % len(pictures)],
                )
            )
        writer.publish()
    return output


def picture(rng: np.random.Generator) -> Picture:
    """Make a JPEG of 256 pixels on the shorter side, quality 95, some 20 to 40 KB, as a download leaves it."""
    width, height = (256, int(256 * rng.uniform(1, 1.6)))
    if rng.random() < 0.7:
        width, height = height, width
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))
    data = io.BytesIO()
    noisy.save(data, "JPEG", quality=95)
    return Picture(data.getvalue(), "jpg", width, height, 2 * width, 2 * height, "0" * 64, "0" * 32)


def timed(work: Any, times: int = 1) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


if __name__ == "__main__":
    main()
