"""Heads that read the picture itself: an image classifier of timm, in one safetensors file.

    squares (N, side, side, 3) uint8 → (x / 255 - mean) / std → network → logits (N, C)
    → sigmoid(slope · (first - logsumexp(others)) + shift)

The file says everything that this needs (`PictureLayout`); with slope 1 and shift 0 the score is the softmax's first.
Loading runs no code and downloads nothing: the architecture is a plain name of timm, and every tensor must fit.

LAION's watermark detector is one such layout, LAION: an EfficientNet-B3 on 256 x 256 pixels with the classifier 1536 →
625 → 256 → 2. Its checkpoint is converted once.

Source: LAION-AI/LAION-5B-WatermarkDetection (timm's `efficientnet_b3a` there is `efficientnet_b3` now).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import nn

import dataset.models.torchvision_shim  # noqa: F401 - before timm, which imports torchvision
from dataset import strict_json
from dataset.models.inputs import Pixels
from dataset.recipe.tags import Tag
from dataset.tags.heads import FORMAT, METADATA_KEY, HeadError, HeadFile, Kind, Rows

import timm  # isort: skip

Triple = tuple[float, float, float]

MEAN: Triple = (0.485, 0.456, 0.406)  # ImageNet's, with which timm's classifiers are trained
STD: Triple = (0.229, 0.224, 0.225)
SIDES = range(32, 1_025)
COUNTER = "num_batches_tracked"  # of batch normalisation, which only training reads
BATCH_PICTURES = 32  # at 256 pixels 32 x 3 x 256 x 256 x 4 = 25 MB, and 40 times as much inside the network


@dataclass(frozen=True, slots=True)
class PictureLayout:
    """What a classifier reads and what its outputs mean; `side` is in pixels.

    `classes` are the network's outputs in their order, and the first is the tag's. `hidden` are the widths of layers
    with ReLU in front of the outputs, in place of the architecture's single layer. `slope` and `shift` calibrate.

    Raises: HeadError when a value is out of range, or the architecture is not one of timm's.
    """

    architecture: str
    side: int
    classes: tuple[str, ...]
    mean: Triple = MEAN
    std: Triple = STD
    hidden: tuple[int, ...] = ()
    slope: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not timm.is_model(self.architecture):
            raise HeadError(f"timm has no architecture {self.architecture!r}: name one of `timm.list_models()`.")
        if self.side not in SIDES:
            raise HeadError(f"A classifier cannot read squares of {self.side} pixels: use 32 to 1024.")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise HeadError(f"A classifier of {self.classes} tells nothing apart: name two or more classes.")
        numbers = (*self.mean, *self.std, self.slope, self.shift)
        if len(numbers) != 8 or not all(map(math.isfinite, numbers)) or min(*self.std, self.slope) <= 0:
            raise HeadError("The classifier's normalisation or calibration is damaged: make its file again.")

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "PictureLayout":
        """Read the layout from a head's metadata.

        Raises: HeadError when it is incomplete or invalid.
        """
        if said.get("architecture") == LAION.architecture and "side" not in said:
            return LAION  # converted before layouts were written down
        try:
            return cls(
                architecture=str(said["architecture"]),
                side=int(said["side"]),
                classes=tuple(map(str, said["classes"])),
                mean=_triple(said["mean"]),
                std=_triple(said["std"]),
                hidden=tuple(map(int, said["hidden"])),
                slope=float(said["calibration"]["slope"]),
                shift=float(said["calibration"]["shift"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise HeadError(f"The classifier's metadata are damaged ({error!r}): make its file again.") from error

    def to_json(self) -> dict[str, Any]:
        """Return its entries in a head's metadata."""
        return {
            "architecture": self.architecture,
            "side": self.side,
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "hidden": list(self.hidden),
            "calibration": {"slope": self.slope, "shift": self.shift},
        }

    def calibrated(self, slope: float, shift: float) -> "PictureLayout":
        """Return the layout with margins slope · margin + shift: Platt scaling on top of its own."""
        return replace(self, slope=self.slope * slope, shift=self.shift * slope + shift)

    def network(self) -> nn.Module:
        """Return a classifier with random weights, in training mode."""
        fixed = timm.get_pretrained_cfg(self.architecture, allow_unregistered=True)
        sized = {"img_size": self.side} if fixed is not None and fixed.fixed_input_size else {}
        network: nn.Module = timm.create_model(
            self.architecture, pretrained=False, num_classes=len(self.classes), **sized
        )
        if self.hidden:
            single = getattr(network, "classifier", None)
            if not isinstance(single, nn.Linear):
                raise HeadError(f"{self.architecture} has no classifier to replace: use it without hidden layers.")
            network.classifier = _classifier((single.in_features, *self.hidden, len(self.classes)))
        return network


LAION = PictureLayout("efficientnet_b3", 256, ("watermark", "clear"), hidden=(625, 256))


