"""A text tower in sentence-transformers' layout for CLIP's image tower: clip-ViT-B-32-multilingual-v1.

LAION-5B's multilingual pairs were scored with it: OpenAI's ViT-B/32 for pictures, and for texts a DistilBERT trained to
reproduce, in fifty languages, the embeddings of CLIP's English text tower.

    tokens → transformer → mean over the tokens except padding → dense 768 → 512, without bias → unit row

Its files are in a model's folder together with open_clip's, each with the prefix `text_`:

    text_config.json            config.json of the transformer
    text_model.safetensors      (or text_pytorch_model.bin) its weights
    text_dense.json             2_Dense/config.json
    text_dense.safetensors      (or text_dense_pytorch_model.bin) the dense layer's weights
    text_tokenizer.json         tokenizer.json

Invariant: every weight comes from the files. Nothing is downloaded and no code from the files is run: weights are
safetensors or `weights_only`, and the transformer is built from its configuration, which must name an architecture of
TRANSFORMERS.
"""

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import tokenizers
import torch
from torch import nn
from torch.nn import functional

from dataset.models.files import ModelError
from dataset.store.local_paths import is_file

Rows = npt.NDArray[np.float32]

CONFIG, DENSE_CONFIG, TOKENIZER = "text_config.json", "text_dense.json", "text_tokenizer.json"
WEIGHTS = ("text_model.safetensors", "text_pytorch_model.bin")
DENSE_WEIGHTS = ("text_dense.safetensors", "text_dense_pytorch_model.bin")
TRANSFORMERS = ("distilbert", "bert", "xlm-roberta")
IDENTITY = "torch.nn.modules.linear.Identity"
MAX_TOKENS = 128  # clip-ViT-B-32-multilingual-v1's max_seq_length
UNUSED = ("pooler.", "embeddings.position_ids")  # part of published weights, but not used for a mean over tokens

_FAULTS = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
    safetensors.SafetensorError,
)


