"""The settings in the environment, read when a command starts, never at import."""

import os
from dataclasses import dataclass
from pathlib import Path

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
        home = Path(os.environ.get("SHOAL_HOME", ".shoal")).absolute()
        return cls(
            database_url=os.environ.get("SHOAL_DATABASE_URL") or None,
            store=_placed(os.environ.get("SHOAL_STORE") or str(home / "store")),
            home=home,
            token=os.environ.get("SHOAL_TOKEN") or None,
        )


def _placed(store: str) -> str:
    """Return a folder as an absolute path, and a URI unchanged."""
    return store if "://" in store else str(Path(store).expanduser().absolute())
