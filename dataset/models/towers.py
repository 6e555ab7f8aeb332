"""A model's two towers on its device: pixels and tokens in, unit rows out.

Invariant: a row depends only on its own picture and text, and on the size of its batch. Rows are float32 whatever the
precision of the computation. A row that is zero or not finite is returned as it is; callers drop it, so that it never
becomes a similarity.

Texts are grouped by length, and the text tower runs only over the longest text of a group, not over all 77 tokens: alt
texts have about 15 tokens, and in a causal tower no token depends on later ones, so the result is the same.

Precision: float16 on CUDA (autocast: weights and norms stay float32, matrices are multiplied in float16), float32
elsewhere. docs/performance.md compares the precisions.

The image tower can be compiled, which fuses the small steps between matrix multiplications. The compiled tower is
tested first; if its rows are farther from those of float32 than the plain tower's, or the machine has no compiler, the
plain tower stays. The text tower is not compiled, because it has many shapes and is a tenth of the work.
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
"""Texts are grouped by these maximum numbers of tokens; the last group has the whole context. Few shapes, little
padding."""


class DeviceError(DatasetError):
    """The device does not work any more: this worker cannot continue, but its jobs can run elsewhere."""


class Precision(StrEnum):
    """The precision of matrix multiplications."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @classmethod
    def of(cls, device: torch.device) -> "Precision":
        """Return the best precision for a device."""
        return cls.FLOAT16 if device.type == "cuda" else cls.FLOAT32


MOST_STRAY = {Precision.FLOAT32: 1e-5, Precision.FLOAT16: 2e-3, Precision.BFLOAT16: 1e-2}
"""Usual length of the difference between a row and that of the same arithmetic in another batch or order; no similarity
changes by more. Two to five times the error of the half precisions themselves, and twenty times the difference seen in
float32."""

STRAY_FACTOR = 2.0
"""A compiled row may be so many times as far from float32 as the plain ones, on the same random pixels: noise, unlike
pictures, can be ten times as far from float32 in float16 as usual."""


class Embedded:
    """The rows of a batch being copied from the device; `result` may be called from any thread."""

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
        """Wait for the image features and the text features, (N, D) float32 each, and return them.

        Raises: DeviceError when the device has failed.
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
        """Maximum rows at once; halved each time the device runs out of memory."""
        self.network = network.eval()
        self.text = text
        """Replaces the network's own text tower, if given."""
        self.normalisation = tuple(mean), tuple(std)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self._copying = (
            torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        )
        if device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in convolutions as in products
        self._one_at_a_time = threading.Lock()  # functional_call replaces the network's own tensors
        self._encode: Callable[[torch.Tensor], torch.Tensor] = self._encoded
        self.compiled = False

    def compile(self, size: tuple[int, int], rows: int, backend: str | Callable[..., Any] = "inductor") -> str | None:
        """Compile the image tower for pictures of `size` (height, width), optimised for batches of `rows`.

        It is tested with as many rows, with fewer and with one, so that no batch waits for the compiler later. Return
        None, or the reason why the tower stays uncompiled: there is no compiler, or the rows differ.
        """
        compiled = torch.compile(self._encoded, backend=backend)
        trials = [torch.randint(0, 256, (n, *size, 3), dtype=torch.uint8) for n in (rows, rows // 2 + 1, 1)]
        with self._one_at_a_time, self._arithmetic(self.precision):
            try:
                for pixels in map(self._there, trials):
                    with torch.autocast(self.device.type, enabled=False):
                        exact = self._encoded(pixels)
                    stray, usual = (
                        float((encode(pixels) - exact).norm(dim=1).max()) for encode in (compiled, self._encoded)
                    )
                    if not stray <= max(MOST_STRAY[self.precision], STRAY_FACTOR * usual):
                        return f"compiled rows differ by {stray:.1e} from float32, others by {usual:.1e}"
            except (RuntimeError, OSError) as error:  # raised by torch during compilation and by compilers
                return said_by(error)
        self._encode, self.compiled = compiled, True
        return None

    def embed(self, pixels: torch.Tensor, tokens: torch.Tensor, precision: Precision | None = None) -> Embedded:
        """Start a batch on the device: (N, H, W, 3) uint8 and (N, context) int32, preferably in pinned memory.

        Raises: DeviceError when the device fails, or lacks memory for a single row.
        """
        encode = self._images if precision is None else self._plain_images  # it is compiled for its own precision
        with self._one_at_a_time, device_faults(), self._arithmetic(precision or self.precision):
            return Embedded(self._in_pieces(encode, pixels), self._texts_by_length(tokens))

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of pixels (N, H, W, 3) uint8, as (N, D) float32 unit rows."""
        with self._one_at_a_time, device_faults(), self._arithmetic(self.precision):
            return self._in_pieces(self._images, pixels)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of tokens (N, context), as (N, D) float32 unit rows."""
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
        """Encode rows in pieces; each time the device runs out of memory, the size of a piece is halved."""
        pieces: list[torch.Tensor] = []
        done = 0
        while done < len(rows):
            piece = rows[done : done + self.most]
            try:
                pieces.append(encode(piece))
            except torch.OutOfMemoryError as error:
                if len(piece) == 1:
                    raise DeviceError(
                        f"{self.device} has too little memory for a single sample ({said_by(error)}): "
                        "end other programs that use it, or use a larger one."
                    ) from error
                self.most = len(piece) // 2
            else:
                done += len(piece)
                continue
            if self.device.type == "cuda":
                torch.cuda.empty_cache()  # outside the except clause, whose traceback keeps the failed tensors
        return torch.cat(pieces) if pieces else torch.empty(0)

    def _there(self, rows: torch.Tensor) -> torch.Tensor:
        """Copy rows to the device; on CUDA during the computation of the previous batch."""
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
    """Translate torch's exceptions for a failed device.

    Raises: DeviceError.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_fault(error):
            raise
        raise DeviceError(
            f"The GPU does not respond any more ({said_by(error)}): see `nvidia-smi` and the kernel's log, then start "
            "the worker again."
        ) from error


def _is_fault(error: RuntimeError) -> bool:
    """Return whether the device failed; before torch 2.8 only the message tells that from other errors."""
    kind = getattr(torch, "AcceleratorError", None)
    return str(error).startswith("CUDA error: ") if kind is None else isinstance(error, kind)


def _is_causal(network: Any) -> bool:
    """Return whether the text tower is open_clip's own: causal, and read at the end of the text."""
    mask = getattr(network, "attn_mask", None)
    return mask is not None and getattr(network, "text_pool_type", None) == "argmax"


def _unit(rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return functional.normalize(rows.float(), dim=-1)
