"""What can go wrong with the tracker; each message is one sentence that names the remedy."""


class TrackerError(Exception):
    """The root; a command prints its message and exits with 1."""


class DatabaseDown(TrackerError):
    """Postgres cannot be reached, or the connection was cut; what was under way is repeated or taken over."""


class SchemaBehind(TrackerError):
    """The database's schema is not the one that this version works with."""


class LeaseLost(TrackerError):
    """The lease expired and was taken over; the work is another's now, and nothing of ours was recorded."""


class RecipeRefused(TrackerError):
    """The run's recipe is settled, and this worker does not match it."""


class Refused(TrackerError):
    """The tracker will not do this: an unknown worker, a wrong class of login, a revoked token, forged counts."""
