"""Why a link ends early: raised where it is found out, turned into a value once, in fetch.

Invariant: no module of this package lets another library's exception out for what a server or the network did; each
is translated to `LinkFailed` where it happens. The reasons are our own words, never a server's.
"""

from dataset.pictures.outcomes import TRANSIENT, Outcome


class LinkFailed(Exception):  # not an error of ours: the link's outcome, on its way up
    """The link has its outcome."""

    def __init__(
        self, outcome: Outcome, reason: str, *, transient: bool | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome = outcome
        self.reason = reason
        self.transient = outcome in TRANSIENT if transient is None else transient
        self.retry_after_seconds = retry_after_seconds
