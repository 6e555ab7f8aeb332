"""The hash lists in force, as loaded by a worker: lists of pictures that must not be kept."""

from dataclasses import dataclass, field

from dataset.safety.hash_lists import HashLists
from workers.runtime.context import WorkContext


@dataclass(slots=True)
class HashListCache:
    """Keeps the lists that were loaded last."""

    _lists: dict[str, str] = field(default_factory=dict)  # path -> sha256 of the lists in `_loaded`
    _loaded: HashLists = field(default_factory=HashLists)

    def current(self, context: WorkContext) -> HashLists:
        """Return the lists in force; load them again if they have changed. Called before each job."""
        lists = context.session.hash_lists()
        if lists != self._lists:
            self._loaded = HashLists.load(context.store, lists, sha256=lists)
            self._lists = lists
        return self._loaded
