"""Open the store that SHOAL_STORE names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from tracker.errors import TrackerError
from tracker.storage.object_store import open_location


def open_store(uri: str) -> pafs.FileSystem:
    """The store as a file system rooted at it.

    Raises:
        TrackerError: the URI names no file system that is known.
    """
    try:
        filesystem, root = open_location(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrackerError(
            f"the store {uri.rpartition('@')[2]} cannot be opened: {error}; set SHOAL_STORE to a folder or a URI"
        ) from error
    return pafs.SubTreeFileSystem(root, filesystem)


def open_existing_store(uri: str) -> pafs.FileSystem:
    """The store as a file system rooted at it; a folder is not made here, since a wrong SHOAL_STORE would make one.

    Raises:
        TrackerError: the URI names no file system that is known, or a folder that is not there.
    """
    store = open_store(uri)
    if isinstance(store.base_fs, pafs.LocalFileSystem) and not Path(store.base_path).is_dir():
        raise TrackerError(
            f"the store {uri} is not there: set SHOAL_STORE to the workers' folder; the first worker makes it"
        )
    return store
