"""Heads that read the picture itself: an image classifier from timm, in one safetensors file.

LAION's watermark detector is an EfficientNet-B3 on 256 x 256 pixels; its classifier is 1536 → 625 → 256 → 2 with ReLU
in between, and the probability is the first output of the softmax. Its checkpoint is converted into Shoal's format
once, which requires that every tensor fits; loading a converted file runs no code.

Source: LAION-AI/LAION-5B-WatermarkDetection (timm's `efficientnet_b3a` there is `efficientnet_b3` now).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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

ARCHITECTURE = "efficientnet_b3"
PIXELS = 256
WIDTHS = (1536, 625, 256, 2)
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, with which the detector was trained
STD = (0.229, 0.224, 0.225)
BATCH_PICTURES = 32  # 32 x 3 x 256 x 256 x 4 = 25 MB, and 40 times as much inside the network


@dataclass(frozen=True, slots=True, eq=False)
class PictureHead:
    """A loaded classifier."""

    tag: Tag
    device: torch.device
    _network: nn.Module = field(repr=False)

    @property
    def side(self) -> int:
        """Return the side of the squares that it reads; pictures are resized to it (inputs.Square)."""
        return PIXELS

    def score(self, pictures: Pixels) -> Rows:
        """Return the tags of squares (N, 256, 256, 3) uint8, as (N,) float32."""
        scores = [
            self._score(pictures[start : start + BATCH_PICTURES]) for start in range(0, len(pictures), BATCH_PICTURES)
        ]
        return np.concatenate(scores) if scores else np.empty(0, np.float32)

    def _score(self, pictures: Pixels) -> Rows:
        pixels = torch.from_numpy(normalised(pictures)).to(self.device)
        with torch.inference_mode():
            probabilities = self._network(pixels).float().softmax(dim=-1)[:, 0]  # (N, 2) → (N,)
        scores: Rows = probabilities.cpu().numpy()
        return scores


def normalised(pictures: Pixels) -> Rows:
    """Return the classifier's input, (N, 3, 256, 256) float32, for squares (N, 256, 256, 3) uint8."""
    values = pictures.astype(np.float32) / 255
    return np.ascontiguousarray(((values - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2), np.float32)


def picture_head_bytes(state: Mapping[str, Rows], source: str) -> bytes:
    """Return a head's file for the watermark detector's state dict.

    Raises: HeadError when a tensor is missing, unknown, or has another shape.
    """
    network = _network(state)
    said = {
        "format": FORMAT,
        "kind": Kind.PICTURE,
        "tag": Tag.PWATERMARK,
        "architecture": ARCHITECTURE,
        "about": {"layout": "watermark, EfficientNet-B3", "source": source},
    }
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return save(tensors, {METADATA_KEY: strict_json.dumps(said, sort_keys=True, ensure_ascii=False)})


def is_picture_state(state: Mapping[str, Any]) -> bool:
    """Return whether a state dict is the watermark detector's."""
    return "conv_stem.weight" in state and "classifier.0.weight" in state


def load_picture_head(file: HeadFile, device: str | None = None) -> PictureHead:
    """Build the classifier of a head's file, on `device` or, if None, on a GPU if present.

    Raises: HeadError when it is another classifier, or its tensors do not fit.
    """
    if file.kind is not Kind.PICTURE or file.said.get("architecture") != ARCHITECTURE:
        raise HeadError(f"The head is not a picture classifier of {ARCHITECTURE}: make it with `dataset heads add`.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return PictureHead(file.tag, place, _network(file.tensors).to(place))


def _network(state: Mapping[str, Rows]) -> nn.Module:
    network: nn.Module = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=2)
    network.classifier = nn.Sequential(
        nn.Linear(WIDTHS[0], WIDTHS[1]),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(WIDTHS[1], WIDTHS[2]),
        nn.ReLU(),
        nn.Linear(WIDTHS[2], WIDTHS[3]),
    )
    counters = {name: tensor for name, tensor in network.state_dict().items() if name.endswith("num_batches_tracked")}
    tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in state.items()}
    try:
        network.load_state_dict(counters | tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:160]
        raise HeadError(f"The tensors do not fit the watermark detector ({said}): give its own checkpoint.") from error
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise HeadError("The watermark detector contains values that are not finite: replace its file.")
    return network.eval()
