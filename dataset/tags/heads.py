"""Heads: small networks that tag pairs by CLIP's image embeddings, one safetensors file each.

Invariant: a `Head` is always complete: its layers fit each other and contain finite numbers. Reading a file runs no
code. The meaning of its tensors (tag, activations, the model whose embeddings it reads) is in the same file, in the
metadata key `shoal.head`.

    (x - mean) · scale → layer, activation → … → layer → output

Computed with NumPy in float32: a head takes a hundredth of the time of its model, so it does not need a GPU and gives
the same result on every machine of one kind. Rejected: pickled modules, as LAION published them;
`dataset.tags.published_heads` converts those once.
"""

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.models.files import is_name, sha256_of
from dataset.recipe.recipe import STORE_PREFIX
from dataset.recipe.tags import Tag
from dataset.store.store import Store

Rows = npt.NDArray[np.float32]

FORMAT = 1
METADATA_KEY = "shoal.head"
STORE_FOLDER = "heads"
SUFFIX = ".safetensors"
CARD_SUFFIX = ".md"
"""Of a head's model card, which lies beside its file."""
CLASSIFIER, CLASSIFIER_CARD = "classifier.safetensors", "README.md"
"""The names in the folder of `dataset train-classifier`."""


class HeadError(DatasetError):
    """A head cannot be read or trusted, or does not fit the embeddings."""


class Kind(StrEnum):
    """A head's input."""

    EMBEDDING = "embedding"
    PICTURE = "picture"
    """An image classifier, run by `dataset.tags.picture_heads`."""


class Output(StrEnum):
    """The function applied to the last layer's number."""

    SIGMOID = "sigmoid"
    IDENTITY = "identity"
    CLIPPED = "clipped"
    """Clipped to 0…1: a probability that was trained as a regression."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """`weight` (out, in) and `bias` (out,), float32, followed by ReLU or nothing."""

    weight: Rows
    bias: Rows
    relu: bool


@dataclass(frozen=True, slots=True)
class Embedder:
    """The model whose embeddings a head reads: its name, and the sha256 of weights and configuration if known.

    The configuration's digest covers the preprocessing: the same weights with another preprocessing give other
    embeddings.
    """

    model: str
    sha256: str | None = None
    config_sha256: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return its entry in a head's file; without `config_sha256` it is the same as in older files."""
        more = {"config_sha256": self.config_sha256} if self.config_sha256 else {}
        return {"model": self.model, "sha256": self.sha256} | more


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The network of a tag. `mean` and `scale` (D,) are applied first; None leaves the embedding as it is.

    Raises: HeadError when the layers do not fit each other or contain a number that is not finite.
    """

    tag: Tag
    layers: tuple[Layer, ...]
    output: Output
    embedder: Embedder
    mean: Rows | None = None
    scale: Rows | None = None
    about: Mapping[str, Any] = field(default_factory=dict)  # the model card: source, licence, measured values

    def __post_init__(self) -> None:
        if not self.layers or any(layer.weight.ndim != 2 for layer in self.layers):
            raise HeadError("The head has no layers: give a state dict of linear layers.")
        width = self.dimensions
        for vector in (self.mean, self.scale):
            if vector is not None and vector.shape != (width,):
                raise HeadError(f"The head's normalisation has {vector.shape} values for {width} dimensions.")
        for number, layer in enumerate(self.layers):
            if layer.weight.shape[1] != width or layer.bias.shape != layer.weight.shape[:1]:
                raise HeadError(f"The head's layer {number} does not fit the one before it: its file is damaged.")
            width = layer.weight.shape[0]
        if width != 1:
            raise HeadError(f"The head returns {width} numbers: only heads with one are supported.")
        if not all(np.isfinite(tensor).all() for tensor in self.tensors().values()):
            raise HeadError("The head contains values that are not finite: replace its file.")

    @property
    def dimensions(self) -> int:
        """Return D, the length of the embeddings that it reads."""
        return int(self.layers[0].weight.shape[1])

    def score(self, embeddings: Rows) -> Rows:
        """Return the tags of `embeddings` (N, D) float32 unit rows, as (N,) float32.

        Raises: HeadError when D differs: the head belongs to another model.
        """
        return self._finish(self.logits(embeddings))

    def logits(self, embeddings: Rows) -> Rows:
        """Return the last layer's numbers before the output function, (N,) float32."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.dimensions:
            raise HeadError(
                f"The head for {self.tag} reads {self.dimensions} dimensions, these embeddings are "
                f"{embeddings.shape}: name the head that was made for this model ({self.embedder.model})."
            )
        rows = embeddings.astype(np.float32, copy=False)  # (N, D)
        if self.mean is not None:
            rows = rows - self.mean
        if self.scale is not None:
            rows = rows * self.scale
        for layer in self.layers:
            rows = rows @ layer.weight.T + layer.bias  # (N, out)
            if layer.relu:
                rows = np.maximum(rows, 0)
        return rows[:, 0]

    def calibrated(self, slope: float, shift: float) -> "Head":
        """Return the head with logits slope · logit + shift: Platt scaling, folded into the last layer."""
        last = self.layers[-1]
        scaled = Layer((last.weight * slope).astype(np.float32), (last.bias * slope + shift).astype(np.float32), False)
        return replace(self, layers=(*self.layers[:-1], scaled))

    def tensors(self) -> dict[str, Rows]:
        """Return its tensors, by their names in its file."""
        named = {"mean": self.mean, "scale": self.scale}
        for number, layer in enumerate(self.layers):
            named |= {f"layers.{number}.weight": layer.weight, f"layers.{number}.bias": layer.bias}
        return {name: np.ascontiguousarray(tensor) for name, tensor in named.items() if tensor is not None}

    def to_bytes(self) -> bytes:
        """Return its file; equal heads give the same bytes."""
        said = {
            "format": FORMAT,
            "kind": Kind.EMBEDDING,
            "tag": self.tag,
            "relu": [layer.relu for layer in self.layers],
            "output": self.output,
            "embedder": self.embedder.to_json(),
            "about": dict(self.about),
        }
        return save(self.tensors(), {METADATA_KEY: strict_json.dumps(said, sort_keys=True, ensure_ascii=False)})

    def _finish(self, logits: Rows) -> Rows:
        match self.output:
            case Output.SIGMOID:
                return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)
            case Output.CLIPPED:
                return np.clip(logits, 0, 1)
            case Output.IDENTITY:
                return logits


