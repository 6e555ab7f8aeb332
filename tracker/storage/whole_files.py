"""Write a file into the store whole or not at all, as `dataset.store.store` does for workers.

In a folder, the file is written under another name, synced to the disk, and renamed. Without the sync, a rename can
reach the disk before the bytes, and a crash leaves an empty file under the final name. `tracker sweep` finds what a
crash leaves behind. For an object store, the file is written to the local disk and then uploaded.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs

UPLOAD_BYTES = 8 << 20
"""Read from the local file at a time."""


def put_whole(store: pafs.SubTreeFileSystem, path: str, data: bytes | pa.Buffer) -> None:
    """Write `data` to `path` in a store.

    Raises:
        OSError, pa.ArrowException: the store cannot be written; `path` is unchanged.
    """
    with write_whole(store, path) as file:
        file.write(data)


@contextmanager
def write_whole(store: pafs.SubTreeFileSystem, path: str) -> Iterator[BinaryIO]:
    """Yield a file to write; its content appears at `path` when the block ends without an error.

    Raises:
        OSError, pa.ArrowException: as `put_whole`; exceptions of the block pass unchanged.
    """
    if isinstance(store.base_fs, pafs.LocalFileSystem):
        with _written_into_folder(Path(store.base_path) / path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        _upload(store, path, file)


@contextmanager
def _written_into_folder(place: Path) -> Iterator[BinaryIO]:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = place.with_name(f".{uuid4().hex}.partial")
    try:
        with aside.open("wb") as file:
            yield file
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


def _upload(store: pafs.SubTreeFileSystem, path: str, file: BinaryIO) -> None:
    upload = store.open_output_stream(path, compression=None)
    try:
        while piece := file.read(UPLOAD_BYTES):
            upload.write(piece)
    except BaseException:
        with suppress(OSError, pa.ArrowException):
            upload.close()  # this completes the upload with part of the data, so delete that
            store.delete_file(path)
        raise
    upload.close()
