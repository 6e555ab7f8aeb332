"""The filter and embed end to end, beside the bare towers, open_clip's own way, and other ways to run the towers.

Predicted from operations: a picture costs 8.8 GFLOP in ViT-B/32 and 162 in ViT-L/14; a text of up to 16 tokens 1.2 and
2.7, so at 16 tokens most of a batch. Layer norms, GELU and residuals move some 60 bytes per number of the residual
stream and layer, at the speed of the device's memory.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

from dataset.embed.embed import embed_all
from dataset.embed.sources import source_of_shard
from dataset.filter.shard import filter_shard
from dataset.models import towers as towers_module
from dataset.models.clip import ClipModel
from dataset.models.decoders import MODELS, Decoders
from dataset.models.pipeline import BATCH_SAMPLES, Pipeline, decoder_processes
from dataset.models.towers import MOST_STRAY, Precision, Towers
from dataset.recipe.recipe import Recipe
from dataset.store.store import Store
from tests.benchmarks.bench_filter import ABREAST, open_clips_way, write_shard
from tests.gpu.ceilings import COPY_BYTES, DECODE_SECONDS, MATRIX_FLOPS, TOKENIZE_SECONDS
from tests.gpu.inputs import Batch, device_name, model_named, prepared, web_samples
from tests.gpu.results import Run

GIGAFLOPS = {"ViT-B-32": (8.8, 1.3, 5.9), "ViT-L-14": (162.0, 3.0, 13.2)}
"""Of a picture, of an alt text cut to the longest of its group, and of a text padded to 77 tokens."""

STREAM = {"ViT-B-32": 12 * 50 * 768, "ViT-L-14": 24 * 257 * 1024}
"""Numbers of the image tower's residual stream, over all layers."""

BYTES_A_NUMBER = {"autocast": 60, "half": 36, "compiled": 28}
"""Bytes moved for each number of the residual stream between matrix products, in float16: two layer norms (20 each with
casts, 4 without), two residuals (6 each), GELU over four times the width (16), and what attention reads and writes."""

GOALS = {"ViT-B-32": 10_000, "ViT-L-14": 2_400}


def predicted_rate(name: str, way: str, text: int = 1) -> float:
    """Return samples a second that operations and bytes allow."""
    flops = (GIGAFLOPS[name][0] + GIGAFLOPS[name][text]) * 1e9
    return 1 / (flops / (MATRIX_FLOPS * 0.85) + STREAM[name] * BYTES_A_NUMBER[way] / COPY_BYTES)


def measure_b32(run: Run) -> None:
    """Measure ViT-B/32."""
    measure(run, "ViT-B-32")


def measure_l14(run: Run) -> None:
    """Measure ViT-L/14, and `embed` with it."""
    measure(run, "ViT-L-14")


def measure(run: Run, name: str) -> None:
    """Measure a model: bare, open_clip's way, end to end, then other ways."""
    device = device_name()
    started = time.perf_counter()
    model = model_named(name, run.folder, device)
    run.record(f"{name}: making and loading", time.perf_counter() - started, "s")
    size = BATCH_SAMPLES[device]
    count = {(True, "ViT-L-14"): 1, (False, "ViT-B-32"): 8}.get((run.quick, name), 2)
    batches = batches_of(model, size, count if device == "cuda" else 1)
    bare = rate(lambda: embed_batches(model.towers, batches), batches)
    run.record(f"{name}: bare towers", bare, "samples/s", predicted_rate(name, "autocast"))
    plain = rate(lambda: [open_clips_way(model, *batch) for batch in batches], batches)
    run.record(f"{name}: open_clip, padded texts", plain, "samples/s", predicted_rate(name, "autocast", 2))
    shards = shards_for(run, model)
    end_to_end(run, model, shards, bare)
    if device == "cuda":
        as_graphs(run, model, batches, shards, bare)
    if device == "cuda" and not run.quick:
        for title, way, work, some in other_ways(model, batches):
            try:
                found = rate(work, some)
                run.record(
                    f"{name}: {title}", found, "samples/s", predicted_rate(name, way), f"{found / bare:.2f} of bare"
                )
            except (RuntimeError, AssertionError) as error:
                run.record(f"{name}: {title}", None, "samples/s", note=str(error).splitlines()[0][:60])
            torch.cuda.empty_cache()