@dataclass(frozen=True, slots=True, eq=False)
class TextTokenizer:
    """Tokenizes texts as open_clip's tokenizers do: every row is `context_length` long, filled with `padding`."""

    tokenizer: tokenizers.Tokenizer = field(repr=False)
    context_length: int
    padding: int

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the tokens of N texts, (N, context_length) int64."""
        return torch.tensor([one.ids for one in self.tokenizer.encode_batch(list(texts))])


@dataclass(frozen=True, slots=True, eq=False)
class TextTower:
    """A loaded tower. `dimensions` is D, the length of its embeddings."""

    dimensions: int
    tokenizer: TextTokenizer
    _transformer: nn.Module = field(repr=False)
    _dense: nn.Linear = field(repr=False)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings (N, D), not yet of unit length, of `tokenizer`'s tokens (N, context) int64."""
        mask = (tokens != self.tokenizer.padding).long()
        longest = int(mask.sum(1).max()) if len(tokens) else 0
        tokens, mask = tokens[:, :longest], mask[:, :longest]  # cuts only padding, which is masked
        states = self._transformer(input_ids=tokens, attention_mask=mask).last_hidden_state  # (N, T, 768)
        weight = mask[..., None].to(states.dtype)
        mean = (states * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        embedded: torch.Tensor = self._dense(mean)
        return embedded

    def embed_texts(self, texts: Sequence[str]) -> Rows:
        """Return the embeddings of texts, (N, D) float32 unit rows."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        with torch.inference_mode():
            embedded = self.encode(self.tokenizer(texts).to(self._dense.weight.device))
            rows: Rows = functional.normalize(embedded.float(), dim=-1).cpu().numpy()
        return rows


def text_tower_files(source: Path) -> dict[str, Path]:
    """Return the files of a sentence-transformers folder, by their names in a model's folder.

    Raises: ModelError when a file is missing, or the layers are not those that this tower computes.
    """
    modules = _json(source / "modules.json")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules] if isinstance(modules, list) else []
    pooling = _json(source / "1_Pooling" / "config.json")
    if kinds != ["Transformer", "Pooling", "Dense"] or not pooling.get("pooling_mode_mean_tokens"):
        raise ModelError(
            f"{source} is {' → '.join(kinds) or 'not such a model'}: only Transformer → mean Pooling → Dense works."
        )
    return {
        CONFIG: source / "config.json",
        DENSE_CONFIG: source / "2_Dense" / "config.json",
        TOKENIZER: source / "tokenizer.json",
        **_weights(source, "model.safetensors", "pytorch_model.bin", WEIGHTS),
        **_weights(source / "2_Dense", "model.safetensors", "pytorch_model.bin", DENSE_WEIGHTS),
    }


def load_text_tower(folder: Path, device: torch.device) -> TextTower:
    """Load the text tower of a model's folder, for evaluation in float32.

    Raises: ModelError when a file or weight is missing, a weight is unknown, or `transformers` is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed: install Shoal with its extra [multilingual].") from error
    said, dense_said = _json(folder / CONFIG), _json(folder / DENSE_CONFIG)
    if said.get("model_type") not in TRANSFORMERS or "auto_map" in said:
        raise ModelError(f"The text tower is a {said.get('model_type')}: only {', '.join(TRANSFORMERS)} are supported.")
    if dense_said.get("activation_function", IDENTITY) != IDENTITY:
        raise ModelError(
            f"The text tower's dense layer has the activation {dense_said['activation_function']}: only layers without "
            "one are supported."
        )
    try:
        transformer = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**said))
        dense = nn.Linear(int(dense_said["in_features"]), int(dense_said["out_features"]), bool(dense_said["bias"]))
        _fill(transformer, _state(folder, WEIGHTS))
        _fill(dense, {name.removeprefix("linear."): value for name, value in _state(folder, DENSE_WEIGHTS).items()})
        cut = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
        context = min(MAX_TOKENS, int(said.get("max_position_embeddings", MAX_TOKENS)))
        padding = int(said.get("pad_token_id") or 0)
        cut.enable_truncation(context)
        cut.enable_padding(pad_id=padding, length=context)
    except ModelError:
        raise
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"Cannot load the text tower ({first}): give files that belong together.") from error
    weights = [*transformer.parameters(), *dense.parameters()]
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise ModelError("The weights of the text tower contain values that are not finite: replace them.")
    tokenizer = TextTokenizer(cut, context, padding)
    return TextTower(dense.out_features, tokenizer, transformer.eval().to(device), dense.eval().to(device))


def _fill(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load the weights into a module; each must be present and known."""
    wanted = set(module.state_dict())
    bare = {name.split(".", 1)[1] if name.split(".", 1)[0] in TRANSFORMERS else name: t for name, t in state.items()}
    kept = {name: tensor for name, tensor in bare.items() if name in wanted or not name.startswith(UNUSED)}
    loaded = module.load_state_dict(kept, strict=False)
    missing = [name for name in loaded.missing_keys if not name.startswith(UNUSED)]
    if missing or loaded.unexpected_keys:
        raise ModelError(
            f"The text tower's weights do not fit: missing {missing[:3]}, unknown {loaded.unexpected_keys[:3]}: give "
            "files that belong together."
        )


def _state(folder: Path, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Read the one file of weights in the folder without running code."""
    found = [folder / name for name in names if is_file(folder / name)]
    if len(found) != 1:
        raise ModelError(f"The model folder has {len(found)} of {' or '.join(names)}: leave exactly one.")
    state: dict[str, torch.Tensor]
    try:
        if found[0].suffix == ".safetensors":
            state = safetensors.torch.load_file(found[0])
        else:
            state = torch.load(found[0], map_location="cpu", weights_only=True)
    except _FAULTS as error:
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"Cannot read {found[0].name} without running code ({first}): replace it.") from error
    return state


def _weights(folder: Path, safe: str, pickled: str, names: tuple[str, str]) -> dict[str, Path]:
    """Return the weights' file: safetensors if present, otherwise the pickle."""
    if is_file(folder / safe):
        return {names[0]: folder / safe}
    return {names[1]: folder / pickled}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot read {path} ({error}): give the folder as sentence-transformers wrote it.") from error
