"""Load CLIP models with open_clip: from a recipe's entry to unit embeddings of pictures and texts.

Invariant: all weights of a `ClipModel` come from the file whose checksum it names, and its embeddings are finite unit
rows. Missing weights are an error, never random numbers. Loading runs no code from files: safetensors, or `torch.load`
with `weights_only`. Only models that the recipe names are downloaded.

Source: open_clip's factory, which loads strictly. Rejected: open_clip's behaviour for OpenAI's weights with the wrong
activation (plain `ViT-B-32`): it only warns, although every score is wrong. Here this is an error.
"""

import difflib
import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import torch
from PIL import Image

import dataset.models.torchvision_shim  # noqa: F401 - before open_clip, which imports torchvision
from dataset import strict_json
from dataset.errors import said_by
from dataset.models.devices import device_named
from dataset.models.files import CONFIG_FILE, ModelError, fetched, sha256_of, weights_in
from dataset.models.inputs import Pixels, Preparation
from dataset.models.resize import quick
from dataset.models.towers import Embeddings, Precision, Towers
from dataset.recipe.recipe import HUB_PREFIX, STORE_PREFIX, Checksums, ModelRecipe
from dataset.store.local_paths import is_file, is_folder
from dataset.store.store import Store

import open_clip  # isort: skip

if TYPE_CHECKING:
    from dataset.models.text_tower import TextTower

_LOADING_FAULTS = (
    OSError,
    RuntimeError,  # a missing, unknown or misshapen weight; code in a weights_only file; an unknown model
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    ImportError,  # a model that needs `transformers`
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)
"""Exceptions that open_clip's factory was seen to raise for configurations and weights that do not fit each other."""


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A loaded model. `dimensions` is D, the length of its embeddings."""

    name: str
    checksums: Checksums
    dimensions: int
    preparation: Preparation = field(repr=False)
    towers: Towers = field(repr=False)

    @property
    def sha256(self) -> str:
        """Return the sha256 (hex) of the weights' file."""
        return self.checksums.weights

    @property
    def metadata(self) -> dict[str, str]:
        """Return the metadata for a file of its embeddings; readers compare the checksums before they compare
        embeddings.
        """
        return {
            "shoal.model": self.name,
            "shoal.sha256": self.checksums.weights,
            "shoal.config_sha256": self.checksums.config,
            "shoal.precision": self.towers.precision.value,
        }

    @property
    def device(self) -> torch.device:
        """Return the device that the model runs on."""
        return self.towers.device

    def embed_images(self, images: Sequence[Image.Image]) -> Embeddings:
        """Return the embeddings of pictures of any size and mode, (N, D) float32 unit rows."""
        if not images:
            return np.empty((0, self.dimensions), np.float32)
        return self.embed_pixels(np.stack([self.preparation.pixels(image) for image in images]))

    def embed_pixels(self, pixels: Pixels) -> Embeddings:
        """Return the embeddings of prepared pictures (N, H, W, 3) uint8, as (N, D) float32 unit rows."""
        return self._unit_rows(self.towers.images(torch.from_numpy(pixels)))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Return the embeddings of texts, cut to the model's context, (N, D) float32 unit rows; '' has an embedding,
        too.
        """
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        return self._unit_rows(self.towers.texts(torch.from_numpy(self.preparation.tokens(texts))))

    def _unit_rows(self, embeddings: torch.Tensor) -> Embeddings:
        rows: Embeddings = embeddings.cpu().numpy()
        if not np.allclose(np.square(rows).sum(1), 1, atol=1e-3):  # also false for NaN
            raise ModelError(
                f"{self.name} returned an embedding that is zero or not finite: its weights are damaged, replace them."
            )
        return rows


def load_model(
    spec: ModelRecipe, store: Store | None = None, device: str | None = None, precision: Precision | None = None
) -> ClipModel:
    """Load the model that a recipe names, for evaluation, on `device` or, if None, on a GPU if present.

    If `precision` is None, it is float16 on CUDA and float32 elsewhere.

    Raises: ModelError when model or weights do not exist, do not fit each other, or cannot be loaded without running
    code.
    """
    place = device_named(device)
    with _located(spec, store) as source:
        _refuse_torchscript(source.weights)
        try:
            network, preprocess = open_clip.create_model_from_pretrained(
                source.name, source.pretrained, device=place, weights_only=True, **_beside(source.weights.parent)
            )
            tokenizer = open_clip.get_tokenizer(source.name)
            config = open_clip.get_model_config(source.name)
            wanted = network.visual.preprocess_cfg
            dimensions = int(config["embed_dim"])
            _require_colours(wanted["mean"], wanted["std"])
        except _LOADING_FAULTS as error:
            raise ModelError(
                f"Cannot load the weights {source.weights.name} as {spec.model} ({said_by(error)}): "
                "name weights and configuration that belong together."
            ) from error
        text = _own_text_tower(source.weights.parent, dimensions, place)
        said = _digest(config, wanted)
        checksums = Checksums(sha256_of(source.weights), _with_files(said, source.weights.parent) if text else said)
    if not all(bool(weight.isfinite().all()) for weight in network.parameters()):
        raise ModelError(f"The weights of {spec.model} contain values that are not finite: replace them.")
    kind = precision or Precision.of(place)
    return ClipModel(
        spec.model,
        checksums,
        dimensions,
        preparation_of(preprocess, text.tokenizer if text else tokenizer, wanted["size"], kind),
        Towers(network, place, mean=wanted["mean"], std=wanted["std"], precision=kind, text=text),
    )


def _require_colours(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless `mean` and `std` have three finite numbers each, and no `std` is 0."""
    values = np.array([mean, std])
    if values.shape != (2, 3) or values.dtype.kind not in "fiu" or not np.isfinite(values).all() or not all(std):
        raise ValueError(f"mean {mean} and std {std} are not three numbers each")


