"""Homes for embedded servers."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server_home() -> Iterator[Path]:
    """Make a folder that the user whom an embedded server runs as can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="shoal-test-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o755)
        yield home
