"""Write a file into the store whole or not at all, as `dataset.store.store` does for workers.

In a folder it is written aside, synced to the disk and renamed: a rename can reach the disk before the bytes do, and a
crash then leaves an empty file under the final name. What a crash leaves aside, `tracker sweep` finds by its name.
"""

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs


def put_whole(store: pafs.SubTreeFileSystem, path: str, data: bytes | pa.Buffer) -> None:
    """Put `data` at `path` of a store that `open_store` opened.

    Raises:
        OSError, pa.ArrowException: the store does not take it; then nothing is at `path`, or what was there before.
    """
    if isinstance(store.base_fs, pafs.LocalFileSystem):
        _put_into_folder(Path(store.base_path) / path, data)
    else:
        _upload(store, path, data)


def _put_into_folder(place: Path, data: bytes | pa.Buffer) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{uuid4().hex}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(place)
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        aside.unlink(missing_ok=True)


def _upload(store: pafs.SubTreeFileSystem, path: str, data: bytes | pa.Buffer) -> None:
    upload = store.open_output_stream(path, compression=None)
    try:
        upload.write(data)
    except BaseException:
        with suppress(OSError, pa.ArrowException):
            upload.close()  # this completes the upload with what it has, so that is deleted
            store.delete_file(path)
        raise
    upload.close()
