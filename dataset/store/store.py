"""The store of packs, shards, parts and models: a local folder or an object store.

Invariant: a path holds a whole file or nothing. In a folder, a file is written under a temporary name, synced to the
disk and renamed; for an object store it is spooled on the local disk and uploaded when it is complete. If two writers
write one path, the last one wins, with a whole file.

Source: `pyarrow.fs` supports s3://, gs:// and abfs://. Rejected: writing directly into pyarrow's upload stream, because
leaving its `with` block on an error completes the upload with the bytes written so far; `pyarrow.fs.copy_files`, which
ignores an error of the upload's last request and reports a lost file as written.

An upload that fails permanently leaves invisible parts in the bucket, which cost money, because pyarrow cannot abort
it: give the bucket a rule that aborts incomplete uploads (docs/operations.md).
"""

import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from dataset.errors import DatasetError
from dataset.store.object_store import open_location

PARTIAL_SUFFIX = ".partial"
"""Suffix of files that are being written; `list` never returns them."""
UPLOAD_BYTES = 8 << 20
"""Bytes read at a time from the spooled file."""
# Parts of object stores' error messages with their remedies; the first match is used. A response to HEAD has no body,
# so for an expired token S3 returns only the status 400.
REMEDIES = (
    (("SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "NETWORK_CONNECTION", "REQUEST_TIMEOUT", "status 5"),
     "it was retried for about a minute; check the network and the store's limits, and try again later"),
    (("NO_SUCH_BUCKET",), "create the bucket, or correct the store's URI"),
    (("Expired", "TokenRefreshRequired", "status 400"), "the credentials have expired or are malformed: renew them"),
    (("ACCESS_DENIED", "InvalidAccessKeyId", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "status 403"),
     "let these credentials read, write, list and delete there, or give others (AWS_ACCESS_KEY_ID, ~/.aws, a role)"),
)  # fmt: skip


class StoreError(DatasetError):
    """The store could not perform an operation."""


class Store:
    """Files under one root; paths are relative to it and separated by '/'."""

    def __init__(self, uri: str, filesystem: pa.fs.FileSystem, root: str) -> None:
        self.uri = uri
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._is_folder = isinstance(filesystem, pa.fs.LocalFileSystem)

    @classmethod
    def open(cls, uri: str, *, writable: bool = True) -> "Store":
        """Open the folder (created if missing) or object store at `uri`, and write and delete a test file in it.

        With `writable=False` nothing is created or written.

        Raises: StoreError when it cannot be reached or written.
        """
        try:
            store = cls(uri, *open_location(uri))
            if writable:
                store._probe()
        except (OSError, ValueError, pa.ArrowException, StoreError) as error:
            reason = error.__cause__ or error
            help_ = _remedy(str(reason)) or "name a folder or bucket to write in"
            raise StoreError(f"The store {without_secrets(uri)} cannot be used ({_line(reason)}): {help_}.") from error
        return store

    def require_folder(self) -> None:
        """Raise StoreError if this is a local folder that does not exist."""
        with self._translated("look up", self._root):
            found = self._filesystem.get_file_info(self._root)
        if self._is_folder and found.type != pa.fs.FileType.Directory:
            raise StoreError(f"The store {self.uri} does not exist: check --store, or SHOAL_STORE.")

    @contextmanager
    def write(self, path: str, *, durable: bool = True) -> Iterator[BinaryIO]:
        """Yield a binary file; when the block ends without an error, its content is at `path`; otherwise nothing is.

        Without `durable`, a crash of the machine may leave it empty: use this for files that are made again after a
        crash.

        Raises: StoreError when it cannot be opened or published; exceptions of the block pass unchanged.
        """
        place = self._place(path)
        with self._translated("write", path):
            aside = self._aside(place)
            file = aside.open("wb")
        try:
            yield file
            with self._translated("write", path):
                file.close()
                self._publish(aside, place, durable=durable)
        finally:
            with suppress(OSError):
                file.close()
            aside.unlink(missing_ok=True)

    def put(self, path: str, data: bytes) -> None:
        """Write `data` as the whole file at `path`.

        Raises: StoreError when it cannot be written.
        """
        with self._translated("write", path), self.write(path) as file:
            file.write(data)

    def read(self, path: str) -> bytes:
        """Return the whole file at `path`.

        Raises: StoreError when it is missing or cannot be read.
        """
        with self.open_input(path) as file, self._translated("read", path):
            return bytes(file.read())

    def open_input(self, path: str) -> pa.NativeFile:
        """Open `path` for reading at any position; the caller closes it.

        Raises: StoreError when it is missing.
        """
        with self._translated("read", path):
            return self._filesystem.open_input_file(self._place(path))

    def local_path(self, path: str) -> Path | None:
        """Return the local path of the file at `path`, so that it can be mapped into memory; None in an object
        store.
        """
        return Path(self._place(path)) if self._is_folder else None

    def exists(self, path: str) -> bool:
        """Return whether a file is at `path`."""
        with self._translated("look up", path):
            return bool(self._filesystem.get_file_info(self._place(path)).type == pa.fs.FileType.File)

    def size(self, path: str) -> int:
        """Return the size of the file at `path` in bytes.

        Raises: StoreError when there is no such file.
        """
        with self._translated("look up", path):
            found = self._filesystem.get_file_info(self._place(path))
        if found.type != pa.fs.FileType.File:
            raise StoreError(f"{path} is missing from the store {self.uri}: check the path and the store's URI.")
        return int(found.size)

    def delete(self, path: str) -> None:
        """Delete the file at `path`, if it exists."""
        with self._translated("delete", path), suppress(FileNotFoundError):
            self._filesystem.delete_file(self._place(path))

    def copy(self, path: str, target: str) -> None:
        """Make the file at `path` available at `target`, too: in a folder as a hard link, so that a program that has
        mapped either sees a change of the bytes; in an object store as a copy, which the store makes by itself.

        Raises: StoreError when there is no such file, or it cannot be copied.
        """
        source, place = self._place(path), self._place(target)
        with self._translated("copy", path):
            if not self._is_folder:
                self._filesystem.copy_file(source, place)
                return
            aside = self._aside(place)
            try:
                os.link(source, aside)
                if not (Path(place).exists() and Path(place).samefile(source)):  # then a rename does nothing
                    aside.replace(place)
            finally:
                aside.unlink(missing_ok=True)
            _sync(Path(place).parent)

    def delete_empty_folders(self, prefix: str) -> None:
        """Delete the empty folders at `prefix`, below, and above up to the store's; a local folder's only, since an
        object store has none.
        """
        if not self._is_folder:
            return
        place = Path(self._place(prefix))
        below = sorted((path for path in place.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, place, *place.parents):
            if path == Path(self._root):
                return
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # it is not empty
                if path == place:
                    return

    def list(self, prefix: str = "") -> list[str]:
        """Return the sorted paths of all files in the folder `prefix` and below; [] if the folder is missing."""
        return [path for path in self._list_all(prefix) if not path.endswith(PARTIAL_SUFFIX)]

    def delete_partial(self, prefix: str) -> None:
        """Delete unfinished files that killed processes left in the folder `prefix` and below.

        A process that is still writing there loses its file, and raises StoreError.
        """
        for path in self._list_all(prefix):
            if path.endswith(PARTIAL_SUFFIX):
                self.delete(path)

    def _list_all(self, prefix: str) -> Sequence[str]:
        place = self._place(prefix) if prefix else self._root
        selector = pa.fs.FileSelector(place, allow_not_found=True, recursive=True)
        with self._translated("list", prefix):
            found = self._filesystem.get_file_info(selector)
        files = (str(info.path) for info in found if info.type == pa.fs.FileType.File)
        return sorted(path[len(self._root) + 1 :] for path in files)

    def write_table(self, path: str, table: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
        """Write `table` as zstd parquet, with `metadata` added to the metadata of its schema."""
        if metadata:
            added = {key.encode(): value.encode() for key, value in metadata.items()}  # as Arrow has those it replaces
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **added})
        with self._translated("write", path), self.write(path) as file:
            pq.write_table(table, file, compression="zstd")

    def read_table(self, path: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the parquet file at `path`, or only its `columns`, with the file's metadata in its schema.

        Raises: StoreError when it is missing or not parquet.
        """
        with self.open_input(path) as file, self._translated("read", path):
            return pq.ParquetFile(file).read(columns=columns if columns is None else [*columns])

    def _place(self, path: str) -> str:
        if not path or path.startswith("/") or any(step in ("", ".", "..") for step in path.split("/")):
            raise StoreError(f"{path!r} is not a path in a store: give it relative to the store's root, without '..'.")
        return f"{self._root}/{path}"

    def _probe(self) -> None:
        """Write and delete a test file: permissions do not show whether writing works (root, full disk, read-only
        mount).
        """
        path = f"probe-{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        self.put(path, b"shoal")
        self.delete(path)

    def _aside(self, place: str) -> Path:
        """Return the local file to write first; in a folder it is in the same folder as its target, so that it can be
        renamed.
        """
        folder = Path(place).parent if self._is_folder else Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f".{uuid.uuid4().hex}{PARTIAL_SUFFIX}"

    def _publish(self, aside: Path, place: str, *, durable: bool = True) -> None:
        if not self._is_folder:
            self._upload(aside, place)
            return
        if durable:
            _sync(aside)  # otherwise the rename may reach the disk before the bytes, and a crash leaves an empty file
        aside.replace(place)
        if durable:
            _sync(Path(place).parent)

    def _upload(self, aside: Path, place: str) -> None:
        """Upload a local file to `place`.

        Both closing and dropping the stream complete the upload, so if the file cannot be read to its end, the object
        is deleted.
        """
        with aside.open("rb") as source:
            upload = self._filesystem.open_output_stream(place, compression=None)
            try:
                while chunk := source.read(UPLOAD_BYTES):
                    upload.write(chunk)
            except BaseException:
                with suppress(OSError, pa.ArrowException):
                    upload.close()  # raises if a part was refused: then there is nothing to delete
                    self._filesystem.delete_file(place)
                raise
            upload.close()

    @contextmanager
    def _translated(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise StoreError(
                f"{path} is missing from the store {self.uri}: check the path and the store's URI."
            ) from error
        except (OSError, pa.ArrowException) as error:
            help_ = _remedy(str(error)) or "check the store and try again"
            raise StoreError(f"Cannot {verb} {path} in the store {self.uri} ({_line(error)}): {help_}.") from error


def _remedy(said: str) -> str | None:
    return next((remedy for signs, remedy in REMEDIES if any(sign in said for sign in signs)), None)


def _line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())


def without_secrets(uri: str) -> str:
    """Return the URI without user and password."""
    scheme, separator, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else uri


def _sync(place: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
