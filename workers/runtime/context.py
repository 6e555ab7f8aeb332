"""What a stage works with: the tracker's session, the store, the sign to stop, and a count of its progress."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from dataset.errors import DatasetError
from dataset.recipe.recipe import Recipe
from dataset.store.store import Store
from tracker.errors import RecipeRefused
from tracker.protocol.session import Batch, Job, Session
from workers.errors import CannotWork, Stopped

PAUSE_STEP_SECONDS = 10.0
"""How often a wait counts as progress."""


@dataclass(slots=True)
class WorkContext:
    session: Session
    store: Store
    # Two signs with one meaning: for code under trio, and for code in a thread.
    stop: trio.Event = field(default_factory=trio.Event)
    stopping: threading.Event = field(default_factory=threading.Event)
    progress: int = 0
    urgent: trio.Event = field(default_factory=trio.Event)
    """Set to send the next heartbeat early; the stage's `beat` replaces it with a new one."""
    _followed: dict[int, Recipe] = field(default_factory=dict)  # by run

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

    def pause(self, seconds: float) -> None:
        """Wait in a thread, which counts as progress: a server that asks for patience is no fault of the worker's.

        Raises:
            Stopped: the worker was asked to stop.
        """
        while seconds > 0 and not self.stopping.wait(min(seconds, PAUSE_STEP_SECONDS)):
            seconds -= PAUSE_STEP_SECONDS
            self.advance(1)
        self.step(0)

    def follow(self, job: Job | Batch) -> Recipe:
        """The recipe of a job's run, spelled out and agreed upon with the tracker once.

        Raises:
            CannotWork: it cannot be read here, or other workers go by another.
        """
        if job.run_id not in self._followed:
            try:
                recipe = Recipe.from_json(job.recipe)
                self.session.settle_recipe(job.run_id, recipe.to_json())
            except (DatasetError, RecipeRefused) as error:
                raise CannotWork(f"the recipe of run {job.run} cannot be followed here: {error}") from error
            self._followed[job.run_id] = recipe
        return self._followed[job.run_id]

    async def call(self, verb: Callable[..., object], *arguments: object) -> None:
        """Call a verb of the session in a thread."""
        await trio.to_thread.run_sync(verb, *arguments)
