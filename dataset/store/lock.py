"""One change of an index, or of a release's records, at a time.

In a folder the lock is a file that the kernel unlocks when its holder dies. An object store has none: there, one
process changes an index, as one takedown and one build do.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from dataset.store.store import Store


@contextmanager
def locked(store: Store, folder: str) -> Iterator[None]:
    """Hold the lock of a folder of a store; wait for it."""
    place = store.local_path(f"{folder}/.lock" if folder else ".lock")
    if place is None:
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