@dataclass(frozen=True, slots=True, eq=False)
class PictureHead:
    """A loaded classifier."""

    tag: Tag
    layout: PictureLayout
    device: torch.device
    _network: nn.Module = field(repr=False)

    @classmethod
    def of(cls, tag: Tag, layout: PictureLayout, state: Mapping[str, Rows], device: str | None = None) -> "PictureHead":
        """Build a classifier from its tensors, on `device` or, if None, on a GPU if present.

        Raises: HeadError when the tensors do not fit the layout.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(tag, layout, place, _loaded(layout, state).to(place))

    @property
    def side(self) -> int:
        """Return the side of the squares that it reads; pictures are resized to it (inputs.Square)."""
        return self.layout.side

    def score(self, pictures: Pixels) -> Rows:
        """Return the tags of squares (N, side, side, 3) uint8, as (N,) float32."""
        margins = self.layout.slope * self.margins(pictures).astype(np.float64) + self.layout.shift
        return np.asarray(1 / (1 + np.exp(-np.clip(margins, -700, 700))), np.float32)

    def margins(self, pictures: Pixels) -> Rows:
        """Return the first class's logit less the others' log-sum-exp, (N,) float32, before calibration."""
        return margins_of(self._network, self.layout, self.device, pictures)


def margins_of(network: nn.Module, layout: PictureLayout, device: torch.device, pictures: Pixels) -> Rows:
    """Return the margins of squares (N, side, side, 3) uint8 under a network in evaluation mode, (N,) float32."""
    margins = [np.empty(0, np.float32)]
    with torch.inference_mode():
        for start in range(0, len(pictures), BATCH_PICTURES):
            rows = np.array(pictures[start : start + BATCH_PICTURES])  # torch takes no read-only array
            logits = network(normalised(torch.from_numpy(rows).to(device), layout)).float()  # (B, C)
            margin = logits[:, 0] - torch.logsumexp(logits[:, 1:], dim=1)  # (B,)
            margins.append(margin.cpu().numpy())
    return np.concatenate(margins)


def normalised(squares: torch.Tensor, layout: PictureLayout) -> torch.Tensor:
    """Return a network's input (N, 3, side, side) float32 for squares (N, side, side, 3) of 0 to 255."""
    mean, std = (torch.tensor(values, device=squares.device) for values in (layout.mean, layout.std))
    return ((squares.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def picture_head_bytes(layout: PictureLayout, tag: Tag, state: Mapping[str, Rows], about: Mapping[str, Any]) -> bytes:
    """Return a head's file; equal arguments give the same bytes.

    Raises: HeadError when a tensor is missing, unknown, not finite, or has another shape.
    """
    _loaded(layout, state)
    said = {"format": FORMAT, "kind": Kind.PICTURE, "tag": tag, **layout.to_json(), "about": dict(about)}
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in state.items() if not name.endswith(COUNTER)}
    return save(tensors, {METADATA_KEY: strict_json.dumps(said, sort_keys=True, ensure_ascii=False)})


def converted_detector(state: Mapping[str, Rows], source: str) -> bytes:
    """Return a head's file for the state dict of LAION's watermark detector.

    Raises: HeadError when a tensor is missing, unknown, or has another shape.
    """
    return picture_head_bytes(LAION, Tag.PWATERMARK, state, {"layout": "watermark, EfficientNet-B3", "source": source})


def is_detector_state(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict is that of LAION's watermark detector."""
    return "conv_stem.weight" in state and "classifier.0.weight" in state


def load_picture_head(file: HeadFile, device: str | None = None) -> PictureHead:
    """Build the classifier of a head's file, on `device` or, if None, on a GPU if present.

    Raises: HeadError when the file is not a picture classifier, its layout is invalid, or its tensors do not fit.
    """
    if file.kind is not Kind.PICTURE:
        raise HeadError("The head reads embeddings: name a picture classifier, made by `dataset train-classifier`.")
    return PictureHead.of(file.tag, PictureLayout.from_json(file.said), file.tensors, device)


def _loaded(layout: PictureLayout, state: Mapping[str, Rows]) -> nn.Module:
    """Return the network with the tensors of `state`, in evaluation mode."""
    network = layout.network()
    counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(COUNTER)}
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in state.items()}
    try:
        network.load_state_dict(counters | tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:160]
        raise HeadError(f"The tensors do not fit {layout.architecture} ({said}): make the file again.") from error
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise HeadError(f"The classifier {layout.architecture} contains values that are not finite: replace its file.")
    return network.eval()


def _classifier(widths: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between, and LAION's dropout after the first."""
    modules: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        modules += [nn.Linear(inputs, outputs), nn.ReLU()] + [nn.Dropout(0.3)] * (number == 0)
    return nn.Sequential(*modules[:-1])


def _triple(values: Any) -> Triple:
    red, green, blue = map(float, values)
    return red, green, blue
