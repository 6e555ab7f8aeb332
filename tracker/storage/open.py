"""Open the store that SHOAL_STORE names."""

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from tracker.errors import TrackerError
from tracker.storage.object_store import open_location


def open_store(uri: str) -> pafs.FileSystem:
    """Return the store as a file system that is rooted at it.

    Raises:
        TrackerError: the file system is unknown.
    """
    try:
        filesystem, root = open_location(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TrackerError(
            f"the store {uri.rpartition('@')[2]} cannot be opened: {error}; set SHOAL_STORE to a folder or a URI"
        ) from error
    return pafs.SubTreeFileSystem(root, filesystem)


def open_existing_store(uri: str) -> pafs.FileSystem:
    """Return the store like `open_store`, but do not create a missing folder: SHOAL_STORE is probably wrong.

    Raises:
        TrackerError: the file system is unknown, or the folder does not exist.
    """
    store = open_store(uri)
    if isinstance(store.base_fs, pafs.LocalFileSystem) and not Path(store.base_path).is_dir():
        raise TrackerError(
            f"the store {uri} does not exist: set SHOAL_STORE to the workers' folder; the first worker creates it"
        )
    return store
