"""Check whether a user's path is a file or a folder; False for a name that no file system accepts.

`Path.is_file` raises OSError for a name that is too long.
"""

from pathlib import Path


def is_file(path: Path) -> bool:
    """Return whether a file is at `path`."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder is at `path`."""
    try:
        return path.is_dir()
    except OSError:
        return False
