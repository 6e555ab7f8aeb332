"""Names that become folders of the store: names of runs, releases and embeddings."""

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The schema's CHECK constraints have the same rule."""


def path_name(text: str) -> str:
    """Return a text with '-' in place of characters that a name cannot have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-_")
