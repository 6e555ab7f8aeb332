"""Search for a pair that was taken down in every table of the demo's store, without Shoal's own readers."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.releases import FileKind, Release
from dataset.store.store import Store
from tests.demo.checks import Check

PRIVATE = ("takedowns/", "deny/")


def url_to_remove(release: Release) -> str:
    """Return the URL of the release's first row."""
    file = next(release.files(FileKind.DATA))
    url: str = release.store.read_table(release.path(file.path), ["URL"])["URL"][0].as_py()
    return url


def check_takedown(store: Store, url: str, verified: Sequence[Mapping[str, Any]], *, audit: Check) -> list[Check]:
    """Ask whether a URL that was taken down is in no table any more, and whether verify and the audit say so."""
    tables = [path for path in store.list() if path.endswith(".parquet") and not path.startswith(PRIVATE)]
    left = [path for path in tables if url in _texts(store.read(path))]
    (said,) = verified
    clean = said["clean"] and said["rows"] > 0
    return [
        Check("no table has the pair that was taken down", not left, ", ".join(left) or f"{len(tables):,} tables read"),
        Check("verify finds nothing of it", clean, f"{said['rows']} rows removed, {said['files']} files decoded"),
        Check("the exact audit holds after it", audit.holds, audit.said),
    ]


def _texts(data: bytes) -> set[str]:
    """Return all texts in the columns of a table."""
    table = pq.ParquetFile(io.BytesIO(data)).read()
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    return {value for column in texts for value in column.unique().to_pylist()}