def batches_of(model: ClipModel, size: int, count: int) -> list[Batch]:
    """Return prepared batches, in pinned memory for a GPU."""
    with Decoders(decoder_processes(model.device.type), MODELS) as decoders:
        samples = web_samples(size * count)
        starts = range(0, len(samples), size)
        pinned = model.device.type == "cuda"
        return [prepared(model, samples[start : start + size], decoders, pinned=pinned) for start in starts]


def embed_batches(towers: Towers, batches: Sequence[Batch]) -> None:
    """Embed batches as the pipeline does: the next is started before the last is waited for."""
    waiting = None
    for pixels, tokens in batches:
        started = towers.embed(pixels, tokens)
        if waiting is not None:
            waiting.result()
        waiting = started
    if waiting is not None:
        waiting.result()


def rate(work: Callable[[], Any], batches: Sequence[Batch]) -> float:
    """Return samples a second, the better of two calls after one to warm up."""
    work()
    taken = []
    for _ in range(2 if device_name() == "cuda" else 1):
        started = time.perf_counter()
        work()
        if device_name() == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return sum(len(pixels) for pixels, _ in batches) / min(taken)


def shards_for(run: Run, model: ClipModel) -> tuple[list[str], int]:
    """Write three shards; return their names, and the samples of each."""
    name, store = model.name, Store.open(str(run.folder))
    samples = {(True, "ViT-B-32"): 4_096, (True, "ViT-L-14"): 2_048, (False, "ViT-B-32"): 20_480}.get(
        (run.quick, name), 8_192
    )
    samples = samples if model.device.type == "cuda" else 64
    return [write_shard(store, number, samples) for number in range(3)], samples


def end_to_end(run: Run, model: ClipModel, written: tuple[list[str], int], bare: float, way: str = "") -> None:
    """Measure `filter_shard` on several shards abreast, and `embed_all` on the same shards; `way` ends the titles."""
    name, cuda = model.name, model.device.type == "cuda"
    store = Store.open(str(run.folder))
    shards, samples = written
    spec = {"model": name, "pretrained": "random"}
    # Without prompts: with random weights they would drop samples at random.
    recipe = Recipe.from_json({"models": {"en": spec, "other": spec}, "safety": {"prompts": None}})
    decoding = decoder_processes(model.device.type) / (DECODE_SECONDS + TOKENIZE_SECONDS)
    predicted = min(predicted_rate(name, "autocast"), decoding)
    with Pipeline(decoder_processes(model.device.type)) as pipeline, ThreadPoolExecutor(ABREAST) as threads:

        def filtered(number: int, shard: str) -> None:
            report = filter_shard(
                store,
                shard,
                f"parts{way}/{name}/{number}",
                models={"en": model, "other": model},
                recipe=recipe,
                pipeline=pipeline,
            )
            assert report.samples == samples

        list(threads.map(filtered, range(cuda), shards[:1]))
        cpu, started = cpu_seconds(), time.perf_counter()
        list(threads.map(filtered, range(3), shards))
        taken = time.perf_counter() - started
        found = 3 * samples / taken
        note = f"{found / bare:.2f} of bare, this process {(cpu_seconds() - cpu) / taken:.1f} cores"
        run.record(f"{name}: filter, end to end{way}", found, "samples/s", predicted, note)
        if cuda:
            run.record(f"{name}: goal of the filter{way}", found, "samples/s", GOALS[name])
        if name == "ViT-L-14" or not cuda:
            started = time.perf_counter()
            sources = [source_of_shard(store, shard) for shard in shards]
            reports = [*embed_all(sources, model, pipeline, store, f"second{way}/{name}")]
            assert sum(report.embedded for report in reports) == 3 * samples, reports
            found = 3 * samples / (time.perf_counter() - started)
            run.record(f"{name}: embed, end to end{way}", found, "samples/s", predicted, f"{found / bare:.2f} of bare")


def cpu_seconds() -> float:
    """Return the CPU time of this process, without the decoders."""
    return sum(os.times()[:2])


Way = tuple[str, str, Callable[[], Any], Sequence[Batch]]
"""A title, the way that `predicted_rate` knows, the work, and its batches."""


