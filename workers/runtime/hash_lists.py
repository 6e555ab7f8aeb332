"""The hash lists in force, as loaded by a worker: lists of pictures that must not be kept."""

from dataclasses import dataclass, field

from dataset.safety.hash_lists import HashLists
from workers.runtime.context import WorkContext


@dataclass(slots=True)
class HashListCache:
    """Keeps the lists that were loaded last: of a change, only files that are new are read."""

    _lists: dict[str, str] = field(default_factory=dict)  # sha256 by path, of `_files`
    _files: dict[str, HashLists] = field(default_factory=dict)
    _loaded: HashLists = field(default_factory=HashLists)

    def current(self, context: WorkContext) -> HashLists:
        """Return the lists in force; load what is new if they have changed. Called before each job."""
        lists = context.session.hash_lists()
        if lists != self._lists:
            same = {path: file for path, file in self._files.items() if lists.get(path) == self._lists[path]}
            new = {path: HashLists.load(context.store, path, sha256=lists) for path in lists if path not in same}
            self._files = {path: same.get(path) or new[path] for path in sorted(lists)}
            self._loaded = HashLists.merged([*self._files.values()])
            self._lists = lists
        return self._loaded
