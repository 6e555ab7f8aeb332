"""The objects that a stage works with: the tracker's session, the store, the request to stop, the progress count."""

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
"""A wait counts as progress this often."""


@dataclass(slots=True)
class WorkContext:
    """Shared by the loop, the stage and the progress bar of one worker."""

    session: Session
    store: Store
    # Both are set by `ask_to_stop`: one is for code under trio, the other for threads.
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
        """Add `n` links, pages or samples to the progress. If there is no progress for too long, the lease is lost."""
        self.progress += n

    def step(self, n: int) -> None:
        """Call `advance` at a point where a thread can abandon its work.

        Raises:
            Stopped: the worker was asked to stop.
        """
        self.advance(n)
        if self.stopping.is_set():
            raise Stopped("asked to stop")

    def pause(self, seconds: float) -> None:
        """Wait in a thread. Waiting counts as progress, so that the lease is not lost when a server asks for a pause.

        Raises:
            Stopped: the worker was asked to stop.
        """
        while seconds > 0 and not self.stopping.wait(min(seconds, PAUSE_STEP_SECONDS)):
            seconds -= PAUSE_STEP_SECONDS
            self.advance(1)
        self.step(0)

    def follow(self, job: Job | Batch) -> Recipe:
        """Return the recipe of a job's run; the first call for a run settles it in the tracker.

        Raises:
            CannotWork: this version cannot read the recipe, or other workers follow a different one.
        """
        if job.run_id not in self._followed:
            try:
                recipe = Recipe.from_json(job.recipe)
                self.session.settle_recipe(job.run_id, recipe.to_json())
            except (DatasetError, RecipeRefused) as error:
                raise CannotWork(f"cannot follow the recipe of run {job.run} here: {error}") from error
            self._followed[job.run_id] = recipe
        return self._followed[job.run_id]

    async def call(self, verb: Callable[..., object], *arguments: object) -> None:
        """Call a verb of the session in a thread."""
        await trio.to_thread.run_sync(verb, *arguments)
