"""Files that the options of `dataset serve` name: masks, the operator's token, folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.search.errors import ServeError


def read_masks(paths: Sequence[Path]) -> Any:
    """Return the ids of all masks, (N,) int64.

    Raises: ServeError when a file cannot be read or has no column of integers named id.
    """
    found = [np.empty(0, np.int64)]
    for path in paths:
        try:
            ids = pq.read_table(path, columns=["id"])["id"].cast(pa.int64())
        except (OSError, pa.ArrowException, KeyError) as error:
            raise ServeError(f"Cannot read the mask {path} ({error}): give a parquet file with a column id.") from error
        found.append(ids.drop_null().to_numpy())
    return np.unique(np.concatenate(found))


def read_ratings(folder: Path) -> "npt.NDArray[np.float32]":
    """Return the vectors in rating0.npy to rating9.npy, as LAION's aesthetic predictor has them -> (10, D) float32.

    Raises: ServeError when one cannot be read, or their dimensions differ.
    """
    from dataset.search.clip_retrieval import RATINGS

    found = []
    for path in (folder / f"rating{rating}.npy" for rating in range(RATINGS)):
        try:
            found.append(np.load(path, allow_pickle=False).astype(np.float32).reshape(-1))
        except (OSError, ValueError, EOFError) as error:
            raise ServeError(f"Cannot read {path} ({error}): give the folder of rating0.npy to rating9.npy.") from error
    if len({row.shape for row in found}) > 1 or not np.isfinite(np.concatenate(found)).all():
        raise ServeError(f"The vectors in {folder} are not finite, or of different dimensions: copy them again.")
    return np.stack(found)


def read_token(path: Path) -> str:
    """Return the operator's token.

    Raises: ServeError when the file cannot be read, or the token is short.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"Cannot read the operator's token in {path} ({error}): give a text file.") from error
    if len(token) < 16:
        raise ServeError(f"The operator's token in {path} has {len(token)} characters: use 16 or more.")
    return token


def check_page(path: Path) -> Path:
    """Return the folder of a page.

    Raises: ServeError when it has no index.html.
    """
    if not (path / "index.html").is_file():
        raise ServeError(f"{path} has no index.html: give --page the folder of a page.")
    return path


def check_exports(path: Path) -> Path:
    """Return a folder for exports.

    Raises: ServeError when nothing can be written to it.
    """
    if not (path.is_dir() and os.access(path, os.W_OK)):
        raise ServeError(f"{path} is not a writable folder: create it, or give another --exports.")
    return path
