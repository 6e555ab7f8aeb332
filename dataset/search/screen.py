"""What never appears in an answer: the rows of masks, and what a deny list names.

A takedown removes rows from the index; the deny list is effective from its first minute, before any index was changed.
So results are compared with it here, and a result that is hidden is replaced by the next one. Rows that only an md5, a
sha1 or a PDQ names are hidden as soon as a scan or an apply has found them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.takedowns import found_rows
from dataset.publish.deny import DenyRules
from dataset.search.engine import Engine, Ids
from dataset.store.store import Store

Visible = npt.NDArray[np.bool_]

_COLUMNS = {
    "hash": pa.int64(),
    "url": pa.string(),
    "sha256": pa.string(),
    "md5": pa.string(),
    "sha1": pa.string(),
    "pdq": pa.binary(32),
    "final_host": pa.string(),
}
_NONE = np.empty(0, np.int64)
_MISSING = dict.fromkeys(_COLUMNS) | {"hash": 0, "url": ""}


class Screen:
    """Sorted ids that are hidden, and the deny lists of a store, with what scans of its releases have found."""

    def __init__(self, mask: Ids | None = None, store: Store | None = None, releases: Sequence[str] = ()) -> None:
        self._mask = np.unique(mask) if mask is not None else np.empty(0, np.int64)
        self._store = store
        self._releases = releases
        self._found: dict[str, Ids] = {}
        self._paths: tuple[str, ...] = ()
        self._rules: DenyRules | None = None

    def refresh(self) -> bool:
        """Read deny lists and found rows again if there are others, and return whether there were.

        Raises: DenyListError when one cannot be read; StoreError.
        """
        if self._store is None:
            return False
        lists = list_deny_files(self._store)
        found = {name: found_rows(self._store, name) for name in self._releases}
        paths = (*lists, *(path for some in found.values() for path in some))
        if paths == self._paths:
            return False
        self._rules = DenyRules.load(self._store, lists) if lists else None  # the digests that rows lack match none
        self._found = {name: _ids(self._store, some) for name, some in found.items()}
        self._paths = paths
        return True

    @property
    def hides_nothing(self) -> bool:
        """Return whether there is no mask, no deny list and no row that was found."""
        return not len(self._mask) and self._rules is None and not any(map(len, self._found.values()))

    def visible(self, engine: Engine, ids: Ids) -> Visible:
        """Return which of these rows of an index may appear, (N,) bool."""
        shown = np.ones(len(ids), bool)
        if len(self._mask):
            at = np.minimum(np.searchsorted(self._mask, ids), len(self._mask) - 1)
            shown &= self._mask[at] != ids
        if len(found := self._found.get(engine.release, _NONE)):
            shown &= ~np.isin(ids, found)
        if self._rules is not None and len(ids):
            known = [name for name in _COLUMNS if name in engine.columns]
            shown &= ~self._rules.matches(_table(engine.rows(ids, known)))
        return shown


def _ids(store: Store, paths: Sequence[str]) -> Ids:
    return np.unique(np.concatenate([_NONE, *(store.read_table(path, ["id"])["id"].to_numpy() for path in paths)]))


def _table(rows: Sequence[Mapping[str, Any] | None]) -> pa.Table:
    """Return rows as the table that deny rules are compared with; a value that a row does not have is null."""
    filled = [{**_MISSING, **{name: value for name, value in (row or {}).items() if value is not None}} for row in rows]
    columns = {name: [row[name] for row in filled] for name in _COLUMNS}
    columns["pdq"] = [bytes.fromhex(value) if isinstance(value, str) else value for value in columns["pdq"]]
    return pa.table(
        {
            {"url": "URL"}.get(name, name): pa.chunked_array([pa.array(columns[name], kind)])
            for name, kind in _COLUMNS.items()
        }
    )