@dataclass(frozen=True, slots=True, eq=False)
class HeadFile:
    """The content of a head's file: its metadata, its tensors, and its sha256 (hex)."""

    said: dict[str, Any]
    tensors: dict[str, Rows]
    sha256: str

    @property
    def kind(self) -> Kind:
        """Return what the head reads."""
        return Kind(self.said["kind"])

    @property
    def tag(self) -> Tag:
        """Return the tag that it computes."""
        return Tag(self.said["tag"])

    def head(self) -> Head:
        """Return the network of an embedding head.

        Raises: HeadError when tensors and metadata do not fit each other.
        """
        try:
            layers = tuple(
                Layer(self.tensors[f"layers.{n}.weight"], self.tensors[f"layers.{n}.bias"], bool(relu))
                for n, relu in enumerate(self.said["relu"])
            )
            embedder = self.said["embedder"]
            return Head(
                tag=self.tag,
                layers=layers,
                output=Output(self.said["output"]),
                embedder=Embedder(str(embedder["model"]), embedder.get("sha256"), embedder.get("config_sha256")),
                mean=self.tensors.get("mean"),
                scale=self.tensors.get("scale"),
                about=dict(self.said.get("about", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HeadError(f"The head's metadata do not fit its tensors ({error!r}): make it again.") from error


def is_head(path: Path) -> bool:
    """Return whether a file has the format of Shoal's heads, whatever its content."""
    try:
        with safe_open(path, framework="numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_head_file(path: Path) -> HeadFile:
    """Read a head's file without running code.

    Raises: HeadError when it is missing, not safetensors, or not a head of this format.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            said = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        if said.get("format") != FORMAT or said.get("kind") not in list(Kind) or said.get("tag") not in list(Tag):
            raise HeadError(f"{path.name} is not a head of format {FORMAT}: make one with `dataset heads add`.")
        return HeadFile(said, tensors, sha256_of(path))
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise HeadError(f"Cannot read {path} as a head ({error}): make one with `dataset heads add`.") from error


def card_beside(path: Path) -> bytes | None:
    """Return the model card beside a head's file; None if there is none.

    Raises: HeadError when it cannot be read.
    """
    own, folders = path.with_suffix(CARD_SUFFIX), path.with_name(CLASSIFIER_CARD)
    card = folders if path.name == CLASSIFIER and not own.is_file() else own
    try:
        return card.read_bytes() if card.is_file() else None
    except OSError as error:
        raise HeadError(f"Cannot read the model card {card} ({error.strerror}): check its permissions.") from error


def add_head(store: Store, name: str, file: bytes) -> str:
    """Put a head's file into the store, and return its name for a recipe. Adding the same file again changes nothing.

    Raises: HeadError when the name belongs to another head or is invalid; StoreError.
    """
    if not is_name(name):
        raise HeadError(f"A head in the store cannot be named {name!r}: use letters, digits, '.', '-' and '_'.")
    place = f"{STORE_FOLDER}/{name}{SUFFIX}"
    if store.exists(place):
        if store.read(place) != file:
            raise HeadError(f"The store has another head named {name}, which parts may refer to: choose a new name.")
    else:
        with store.write(place) as target:
            shutil.copyfileobj(io.BytesIO(file), target)
    return f"{STORE_PREFIX}{place}"
