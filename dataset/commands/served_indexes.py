"""The indexes that `dataset serve` opens: of releases, or in folders."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dataset.commands.index import find_index
from dataset.commands.releases import open_named_release
from dataset.formats.index_files import SearchIndexError
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.index.lookup import Index
    from dataset.search.indexes import SearchedIndex


def open_searched(indexed: str, store: str, model: str | None, taken: set[str]) -> "SearchedIndex":
    """Open the indexes of the pictures' and the captions' vectors of a release, or one folder's.

    Raises: SearchIndexError when there is none.
    """
    from dataset.index.lookup import open_index
    from dataset.search.indexes import SearchedIndex

    found: dict[str, Index] = {}
    missing: SearchIndexError | None = None
    for modality in ("image", "text"):
        try:
            index = open_index(find_index(indexed, store, model, modality))
        except SearchIndexError as error:
            missing = missing or error
            continue
        found.setdefault(index.record.modality, index)
    if not found:
        assert missing is not None
        raise missing
    record = next(iter(found.values())).record
    name = record.name if record.name not in taken else f"{record.name}-{record.model.name}"
    if name in taken:
        raise SearchIndexError(f"Two of the indexes are named {name}: serve one of them at another --port.")
    return SearchedIndex(name, found)


def trace(releases: Mapping[str, str], store: str, name: str, row_id: int) -> dict[str, Any]:
    """Return where a row of a release came from; `releases` has the release of each index.

    Raises: SearchError (404) when the index is not of a release, or has no such row.
    """
    from dataset.publish.errors import PublishError
    from dataset.publish.trace import trace_row
    from dataset.search.errors import SearchError

    if name not in releases:
        raise SearchError(404, f"The index {name} is not of a release: its rows have no origin.")
    try:
        release = open_named_release(releases[name], store, writable=False)
        return asdict(trace_row(release, row_id, Store.open(store, writable=False)))
    except PublishError as error:
        raise SearchError(404, str(error)) from error
