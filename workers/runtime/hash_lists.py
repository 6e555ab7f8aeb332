"""The operator's lists of hashes never to keep, as a worker has them at hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dataset.pictures.pdq import PdqError
from dataset.safety.hash_lists import Restricted
from workers.errors import CannotWork
from workers.runtime.context import Desk


@dataclass(slots=True)
class Restrictions:
    _lists: dict[str, str] = field(default_factory=dict)  # of `_loaded`, sha256 by path
    _loaded: Restricted = field(default_factory=Restricted)

    def current(self, desk: Desk) -> Restricted:
        """What may not be kept now: asked for before each piece of work, and loaded when it is another than before.

        Raises:
            CannotWork: a list of PDQs is among them, and PDQ cannot be computed here.
        """
        lists = desk.session.restrictions()
        if lists != self._lists:
            with pdq_at_hand():
                self._loaded = Restricted.load(desk.store, lists, sha256=lists)
            self._lists = lists
        return self._loaded


@contextmanager
def pdq_at_hand() -> Iterator[None]:
    """Refuse work that needs PDQ where it cannot be computed.

    Raises:
        CannotWork: so it is.
    """
    try:
        yield
    except PdqError as error:
        raise CannotWork(str(error)) from error
