"""A folder of vectors that others made, as the source of an index: .npy files, perhaps with parquet files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dataset.formats.index_files import TRAINED, SearchIndexError
from dataset.formats.npy import open_rows
from dataset.formats.parts import pair_hash
from dataset.formats.release_embeddings import EmbeddingModel
from dataset.index.sources import IdRange, VectorFile, open_parquet, read_slice
from dataset.store.store import Store


@dataclass
class FolderSource:
    """A folder of vectors that others made; ids are row numbers in the order of the files' names."""

    store: Store
    name: str
    files: list[VectorFile]
    model: EmbeddingModel
    dimensions: int
    batches: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def open(cls, uri: str, model: str = "") -> "FolderSource":
        """Find the .npy files, and the parquet files beside them.

        Raises: SearchIndexError when there are none, or their numbers of rows differ.
        """
        store = Store.open(uri, writable=False)
        found = store.list()
        trained = [re.fullmatch(rf"(.*/)\d+(?:-v\d+)?/{TRAINED}", path) for path in found]
        indexes = ("index/", *(match[1] for match in trained if match))  # an index has .npy files, too
        paths = [path for path in found if not path.startswith(indexes)]
        arrays = _by_number([path for path in paths if path.endswith(".npy")])
        tables = _by_number([path for path in paths if path.endswith(".parquet")])
        texts = [path for path in arrays if _folder_of(path) == "text_emb"]
        images = [path for path in arrays if path not in texts]
        if not images:
            raise SearchIndexError(
                f"{uri} has neither a release.json nor .npy files: name a release, or such a folder."
            )
        for kind, found in (("vectors of texts", texts), ("parquet files", tables)):
            if found and len(found) != len(images):
                raise SearchIndexError(
                    f"{uri} has {len(images)} .npy files of pictures and {len(found)} {kind}: give as many, or none."
                )
        files, first, dimensions = [], 0, 0
        for at, path in enumerate(images):
            opened = open_rows(store, path)
            dimensions = dimensions or opened.dimensions
            if opened.dimensions != dimensions:
                raise SearchIndexError(
                    f"{path} has {opened.dimensions} dimensions and {images[0]} {dimensions}: index each model alone."
                )
            table = tables[at] if tables else None
            if table is not None:
                parquet = open_parquet(store, table)
                if parquet.metadata.num_rows != opened.rows:
                    raise SearchIndexError(
                        f"{table} has {parquet.metadata.num_rows} rows and {path} {opened.rows}: row i of one belongs "
                        "to row i of the other."
                    )
            files.append(VectorFile(path, texts[at] if texts else None, table, opened.rows, first))
            first += opened.rows
        named = _model_of(store, tables[0]) if tables else EmbeddingModel("", "", "")
        if model and named.name and model != named.name:
            raise SearchIndexError(f"{uri} has vectors of {named.name}, not of {model}: correct --model.")
        named = named if named.name or not model else EmbeddingModel(model, "", "")
        return cls(store, re.split(r"[\\/]", uri.rstrip("/"))[-1] or "folder", files, named, dimensions)

    @cached_property
    def _tables(self) -> list[tuple[int, VectorFile]]:
        return [(file.first_id or 0, file) for file in self.files if file.metadata]

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first parquet file; the other files need them, too."""
        if not self._tables:
            return pa.schema([])
        path = self._tables[0][1].metadata
        assert path is not None
        schema = open_parquet(self.store, path).schema_arrow.remove_metadata()
        return pa.schema([one for one in schema if one.name != "id"])

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """None are known."""
        return {}

    def id_ranges(self, rows: int) -> list[IdRange]:
        """Return the row numbers of files that have a table."""
        return [
            IdRange(first + start, first + min(file.rows, start + rows), at)
            for at, (first, file) in enumerate(self._tables)
            for start in range(0, file.rows, rows)
        ]

    @property
    def has_groups(self) -> bool:
        """Near-duplicates of a folder are not known."""
        return False

    def read_rows(self, ids: IdRange, *, groups: bool) -> pa.Table:  # noqa: ARG002 - there are none
        """Read the rows, and compare `hash` with that of URL and caption where all three are there."""
        first, file = self._tables[ids.file]
        assert file.metadata is not None
        names = self.schema.names
        try:
            rows = read_slice(open_parquet(self.store, file.metadata), ids.first - first, ids.end - first, names)
            rows = rows.select(names).replace_schema_metadata(None).cast(self.schema)
        except (pa.ArrowException, KeyError) as error:
            raise SearchIndexError(
                f"{file.metadata} cannot be read ({' '.join(str(error).split())}): all files need the columns of the "
                "first."
            ) from error
        _check_hashes(rows, file.metadata)
        return rows.add_column(0, "id", pa.array(np.arange(ids.first, ids.end)))


def _check_hashes(rows: pa.Table, path: str) -> None:
    names = {"url": "url", "URL": "url", "caption": "caption", "TEXT": "caption"}
    columns = {names[name]: name for name in rows.column_names if name in names}
    if "hash" not in rows.column_names or len(columns) < 2 or not pa.types.is_integer(rows.schema.field("hash").type):
        return
    pairs = zip(rows[columns["url"]].to_pylist(), rows[columns["caption"]].to_pylist(), strict=True)
    for at, ((url, text), known) in enumerate(zip(pairs, rows["hash"].to_pylist(), strict=True)):
        if known is not None and known != pair_hash(url or "", text or ""):
            raise SearchIndexError(
                f"Row {at} of {path} has the hash {known}, which is not that of its URL and caption: the columns of "
                "different rows were mixed; make the file again."
            )


def _model_of(store: Store, path: str) -> EmbeddingModel:
    said: dict[bytes, Any] = open_parquet(store, path).schema_arrow.metadata or {}
    return EmbeddingModel(*(said.get(key, b"").decode() for key in
                            (b"shoal.model", b"shoal.sha256", b"shoal.config_sha256")))  # fmt: skip


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0].rpartition("/")[2]


def _by_number(paths: list[str]) -> list[str]:
    """Sort paths so that file 10 comes after file 9."""
    return sorted(paths, key=lambda path: [int(one) if one.isdigit() else one for one in re.split(r"(\d+)", path)])