def preparation_of(
    preprocess: Any, tokenizer: Any, size: int | Sequence[int], precision: Precision = Precision.FLOAT32
) -> Preparation:
    """Return open_clip's transforms without the last two, ToTensor and Normalize, which the device does.

    In half precision pictures are resized by `dataset.models.resize`, which is quicker and almost the same.
    """
    *steps, to_tensor, normalize = preprocess.transforms
    assert (type(to_tensor).__name__, type(normalize).__name__) == ("MaybeToTensor", "Normalize"), preprocess
    height, width = (size, size) if isinstance(size, int) else size
    chosen = tuple(steps) if precision is Precision.FLOAT32 else quick(steps)
    return Preparation(chosen, tokenizer, height, width, int(tokenizer.context_length))


def pretrained_names() -> list[tuple[str, str]]:
    """Return open_clip's pairs of a model name and a weights tag."""
    return [(str(name), str(tag)) for name, tag in open_clip.list_pretrained()]


@dataclass(frozen=True, slots=True)
class _Source:
    """The names passed to open_clip, and the file from which the weights come."""

    name: str
    pretrained: str | None
    weights: Path


@contextmanager
def _located(spec: ModelRecipe, store: Store | None) -> Iterator[_Source]:
    """Find a model's weights: in the store, in a folder, in a file, on the hub, or by an open_clip tag."""
    if spec.pretrained is None:
        hub_id = spec.model.removeprefix(HUB_PREFIX)
        yield _Source(spec.model, None, _downloaded(spec, lambda: open_clip.download_pretrained_from_hf(hub_id)))
    elif spec.pretrained.startswith(STORE_PREFIX):
        if store is None:
            raise ModelError(f"{spec.pretrained} needs a store: set SHOAL_STORE or --store.")
        with fetched(store, spec.pretrained) as folder:
            yield _Source(f"local-dir:{folder}", None, weights_in(folder))
    elif is_folder(path := Path(spec.pretrained)):
        yield _Source(f"local-dir:{path}", None, weights_in(path))
    else:
        _refuse_unknown_name(spec.model)
        weights = path if is_file(path) else _tagged(spec)
        yield _Source(spec.model, spec.pretrained, weights)


def _refuse_unknown_name(name: str) -> None:
    known = open_clip.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`dataset models list` shows the names."
        raise ModelError(f"open_clip has no model {name}: {hint}")


def _tagged(spec: ModelRecipe) -> Path:
    """Return the weights of an open_clip tag, downloaded unless they are in its cache."""
    entry = open_clip.get_pretrained_cfg(spec.model, spec.pretrained)
    if not entry:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(spec.model)) or "none"
        raise ModelError(
            f"{spec.pretrained} is not a file, a folder or a tag of {spec.model}: its tags in open_clip are {tags}."
        )
    quick = bool(entry.get("quick_gelu", False))
    if quick != bool(open_clip.get_model_config(spec.model).get("quick_gelu", False)):
        right = f"{spec.model}-quickgelu" if quick else spec.model.removesuffix("-quickgelu")
        raise ModelError(f"The weights {spec.pretrained} give wrong scores in {spec.model}: name the model {right}.")
    return _downloaded(spec, lambda: open_clip.download_pretrained(entry))


def _downloaded(spec: ModelRecipe, download: Callable[[], str]) -> Path:
    try:
        return Path(download())
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"Cannot download the weights of {spec.model} ({said_by(error)}): download them on a machine with network "
            "access, and put them into the store with `dataset models add`."
        ) from error


def _refuse_torchscript(weights: Path) -> None:
    """Raise ModelError for OpenAI's original .pt files: such an archive contains a program."""
    if not zipfile.is_zipfile(weights):
        return
    with zipfile.ZipFile(weights) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise ModelError(
                f"{weights.name} is TorchScript, which contains a program: for OpenAI's models name the tag "
                "openai, for others save the state_dict as safetensors."
            )


def _beside(folder: Path) -> dict[str, object]:
    """Return arguments that build a transformers text tower from the folder's configuration instead of the hub's."""
    if not (folder / "config.json").is_file() or not (folder / CONFIG_FILE).is_file():
        return {}
    text = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": text | {"hf_model_name": str(folder), "hf_model_pretrained": False}}


def _own_text_tower(folder: Path, dimensions: int, place: torch.device) -> "TextTower | None":
    """Load the text tower in the model's folder, if any.

    Raises: ModelError when its embeddings differ in length from the pictures'.
    """
    if not (folder / "text_config.json").is_file():
        return None
    from dataset.models.text_tower import load_text_tower

    tower = load_text_tower(folder, place)
    if tower.dimensions != dimensions:
        raise ModelError(
            f"The text tower has {tower.dimensions} dimensions and the image tower {dimensions}: use towers that "
            "belong together."
        )
    return tower


def _with_files(digest: str, folder: Path) -> str:
    """Return a digest of a configuration's digest and the text tower's files."""
    files = [f"{path.name} {sha256_of(path)}" for path in sorted(folder.glob("text_*"))]
    return hashlib.sha256("\n".join([digest, *files]).encode("utf-8")).hexdigest()


def _digest(config: object, preprocess: object) -> str:
    canonical = strict_json.dumps({"model": config, "preprocess": preprocess}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
