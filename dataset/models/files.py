"""Model folders in open_clip's layout, on a disk or in the store under `models/NAME`.

Such a folder contains `open_clip_config.json` (architecture and preprocessing), one file of weights, and the
tokenizer's files if the model has its own. In the store `checksums.json` is written last: if it exists, the folder is
complete, and downloaded files are compared with it. The content of a name in the store never changes, because parts
made with the model refer to it by name.

This module only moves files and works without torch; `dataset.models.clip` loads them.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.recipe.recipe import STORE_PREFIX
from dataset.store.local_paths import is_file
from dataset.store.store import Store

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = {  # by the given file's suffix: the name under which open_clip looks for weights in a folder
    ".safetensors": "open_clip_model.safetensors",
    ".bin": "open_clip_pytorch_model.bin",
    ".pth": "open_clip_pytorch_model.bin",
    ".pt": "open_clip_pytorch_model.bin",
}
CHECKSUMS_FILE = "checksums.json"
STORE_FOLDER = "models"
BLOCK_BYTES = 1 << 20


class ModelError(DatasetError):
    """A model cannot be found, read or trusted."""


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_in(folder: Path) -> Path:
    """Return the file of weights in a model's folder.

    Raises: ModelError when there is no configuration, or not exactly one file of weights.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"The model folder {folder} has no {CONFIG_FILE}: put it there, or name another folder.")
    found = [folder / name for name in sorted(set(WEIGHTS_FILES.values())) if (folder / name).is_file()]
    if len(found) != 1:
        names = " or ".join(sorted(set(WEIGHTS_FILES.values())))
        raise ModelError(f"The model folder {folder} has {len(found)} files of weights: leave exactly one, {names}.")
    return found[0]


@contextmanager
def gathered(
    weights: Path, config: Path, tokenizer: Sequence[Path] = (), renamed: Mapping[str, Path] | None = None
) -> Iterator[Path]:
    """Yield a temporary model folder of these files, under the names that open_clip expects; `renamed` maps other
    names.

    Raises: ModelError when a file is missing or the weights' format is unknown.
    """
    more = dict(renamed or {})
    for path in (weights, config, *tokenizer, *more.values()):
        if not is_file(path):
            raise ModelError(f"{path} is not a file: name the model's files.")
    if weights.suffix not in WEIGHTS_FILES:
        raise ModelError(f"{weights} is not in a known format of weights: give {', '.join(WEIGHTS_FILES)}.")
    with tempfile.TemporaryDirectory(prefix="shoal-model-") as temporary:
        folder = Path(temporary)
        (folder / WEIGHTS_FILES[weights.suffix]).symlink_to(weights.absolute())
        shutil.copyfile(config, folder / CONFIG_FILE)
        for path in tokenizer:
            shutil.copyfile(path, folder / path.name)
        for name, path in more.items():
            (folder / name).symlink_to(path.absolute())
        yield folder


def is_name(name: str) -> bool:
    """Return whether a model or head in the store can have this name."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", name) is not None


def add_model(store: Store, name: str, folder: Path) -> dict[str, str]:
    """Copy a model's folder into the store as `store:models/NAME`, and return the sha256 of each of its files.

    Adding the same model again changes nothing.

    Raises: ModelError when the name belongs to another model or is invalid.
    """
    if not is_name(name):
        raise ModelError(f"A model in the store cannot be named {name!r}: use letters, digits, '.', '-' and '_'.")
    weights_in(folder)
    checksums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    place = f"{STORE_FOLDER}/{name}"
    if store.exists(f"{place}/{CHECKSUMS_FILE}"):
        if _checksums(store, place) == checksums:
            return checksums
        raise ModelError(f"The store has another model named {name}, which parts may refer to: choose a new name.")
    for file_name in checksums:
        with (folder / file_name).open("rb") as source, store.write(f"{place}/{file_name}") as target:
            shutil.copyfileobj(source, target, BLOCK_BYTES)
    store.put(f"{place}/{CHECKSUMS_FILE}", strict_json.dumps(checksums, indent=2, sort_keys=True).encode("utf-8"))
    return checksums


@contextmanager
def fetched(store: Store, reference: str) -> Iterator[Path]:
    """Yield a temporary copy of the folder that `store:PATH` names, with every file's checksum verified.

    Raises: ModelError when the store has no such model, or one of its files was changed.
    """
    place = reference.removeprefix(STORE_PREFIX).strip("/")
    if not store.exists(f"{place}/{CHECKSUMS_FILE}"):
        raise ModelError(f"The store {store.uri} has no model {place}: put it there with `dataset models add`.")
    with tempfile.TemporaryDirectory(prefix="shoal-model-") as temporary:
        folder = Path(temporary)
        for name, checksum in _checksums(store, place).items():
            with store.open_input(f"{place}/{name}") as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
            if sha256_of(folder / name) != checksum:
                raise ModelError(f"{place}/{name} in the store has been changed: add the model under a new name.")
        yield folder


def _checksums(store: Store, place: str) -> dict[str, str]:
    try:
        checksums = json.loads(store.read(f"{place}/{CHECKSUMS_FILE}"))
    except ValueError as error:
        raise ModelError(
            f"{place}/{CHECKSUMS_FILE} in the store is damaged: add the model under a new name."
        ) from error
    if not isinstance(checksums, dict) or any("/" in name or name.startswith(".") for name in checksums):
        raise ModelError(f"{place}/{CHECKSUMS_FILE} in the store is damaged: add the model under a new name.")
    return checksums
