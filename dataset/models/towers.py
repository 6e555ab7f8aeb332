"""A model's two towers on its device: pixels and tokens in, unit rows out.

Invariant: a row depends on its own picture and text, and on nothing else but the size of its batch. Rows are float32
whatever the arithmetic in between; one without a direction (NaN, infinite or zero) is given as it is, and its caller
drops it: it never stands for a similarity.

The text tower is run over the longest text of a group, not over all 77 places: an alt text has some 15 tokens, and in
a causal tower no place sees what stands behind it, so the cut changes nothing but the time. Texts are grouped by length
for that.

Precision: float16 on CUDA (autocast: weights and norms stay float32, matrices are multiplied in float16), float32
elsewhere. Similarities of 600 pairs by the demo's model, against float32, mean and max difference: float16 7e-5 and
4e-4, bfloat16 6e-4 and 4e-3. On a CPU without bfloat16 instructions ViT-B/32 took 7 times as long in it as in float32.

The image tower can be compiled, which joins the small steps between the matrices. That is tried out before it is used:
rows that stray from the plain ones, or a machine without a compiler, and it stays as it is. The text tower is not
compiled: its shapes are many, and it is a tenth of the work. On a CPU it gains nothing (ViT-B/32, 32 at once: 3.7
CPU-seconds for 3.5; rows 5e-7 apart, 26 s to compile); on a GPU it is not measured yet, so it is an option.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call
from torch.nn import functional

from dataset.errors import DatasetError, said_by

if TYPE_CHECKING:
    from dataset.models.text_tower import TextTower

Embeddings = npt.NDArray[np.float32]

TEXT_LENGTHS = (16, 32, 48)
"""Texts are run in groups of at most so many tokens, the last one to the whole context: few shapes, little padding."""


class DeviceError(DatasetError):
    """The device takes no work any more: this worker cannot go on, its jobs can elsewhere."""


class Precision(StrEnum):
    """What matrices are multiplied in."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @classmethod
    def of(cls, device: torch.device) -> "Precision":
        """Give the best for a device."""
        return cls.FLOAT16 if device.type == "cuda" else cls.FLOAT32


MOST_STRAY = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 2e-3, Precision.BFLOAT16: 1e-2}
"""How far a compiled row may lie from the plain one, as the length of the difference; no similarity moves further. Two
to five times what the half precisions cost a similarity themselves, and twenty times what was seen in float32."""


