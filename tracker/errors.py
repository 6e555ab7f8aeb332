"""The tracker's exceptions; each message is one sentence that names the remedy."""


class TrackerError(Exception):
    """Root of the tracker's exceptions; a command prints the message and exits with 1."""


class DatabaseDown(TrackerError):
    """Postgres cannot be reached, or the connection was cut; the call may be repeated."""


class SchemaBehind(TrackerError):
    """The database's schema is older or newer than this version's."""


class LeaseLost(TrackerError):
    """The lease expired and another worker has the job; nothing was recorded."""


class RecipeRefused(TrackerError):
    """The run's recipe is settled, and this worker does not match it."""


class Refused(TrackerError):
    """The tracker refuses the call: unknown worker, wrong class of login, revoked token, counts that do not add up."""
