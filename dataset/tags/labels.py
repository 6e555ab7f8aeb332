"""Read labels, similarities and embeddings from parquet columns and .npy files, without running code."""

import tokenize
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.formats.label_files import DrawKind, Split, is_label_file, positives, read_label_file, splits

_FILE_FAULTS = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    OverflowError,
    RecursionError,
    MemoryError,  # a header that claims more data than the file has
    tokenize.TokenError,
    zipfile.BadZipFile,
    pa.ArrowException,
)
"""Exceptions that NumPy and Arrow were seen to raise for damaged or foreign files."""


class LabelledError(DatasetError):
    """Labels, embeddings or scores cannot be used."""


def read_column(path: Path, column: str) -> npt.NDArray[Any]:
    """Return a whole .npy, or one column of a parquet file; lists of equal length become rows.

    Raises: LabelledError when the file or column is missing, or cannot be read without running code.
    """
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it holds several arrays")
            return array
        values = pq.read_table(path, columns=[column])[column]
    except _FILE_FAULTS as error:
        said = " ".join(str(error).split())[:160]
        raise LabelledError(f"Cannot read {path} ({said}): give .npy, or parquet with a column {column}.") from error
    if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        return _rows(values.combine_chunks(), path, column)
    return np.asarray(values.to_numpy(zero_copy_only=False)) if values.null_count == 0 else _with_nan(values, path)


def read_similarities(path: Path, column: str = "similarity") -> npt.NDArray[np.float64]:
    """Return one number per row, (N,) float64; NaN for null.

    Raises: LabelledError when the values are not numbers.
    """
    values = read_column(path, column)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise LabelledError(f"{path} does not have a number in each row of {column}: give one similarity per pair.")
    return values.astype(np.float64)


def read_labels(path: Path, count: int, column: str = "label", *, positive: str | None = None) -> npt.NDArray[np.int64]:
    """Return `count` labels, each 0 or 1 (or false and true), as (N,) int64; both occur.

    In a file of `dataset label --export`, 1 stands for the class `positive` and 0 for the others.

    Raises: LabelledError for other values, another number of rows, or only one of the two labels; LabelFileError.
    """
    if is_label_file(path):
        if positive is None:
            raise LabelledError(f"{path} has the labels of several classes: name one of them with --positive.")
        labels: npt.NDArray[Any] = positives(read_label_file(path), positive)
    elif positive is not None:
        raise LabelledError(f"{path} has no classes: leave out --positive, or give a file of dataset label --export.")
    else:
        labels = read_column(path, column)
    if labels.shape != (count,):
        raise LabelledError(f"{path} has {labels.shape} labels for {count} rows: give one per row, in the same order.")
    if labels.dtype.kind not in "biuf" or not np.isin(labels, (0, 1)).all():
        raise LabelledError(f"{path} has labels other than 0 and 1: give 1 to rows with the tag, 0 to the others.")
    whole = labels.astype(np.int64)
    if whole.min(initial=1) == whole.max(initial=0):
        raise LabelledError(f"{path} has only one of the labels 0 and 1: give rows with both.")
    return whole


def read_splits(path: Path) -> dict[Split, npt.NDArray[np.int64]] | None:
    """Return the row numbers of each split in a file of `dataset label --export`; None for another file.

    Raises: LabelFileError when the file is damaged.
    """
    return splits(read_label_file(path)) if is_label_file(path) else None


def read_weights(path: Path) -> npt.NDArray[np.float64] | None:
    """Return the sampling weights in a file of `dataset label --export`, (N,) float64, NaN for a row that was not drawn
    at random; None for another file.

    Raises: LabelFileError when the file is damaged.
    """
    if not is_label_file(path):
        return None
    return np.asarray(read_label_file(path).rows["weight"].to_numpy(zero_copy_only=False), np.float64)


def comparable_rows(path: Path, count: int) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows by which a threshold may be chosen, (N,) int64.

    In a file of `dataset label --export` these are the rows of the split `validation` that were drawn uniformly: their
    similarity is that of picture and caption, and each stands for as many rows of the release. In another file they are
    all `count` rows.

    Raises: LabelledError when the file has no such row; LabelFileError.
    """
    if not is_label_file(path):
        return np.arange(count)
    labels = read_label_file(path)
    rows = splits(labels)[Split.VALIDATION]
    rows = rows[[labels.rows["draw"][int(row)].as_py() == DrawKind.UNIFORM for row in rows]]
    if not len(rows):
        raise LabelledError(f"{path} has no validation rows of a uniform draw: set random_validation in the task.")
    return rows


def read_embedding_column(path: Path, column: str = "embedding") -> npt.NDArray[np.float32]:
    """Return embeddings (N, D) as float32 unit rows.

    Raises: LabelledError when they are not a matrix of finite numbers, or a row is zero.
    """
    rows = read_column(path, column)
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise LabelledError(f"{path} holds {rows.dtype} of shape {rows.shape}: give a (N, D) matrix of floats.")
    matrix = rows.astype(np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise LabelledError(f"{path} has a row that is zero or not finite: embed it again.")
    unit: npt.NDArray[np.float32] = matrix / lengths
    return unit


def _rows(values: Any, path: Path, column: str) -> npt.NDArray[Any]:
    if len(pc.unique(pc.list_value_length(values))) != 1 or values.null_count:
        raise LabelledError(f"{path} has nulls or lists of several lengths in {column}: give D floats in each row.")
    return np.asarray(values.flatten().to_numpy(zero_copy_only=False)).reshape(len(values), -1)


def _with_nan(values: Any, path: Path) -> npt.NDArray[Any]:
    if not pa.types.is_floating(values.type):
        raise LabelledError(f"{path} has nulls: remove those rows.")
    return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
