"""Embed samples at the speed of the model: decoder processes prepare batches for one thread that owns the device.

    batches of samples ─▶ Decoders: pixels, tokens ─▶ the device's thread: towers ─▶ rows, in the order of the batches

Invariant: the rows of a batch depend on its samples only, not on what is embedded at the same time. Each arrow holds a
few batches, whatever the number of samples. Several callers in threads of their own share one pipeline. The caller that
began first is served first; the others use the time in which it starts, ends and writes.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from dataset.formats.shards import Sample
from dataset.models.clip import ClipModel
from dataset.models.decoders import MODELS, Decoders, Prepared
from dataset.models.files import ModelError
from dataset.models.oldest_first import OldestFirstExecutor, prefetch
from dataset.models.towers import Embedded, Embeddings, Precision

BATCH_SAMPLES = {"cpu": 32, "cuda": 1024}
"""On two cores 32 samples take 2 s, an acceptable time for a worker to stop; a GPU is busy from some hundred on."""

PREPARED_AHEAD = 2
"""Decoded batches of a caller that wait for the model; 150 MB each on a GPU."""

RUNNING_AHEAD = 1
"""Batches of a caller on the device beyond the awaited one, so that the device always has work."""

MAX_DECODERS = 32
"""With more decoders, the one process that feeds the device would be the limit."""


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """The samples of one batch by result; row i of both features, (N, D) float32 unit rows, belongs to samples[i]."""

    samples: list[Sample]
    image_features: Embeddings
    text_features: Embeddings
    undecodable: list[Sample]
    without_direction: list[Sample]
    """Samples for which the model returned no finite row, neither in its own precision nor in float32."""


class Pipeline:
    """`processes` decoders and the device's thread. If `batch_samples` is None, it depends on the device.

    The model runs within the context `busy`, entered in the device's thread.
    """

    def __init__(
        self,
        processes: int = 1,
        batch_samples: int | None = None,
        busy: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.decoders = Decoders(processes, MODELS)
        self._device = OldestFirstExecutor(1, "device")
        self._batch_samples = batch_samples
        self._busy = busy
        self._ages = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.decoders.close()
        self._device.close()

    def batch_samples(self, model: ClipModel) -> int:
        """Return how many samples a model gets at once."""
        return self._batch_samples or BATCH_SAMPLES.get(model.device.type, BATCH_SAMPLES["cpu"])

    def embed(
        self,
        batches: Iterable[tuple[ClipModel, Sequence[Sample]]],
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Iterator[EmbeddedBatch]:
        """Embed batches, each with its model, and yield them in order; `while_waiting` is called twice a second.

        Raises: DeviceError when the device fails; ModelError when a whole batch gets no finite row.
        """
        age = next(self._ages)
        preparing = (self._begin(model, samples, age) for model, samples in batches)
        prepared = prefetch(preparing, PREPARED_AHEAD, while_waiting)
        running = (_Running(batch, self._run(batch, age)) for batch in prepared)
        for batch, rows in prefetch(running, RUNNING_AHEAD, while_waiting):
            yield self._judged(batch, *rows.result(), age)

    def _begin(self, model: ClipModel, samples: Sequence[Sample], age: int) -> "_Preparing":
        wanted = model.preparation
        shape = (len(samples), wanted.height, wanted.width, 3)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=model.device.type == "cuda")
        return _Preparing(model, samples, pixels, self.decoders.prepare(samples, wanted, pixels.numpy(), age=age))

    def _run(self, batch: "_Batch", age: int) -> Future[Embedded]:
        if not batch.samples:
            nothing: Future[Embedded] = Future()
            nothing.set_result(Embedded(*(torch.empty(0, batch.model.dimensions) for _ in range(2))))
            return nothing
        return self._device.submit(age, lambda: self._timed(batch))

    def _timed(self, batch: "_Batch") -> Embedded:
        with self._busy():
            return batch.model.towers.embed(batch.pixels, batch.tokens)

    def _judged(self, batch: "_Batch", images: Embeddings, texts: Embeddings, age: int) -> EmbeddedBatch:
        lost = ~(has_direction(images) & has_direction(texts))
        towers = batch.model.towers
        if lost.any() and towers.precision is not Precision.FLOAT32:
            again = torch.from_numpy(lost)
            embed = self._device.submit(
                age, lambda: towers.embed(batch.pixels[again], batch.tokens[again], Precision.FLOAT32)
            )
            images[lost], texts[lost] = embed.result().result()
            lost = ~(has_direction(images) & has_direction(texts))
        if len(lost) > 1 and lost.all():
            raise ModelError(
                f"{batch.model.name} returned no finite row for any of {len(lost)} samples: replace its weights, or "
                "the device that it runs on."
            )
        return EmbeddedBatch(
            [sample for sample, is_lost in zip(batch.samples, lost, strict=True) if not is_lost],
            images[~lost],
            texts[~lost],
            batch.undecodable,
            [sample for sample, is_lost in zip(batch.samples, lost, strict=True) if is_lost],
        )


def decoder_processes(device: str | None) -> int:
    """Return the number of decoders for a device: on a GPU one per core except the one that feeds it; on a CPU one."""
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return max(1, min(MAX_DECODERS, (os.cpu_count() or 1) - 1)) if on_gpu else 1


def has_direction(rows: Embeddings) -> npt.NDArray[np.bool_]:
    """Return which rows of (N, D) float32 are unit rows, as (N,) bool; False for NaN, infinity and zero."""
    squares = np.einsum("nd,nd->n", rows, rows)
    return np.asarray(np.abs(squares - 1) < 1e-3)  # false for NaN


@dataclass(frozen=True, slots=True)
class _Batch:
    """The decodable samples of a batch; row i of both tensors belongs to samples[i]."""

    model: ClipModel
    samples: list[Sample]
    undecodable: list[Sample]
    pixels: torch.Tensor  # (N, H, W, 3) uint8
    tokens: torch.Tensor  # (N, context) int32


@dataclass(frozen=True, slots=True)
class _Preparing:
    """A batch in the decoders."""

    model: ClipModel
    samples: Sequence[Sample]
    pixels: torch.Tensor  # (N, H, W, 3) uint8, filled in the meantime
    prepared: Prepared

    def result(self, timeout: float | None = None) -> _Batch:
        good, cut = self.prepared.result(timeout)
        pixels, tokens = self.pixels, torch.from_numpy(cut)
        if not all(good):
            rows = torch.tensor(good)
            pixels, tokens = pixels[rows], tokens[rows]
        return _Batch(
            self.model,
            [sample for sample, is_good in zip(self.samples, good, strict=True) if is_good],
            [sample for sample, is_good in zip(self.samples, good, strict=True) if not is_good],
            pixels,
            tokens,
        )

    def cancel(self) -> bool:
        return self.prepared.cancel()


@dataclass(frozen=True, slots=True)
class _Running:
    """A batch on the device."""

    batch: _Batch
    future: Future[Embedded]

    def result(self, timeout: float | None = None) -> tuple[_Batch, Embedded]:
        return self.batch, self.future.result(timeout)

    def cancel(self) -> bool:
        return self.future.cancel()
