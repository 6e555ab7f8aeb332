"""The operator's lists of hashes never to keep, as a worker has them at hand."""

from dataclasses import dataclass, field

from dataset.safety.hash_lists import Restricted
from workers.runtime.context import WorkContext


@dataclass(slots=True)
class HashListCache:
    _lists: dict[str, str] = field(default_factory=dict)  # of `_loaded`, sha256 by path
    _loaded: Restricted = field(default_factory=Restricted)

    def current(self, context: WorkContext) -> Restricted:
        """What may not be kept now: asked for before each piece of work, and loaded when it is another than before."""
        lists = context.session.restrictions()
        if lists != self._lists:
            self._loaded = Restricted.load(context.store, lists, sha256=lists)
            self._lists = lists
        return self._loaded