def other_ways(model: ClipModel, batches: Sequence[Batch]) -> Iterator[Way]:
    """Yield further ways to run the towers."""
    towers = model.towers
    there = [(pixels.cuda(), tokens) for pixels, tokens in batches]
    yield "bare, pictures on the device", "autocast", lambda: embed_batches(towers, there), there
    yield "image tower alone", "autocast", lambda: [towers.images(pixels) for pixels, _ in there], there
    yield "text tower alone", "autocast", lambda: [towers.texts(tokens) for _, tokens in there], there
    for size in (256, 2048):
        yield f"bare, batches of {size}", "autocast", *over(towers, cut(batches, size))
    yield "bare, texts in eight groups", "autocast", finer_groups(towers, batches), batches
    bfloat = Towers(towers.network, towers.device, **settings_of(towers), precision=Precision.BFLOAT16)
    yield "bare, bfloat16", "autocast", *over(bfloat, batches)
    yield "bare, flash attention alone", "autocast", flash_alone(towers, batches), batches
    half = HalfTowers(
        copy.deepcopy(towers.network).half(), towers.device, **settings_of(towers), precision=Precision.FLOAT16
    )
    yield "bare, weights in float16", "half", *over(half, batches)
    torch.backends.mha.set_fastpath_enabled(False)
    yield "the same, attention without fast path", "half", *over(half, batches)
    half.network.visual.to(memory_format=torch.channels_last)
    yield "the same, channels last", "half", *over(half, batches)
    yield "the same, batches of 2048", "half", *over(half, cut(batches, 2048))
    yield "the same, as a CUDA graph", "half", as_graph(half, batches), batches
    torch.backends.mha.set_fastpath_enabled(True)


class HalfTowers(Towers):
    """Towers whose weights are float16, computed without autocast."""

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        colours = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)  # (N, 3, H, W)
        rows = self.network.encode_image(colours.sub_(self._mean).div_(self._std).half())
        return torch.nn.functional.normalize(rows.float(), dim=-1)

    @contextmanager
    def _arithmetic(self, precision: Precision) -> Iterator[None]:
        with torch.inference_mode():
            yield


GRAPH_ROWS = (128, 256, 512, 1024)
"""A batch is filled up to one of these sizes, each of which has a CUDA graph; pictures come in whole batches."""


