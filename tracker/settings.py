"""The settings in the environment, which are read when a command starts, never at import."""

import os
from dataclasses import dataclass
from pathlib import Path

from tracker.errors import TrackerError

HTTP_PLACE = "127.0.0.1:9464"
"""The default address of `tracker serve`; it is skipped if another process listens there."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`SHOAL_DATABASE_URL` (None: the embedded server), `SHOAL_STORE`, `SHOAL_HOME`, `SHOAL_TOKEN`."""

    database_url: str | None
    store: str
    home: Path
    token: str | None

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables.

        Raises: TrackerError when SHOAL_STORE begins with the home of an unknown user.
        """
        home = Path(os.environ.get("SHOAL_HOME", ".shoal")).absolute()
        return cls(
            database_url=os.environ.get("SHOAL_DATABASE_URL") or None,
            store=absolute_location(os.environ.get("SHOAL_STORE") or str(home / "store")),
            home=home,
            token=os.environ.get("SHOAL_TOKEN") or None,
        )


def absolute_location(location: str) -> str:
    """Return a folder as an absolute path, and a URI unchanged.

    Raises: TrackerError when the folder begins with `~` and that home is unknown.
    """
    if "://" in location:
        return location
    try:
        return str(Path(location).expanduser().absolute())
    except RuntimeError as error:
        raise TrackerError(f"cannot find the home in {location}: write the folder as an absolute path") from error
