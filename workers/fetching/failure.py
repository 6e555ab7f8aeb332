"""The failure of a link: raised where it is detected, turned into a value once, in fetch.

Invariant: exceptions of other libraries about a server or the network are translated to `LinkFailed` where they occur,
so none leaves this package. Reasons are written by Shoal; they never contain a server's words.
"""

from dataset.pictures.outcomes import TRANSIENT, Outcome


class LinkFailed(Exception):
    """The link has ended with this outcome; it is not an error of the worker."""

    def __init__(
        self, outcome: Outcome, reason: str, *, transient: bool | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome = outcome
        self.reason = reason
        self.transient = outcome in TRANSIENT if transient is None else transient
        self.retry_after_seconds = retry_after_seconds