class GraphTowers(HalfTowers):
    """Towers in float16 that replay a CUDA graph instead of launching each kernel."""

    def capture(self, size: tuple[int, int], context: int) -> None:
        """Capture a graph for each size of a batch of pictures of `size`, and of a group of texts."""
        self._graphs: dict[tuple[int, ...], tuple[Any, torch.Tensor, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        lengths = (*(length for length in towers_module.TEXT_LENGTHS if length < context), context)
        with torch.inference_mode():
            self._capture(torch.zeros(GRAPH_ROWS[-1], *size, 3, dtype=torch.uint8, device=self.device))
            for length in lengths:
                for rows in GRAPH_ROWS:
                    self._capture(torch.zeros(rows, length, dtype=torch.int32, device=self.device))

    def _capture(self, fixed: torch.Tensor) -> None:
        encode = super()._texts if fixed.ndim == 2 else super()._plain_images
        copying, self._copying = self._copying, None  # a copy in a stream of its own cannot be captured
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            encode(fixed)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            rows = encode(fixed)
        self._copying = copying
        self._graphs[tuple(fixed.shape)] = graph, fixed, rows

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._replayed(pixels, super()._images)

    def _texts(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._replayed(tokens, super()._texts)

    def _replayed(self, given: torch.Tensor, encode: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        count = len(given)
        for size in GRAPH_ROWS:
            found = self._graphs.get((size, *given.shape[1:]))
            if count <= size and found is not None:
                graph, fixed, rows = found
                fixed[:count].copy_(self._there(given))
                graph.replay()
                return rows[:count].clone()
        return encode(given)


def as_graphs(
    run: Run, model: ClipModel, batches: Sequence[Batch], written: tuple[list[str], int], bare: float
) -> None:
    """Measure both towers as CUDA graphs with float16 weights: how near to autocast, bare, and end to end."""
    name, old = model.name, model.towers
    graphed = GraphTowers(
        copy.deepcopy(old.network).half(), old.device, **settings_of(old), precision=Precision.FLOAT16
    )
    torch.backends.mha.set_fastpath_enabled(False)
    started = time.perf_counter()
    context = batches[0][1].shape[1]
    graphed.capture((model.preparation.height, model.preparation.width), context)
    torch.cuda.synchronize()
    torch.backends.mha.set_fastpath_enabled(True)
    run.record(f"{name}: capturing 17 CUDA graphs", time.perf_counter() - started, "s", 2)
    wanted, got = (towers.embed(*batches[0]).result() for towers in (old, graphed))
    stray = max(float(abs(a - b).max()) for a, b in zip(wanted, got, strict=True))
    run.record(f"{name}: graphs, greatest difference of a number", stray, "", 5e-4)
    run.expect(f"{name}: graphs agree with autocast", stray <= 2 * MOST_STRAY[Precision.FLOAT16])
    found = rate(lambda: embed_batches(graphed, batches), batches)
    note = f"{found / bare:.2f} of bare"
    run.record(f"{name}: bare, both towers as graphs", found, "samples/s", predicted_rate(name, "half"), note)
    end_to_end(run, replace(model, towers=graphed), written, found, ", graphs")
    torch.cuda.empty_cache()


def settings_of(towers: Towers) -> dict[str, Any]:
    """Return the arguments that make towers alike, except the precision."""
    mean, std = towers.normalisation
    return {"mean": mean, "std": std, "text": towers.text}


def over(towers: Towers, batches: Sequence[Batch]) -> tuple[Callable[[], Any], Sequence[Batch]]:
    """Return the work that embeds the batches, and the batches."""
    return lambda: embed_batches(towers, batches), batches


def cut(batches: Sequence[Batch], size: int) -> list[Batch]:
    """Return the same samples in batches of another size."""
    pixels, tokens = (torch.cat(columns) for columns in zip(*batches, strict=True))
    return [
        (some.pin_memory(), texts.pin_memory())
        for some, texts in zip(torch.split(pixels, size), torch.split(tokens, size), strict=True)
    ]


def finer_groups(towers: Towers, batches: Sequence[Batch]) -> Callable[[], Any]:
    """Return the work with texts grouped by more lengths."""

    def work() -> None:
        with patch.object(towers_module, "TEXT_LENGTHS", (8, 12, 16, 20, 24, 32, 48)):
            embed_batches(towers, batches)

    return work


def flash_alone(towers: Towers, batches: Sequence[Batch]) -> Callable[[], Any]:
    """Return the image tower's work with every attention but flash forbidden; it fails if one is not fused."""

    def work() -> None:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
            for pixels, _ in batches:
                towers.images(pixels)

    return work


def as_graph(towers: HalfTowers, batches: Sequence[Batch]) -> Callable[[], Any]:
    """Return the image tower's work, captured once and replayed for each batch."""
    fixed = batches[0][0].cuda()
    with torch.inference_mode():
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            towers._encoded(fixed)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            rows = towers._encoded(fixed)

    def work() -> None:
        for pixels, _ in batches:
            fixed.copy_(pixels, non_blocking=True)
            graph.replay()
        rows.cpu()

    return work


def measure_compiled_b32(run: Run) -> None:
    """Measure ViT-B/32 compiled."""
    measure_compiled(run, "ViT-B-32")


def measure_compiled_l14(run: Run) -> None:
    """Measure ViT-L/14 compiled."""
    measure_compiled(run, "ViT-L-14")


def measure_compiled(run: Run, name: str) -> None:
    """Measure the towers with the image tower compiled: with autocast as `--compile` does, and with float16 weights."""
    model = model_named(name, run.folder, device_name())
    size = BATCH_SAMPLES[device_name()]
    batches = batches_of(model, size, 2)
    half = HalfTowers(
        copy.deepcopy(model.towers.network).half(),
        model.device,
        **settings_of(model.towers),
        precision=Precision.FLOAT16,
    )
    for title, towers in (("autocast", model.towers), ("float16 weights", half)):
        torch.backends.mha.set_fastpath_enabled(title == "autocast")
        started = time.perf_counter()
        reason = towers.compile((model.preparation.height, model.preparation.width), size)
        run.record(f"{name}: compiling, {title}", time.perf_counter() - started, "s", 60, reason or "")
        if reason is None:
            found = rate(lambda towers=towers: embed_batches(towers, batches), batches)  # type: ignore[misc]
            run.record(f"{name}: bare, compiled, {title}", found, "samples/s", predicted_rate(name, "compiled"))
