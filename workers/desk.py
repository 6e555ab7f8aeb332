"""What a stage works with: the tracker's session, the store, the sign to stop, and a count of its progress."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dataset.store import Store
from tracker.session import Session
from workers.errors import Stopped


@dataclass(slots=True)
class Desk:
    session: Session
    store: Store
    # Two signs with one meaning: for code under trio, and for code in a thread.
    stop: trio.Event = field(default_factory=trio.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    progress: int = 0

    def ask_to_stop(self) -> None:
        self.stopping.set()
        self.stop.set()

    def advance(self, n: int) -> None:
        """Count `n` more links, pages or samples; a progress that stands still too long loses the lease."""
        self.progress += n

    def step(self, n: int) -> None:
        """`advance`, for work in a thread that can be given back whole at this point.

        Raises:
            Stopped: the worker was asked to stop.
        """
        self.advance(n)
        if self.stopping.is_set():
            raise Stopped("asked to stop")

    async def call(self, verb: Callable[..., object], *arguments: object) -> None:
        """Call a verb of the session in a thread."""
        await trio.to_thread.run_sync(verb, *arguments)
