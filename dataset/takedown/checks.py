"""What verify looks at: one file at a time, each with a check that yields a sentence for whatever is left in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dataset.store.store import Store

Check = Callable[[], Iterator[str]]


@dataclass(slots=True)
class FileCheck:
    """A file to be checked, and how."""

    store: Store
    path: str
    check: Check
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.store.size(self.path) if self.store.exists(self.path) else 0
