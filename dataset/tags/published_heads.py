"""Convert the heads that LAION has published, recognised by the layout of their state dicts.

    nsfw            norm.mean, norm.variance, linear_1 … linear_n    ReLU between, sigmoid   ViT-B/32, ViT-L/14
                    (the Keras models, their weights renamed for torch)
    nsfw, H/14      layers.0, 3, 6, 9, 12, 15, 16                    ReLU after the first five, regression to 0…1
    aesthetic v1    weight, bias                                     linear: all models
    aesthetic v2    layers.0, 2, 4, 6, 7                             five linear layers, nothing between them

A layout is recognised by names and shapes; any other state dict is refused. All heads read unit embeddings.

Source: LAION-AI/CLIP-based-NSFW-Detector, LAION-AI/aesthetic-predictor, and improved-aesthetic-predictor by C.
Schuhmann.
"""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from dataset.recipe.tags import Tag
from dataset.tags.heads import Embedder, Head, HeadError, Layer, Output, Rows

NORMALISATION_EPSILON = 1e-10  # the published detector divides by sqrt(variance) + 1e-10
H14_LAYERS = (0, 3, 6, 9, 12, 15, 16)
H14_RELU = (True, True, True, True, True, False, False)
V2_LAYERS = (0, 2, 4, 6, 7)


def read_state(path: Path) -> dict[str, Rows]:
    """Return named tensors as float32 from safetensors, npz or a `torch.save` of a state dict, without running code.

    Raises: HeadError when the file is missing, damaged, or contains anything but tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                state = dict(archive)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            loaded = loaded.get("state_dict", loaded)
            state = {name: tensor.detach().numpy() for name, tensor in loaded.items()}
        return {name: np.asarray(tensor, np.float32) for name, tensor in state.items()}
    except (
        OSError,
        EOFError,
        RuntimeError,  # RecursionError, too
        MemoryError,
        LookupError,
        ArithmeticError,
        AssertionError,
        struct.error,
        zlib.error,
        TypeError,
        ValueError,
        AttributeError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        SafetensorError,
    ) as error:
        said = " ".join(str(error).split())[:120]
        raise HeadError(
            f"Cannot read {path} without running code ({said}): save its state dict as safetensors, npz or "
            "with torch.save."
        ) from error


def published_head(state: Mapping[str, Rows], model: str, source: str) -> Head:
    """Return the head of a published layout; `model` is the model whose embeddings it reads.

    Raises: HeadError when no layout fits.
    """
    names = set(state)
    if {"norm.mean", "norm.variance"} <= names:
        return _keras(state, model, source)
    if names == {"weight", "bias"}:
        one = (Layer(state["weight"], state["bias"], False),)
        return Head(Tag.AESTHETIC, one, Output.IDENTITY, Embedder(model), about=_about("aesthetic v1", source))
    if names == _names("layers", H14_LAYERS):
        layers = _layers(state, "layers.", H14_LAYERS, H14_RELU)
        return Head(Tag.PUNSAFE, layers, Output.CLIPPED, Embedder(model), about=_about("nsfw, H/14", source))
    if names == _names("layers", V2_LAYERS):
        layers = _layers(state, "layers.", V2_LAYERS, [False] * len(V2_LAYERS))
        return Head(Tag.AESTHETIC, layers, Output.IDENTITY, Embedder(model), about=_about("aesthetic v2", source))
    some = ", ".join(sorted(names)[:6])
    raise HeadError(f"{source} is not a published head ({some}): make one with `dataset train-head`.")


def _keras(state: Mapping[str, Rows], model: str, source: str) -> Head:
    numbers = range(1, (len(state) - 2) // 2 + 1)
    wanted = {"norm.mean", "norm.variance"} | {f"linear_{n}.{part}" for n in numbers for part in ("weight", "bias")}
    if set(state) != wanted:
        raise HeadError(f"{source} lacks a layer of the nsfw layout: its file is damaged.")
    if (state["norm.variance"] < 0).any():
        raise HeadError(f"{source} has a negative variance: its file is damaged.")
    scale = 1 / (np.sqrt(state["norm.variance"].astype(np.float64)) + NORMALISATION_EPSILON)
    return Head(
        Tag.PUNSAFE,
        _layers(state, "linear_", numbers, [True] * (len(numbers) - 1) + [False]),
        Output.SIGMOID,
        Embedder(model),
        mean=state["norm.mean"],
        scale=scale.astype(np.float32),
        about=_about("nsfw", source),
    )


def _layers(state: Mapping[str, Rows], prefix: str, numbers: Sequence[int], relu: Sequence[bool]) -> tuple[Layer, ...]:
    return tuple(
        Layer(state[f"{prefix}{n}.weight"], state[f"{prefix}{n}.bias"], active)
        for n, active in zip(numbers, relu, strict=True)
    )


def _names(prefix: str, numbers: Sequence[int]) -> set[str]:
    return {f"{prefix}.{n}.{part}" for n in numbers for part in ("weight", "bias")}


def _about(layout: str, source: str) -> dict[str, str]:
    return {"layout": layout, "source": source}
