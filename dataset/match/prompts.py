"""The prompt of each generated picture: a column of a table, or a text file beside the picture."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dataset.errors import DatasetError

COLUMNS = ("picture", "prompt")
_MAX_BYTES = 64 << 10


class PromptError(DatasetError):
    """Prompts cannot be read."""


def read_table(path: Path) -> dict[str, str]:
    """Return the prompts of a parquet or CSV file with the columns picture and prompt, by picture.

    Raises: PromptError.
    """
    try:
        if path.suffix == ".csv":
            types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
            table = pyarrow.csv.read_csv(path, convert_options=types)
        else:
            table = pq.read_table(path)
        columns = [table[name].cast(pa.string()).to_pylist() for name in COLUMNS]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise PromptError(
            f"Cannot read prompts from {path} ({error}): give parquet or CSV with the columns picture and prompt."
        ) from error
    return {picture: prompt for picture, prompt in zip(*columns, strict=True) if picture and prompt}


def read_beside(folder: Path, pictures: Iterable[str]) -> dict[str, str]:
    """Return the text of the files `name.txt` beside pictures `name.*`, by picture."""
    found = {}
    for picture in pictures:
        beside = folder / PurePosixPath(picture).with_suffix(".txt")
        if picture != beside.name and beside.is_file():
            with beside.open("rb") as file:
                found[picture] = file.read(_MAX_BYTES).decode("utf-8", "replace").strip()
    return found


def same_prompt(prompt: str, captions: Iterable[str]) -> bool:
    """Return whether a prompt is one of the captions, but for case and spaces."""
    return _plain(prompt) in {_plain(one) for one in captions}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def of_pictures(folder: Path, pictures: Iterable[str], table: Path | None) -> Mapping[str, str]:
    """Return the prompts of pictures: from a table if there is one, or from text files beside them.

    Raises: PromptError.
    """
    return read_table(table) if table is not None else read_beside(folder, pictures)