class Embedded:
    """The rows of a batch, on their way from the device; `result` may be called from any thread."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if images.is_cuda:
            images, texts = (
                torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
                for rows in (images, texts)
            )
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        self._images, self._texts = images, texts

    def result(self) -> tuple[Embeddings, Embeddings]:
        """Wait for the image features and the text features, (N, D) float32 each.

        Raises: DeviceError when the device failed meanwhile.
        """
        if self._arrived is not None:
            with device_faults():
                self._arrived.synchronize()
        return self._images.numpy(), self._texts.numpy()


class Towers:
    """A network for evaluation. `mean` and `std` have three values, for colours from 0 to 1."""

    def __init__(
        self,
        network: Any,
        device: torch.device,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        precision: Precision,
        text: "TextTower | None" = None,
    ) -> None:
        self.device = device
        self.precision = precision
        self.most = 1 << 20
        """Rows run at once; halved for good when the device's memory does not suffice."""
        self.network = network.eval()
        self.text = text
        """In the place of the network's own text tower."""
        self.normalisation = tuple(mean), tuple(std)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self._copying = (
            torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        )
        self._one_at_a_time = threading.Lock()  # functional_call exchanges the network's own tensors
        self._encode: Callable[[torch.Tensor], torch.Tensor] = self._encoded
        self.compiled = False

    def compile(self, size: tuple[int, int], rows: int, backend: str | Callable[..., Any] = "inductor") -> str | None:
        """Have the image tower compiled for pictures of `size` (height, width), best for `rows` at once.

        Tried with as many rows, with fewer and with one: no batch has to wait for the compiler later. Returns why not,
        where there is no compiler or the rows stray; then all is as it was.
        """
        compiled = torch.compile(self._encoded, backend=backend)
        trials = [torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8) for n in (rows, rows // 2 + 1, 1)]
        with self._one_at_a_time, self._arithmetic(self.precision):
            try:
                for pixels in map(self._there, trials):
                    stray = float((compiled(pixels) - self._encoded(pixels)).norm(dim=1).max())
                    if not stray <= MOST_STRAY[self.precision]:
                        return f"compiled rows stray by {stray:.1e}"
            except (RuntimeError, OSError) as error:  # what torch raises while it compiles, and what compilers do
                return said_by(error)
        self._encode, self.compiled = compiled, True
        return None

    def embed(self, pixels: torch.Tensor, tokens: torch.Tensor, precision: Precision | None = None) -> Embedded:
        """Put a batch's work on the device: (N, H, W, 3) uint8 and (N, context) int32, best in pinned memory.

        Raises: DeviceError when the device fails, or has no memory for a single row.
        """
        encode = self._images if precision is None else self._plain_images  # it was compiled for its own precision
        with self._one_at_a_time, device_faults(), self._arithmetic(precision or self.precision):
            return Embedded(self._in_pieces(encode, pixels), self._texts_by_length(tokens))

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed pixels, (N, H, W, 3) uint8 -> (N, D) float32, unit rows."""
        with self._one_at_a_time, device_faults(), self._arithmetic(self.precision):
            return self._in_pieces(self._images, pixels)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens, (N, context) -> (N, D) float32, unit rows."""
        with self._one_at_a_time, device_faults(), self._arithmetic(self.precision):
            return self._texts_by_length(tokens)

    def _images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._encode(self._there(pixels))

    def _plain_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._encoded(self._there(pixels))

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        colours = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)  # (N, 3, H, W)
        return _unit(self.network.encode_image(colours.sub_(self._mean).div_(self._std)))

    def _texts(self, tokens: torch.Tensor) -> torch.Tensor:
        there = self._there(tokens).long()
        if self.text is not None:
            return _unit(self.text.encode(there))
        if not _is_causal(self.network):
            return _unit(self.network.encode_text(there))
        length = there.shape[1]
        shortened = {
            "positional_embedding": self.network.positional_embedding[:length],
            "attn_mask": self.network.attn_mask[:length, :length],
        }
        given = functional_call(self.network, shortened, kwargs={"text": there})
        return _unit(given["text_features"] if isinstance(given, dict) else given[1])

    def _texts_by_length(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.text is not None or not _is_causal(self.network) or not len(tokens):
            return self._in_pieces(self._texts, tokens)
        ends = tokens.argmax(1)  # the end of a text is the token with the highest number
        rows = None
        low = 0
        for high in (*(length for length in TEXT_LENGTHS if length < tokens.shape[1]), tokens.shape[1]):
            group = ((ends >= low) & (ends < high)).nonzero().squeeze(1)
            low = high
            if not len(group):
                continue
            embedded = self._in_pieces(self._texts, tokens[group, :high])
            if rows is None:
                rows = embedded.new_zeros(len(tokens), embedded.shape[1])
            rows[group.to(rows.device)] = embedded
        assert rows is not None
        return rows

    def _in_pieces(self, encode: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Encode rows, in pieces half as large once more for each time that the device's memory does not suffice."""
        pieces: list[torch.Tensor] = []
        done = 0
        while done < len(rows):
            piece = rows[done : done + self.most]
            try:
                pieces.append(encode(piece))
            except torch.OutOfMemoryError as error:
                if len(piece) == 1:
                    raise DeviceError(
                        f"{self.device} has no memory for a single sample ({said_by(error)}): "
                        "end what else runs on it, or use a larger one."
                    ) from error
                self.most = len(piece) // 2
            else:
                done += len(piece)
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # out of the except clause, whose traceback holds the failed tensors
        return torch.cat(pieces) if pieces else torch.empty(0)

    def _there(self, rows: torch.Tensor) -> torch.Tensor:
        """Copy rows to the device; on CUDA while the batch before is being computed."""
        if self._copying is None:
            return rows.to(self.device)
        with torch.cuda.stream(self._copying):
            there = rows.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._copying)
        there.record_stream(computing)
        return there

    @contextmanager
    def _arithmetic(self, precision: Precision) -> Iterator[None]:
        kind = {Precision.FLOAT16: torch.float16, Precision.BFLOAT16: torch.bfloat16}.get(precision)
        with torch.inference_mode(), torch.autocast(self.device.type, kind, enabled=kind is not None):
            yield


@contextmanager
def device_faults() -> Iterator[None]:
    """Translate what torch raises for a device that is gone.

    Raises: DeviceError.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceError(
            f"The GPU takes no work any more ({said_by(error)}): see `nvidia-smi` and the kernel's log, then start "
            "the worker again."
        ) from error


def _is_causal(network: Any) -> bool:
    """Say whether the text tower is open_clip's own, in which a place sees only those before it, read at its end."""
    mask = getattr(network, "attn_mask", None)
    return mask is not None and getattr(network, "text_pool_type", None) == "argmax"


def _unit(rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return functional.normalize(rows.float(), dim=-1)
