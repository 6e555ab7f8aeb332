"""The screen before a release: rows that a request names are hidden at once, before they are removed.

Entries of the kinds pair, url, host and sha256 are compared with each row. Rows that only an md5, a sha1 or a PDQ names
are hidden as soon as a scan (`dataset takedown scan`) or an apply has found them. Lists that were applied to the
release are not compared: no row is on them any more.
"""

import numpy as np
import pyarrow as pa

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.releases import Release
from dataset.formats.takedowns import found_rows, read_applied
from dataset.publish.deny import DIRECT, DenyRules
from dataset.publish.screens import Mask
from dataset.store.store import Store


class Screen:
    """What the deny lists in `store` hide of a release; call `refresh` to learn of new ones."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._seen: tuple[str, ...] = ()
        self._rules = DenyRules()
        self._ids = np.empty(0, np.int64)
        self.refresh()

    @classmethod
    def of(cls, release: Release, own: Store | None = None) -> "Screen":
        """Open the screen of a release; `own` is the store with its deny lists, by default the one it is in."""
        return cls(own or release.store, release.record.name)

    def refresh(self) -> bool:
        """Load what is new; return whether anything is. Costs the listing of three folders.

        Raises: DenyListError when a list cannot be read: nothing may be shown without it; StoreError.
        """
        applied = set(read_applied(self._store, self._name).deny)
        lists = [path for path in list_deny_files(self._store) if path not in applied]
        found = found_rows(self._store, self._name)
        seen = (*lists, *found)
        if seen == self._seen:
            return False
        self._rules = DenyRules.load(self._store, lists, DIRECT)
        ids = [self._store.read_table(path, ["id"])["id"].to_numpy() for path in found]
        self._ids = np.unique(np.concatenate([np.empty(0, np.int64), *ids]))
        self._seen = seen
        return True

    @property
    def columns(self) -> frozenset[str]:
        """The columns that `hidden` needs of rows, `id` among them; empty if nothing is hidden."""
        rules = self._rules.columns
        return rules | {"id"} if rules or len(self._ids) else frozenset()

    def hidden(self, rows: pa.Table) -> Mask:
        """Return which rows are hidden -> (N,) bool; a `final_host` that is not there is not compared."""
        if "final_host" in self.columns and "final_host" not in rows.column_names:
            rows = rows.append_column("final_host", pa.nulls(len(rows), pa.string()))
        mask = self._rules.matches(rows)
        if len(self._ids):
            mask = mask | np.isin(rows["id"].to_numpy(), self._ids)
        return mask
