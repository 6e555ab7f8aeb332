"""The files of a link list: found in a folder, an object store or on a web server, and opened.

A file's location is a path or a URI that a worker can open unchanged: the source itself, or, for a file in a folder,
the folder's URI followed by the rest of the path, percent-encoded.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from tracker.seeding.http_file import HttpFile
from tracker.storage.object_store import open_location

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
}
ENDINGS = ", ".join(FORMATS) + "; all except .parquet also with .gz"
NOTES = frozenset({"json", "txt"})
"""Formats that are ignored in a folder with lists of other formats: there they are notes (README.txt, stats.json)."""
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ListFile:
    location: str
    format: str
    bytes: int
    is_gzip: bool
    filesystem: pa.fs.FileSystem | None
    """None for a file on a web server."""
    path: str

    @property
    def is_json(self) -> bool:
        return self.format in ("json", "jsonl")

    def open(self) -> BinaryIO:
        """Open the file for reading; seekable where the source allows it.

        Raises: OSError, pa.ArrowException.
        """
        if self.filesystem is not None:
            return cast(BinaryIO, self.filesystem.open_input_file(self.path))
        file = HttpFile(self.location)
        return cast(BinaryIO, file) if self.format == "parquet" else io.BufferedReader(file, BUFFER_BYTES)


def format_of(path: str) -> str | None:
    """Return a file's format by the ending of its name; None if it is not a link list."""
    name = path.lower().removesuffix(".gz")
    found = next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)
    return None if found == "parquet" and path.lower().endswith(".gz") else found


def is_list(source: str) -> bool:
    """Return whether a source has the name of a link list."""
    return format_of(_path_of(source)) is not None


def find_files(source: str) -> Iterator[ListFile]:
    """Yield the files of a source, sorted.

    Raises: ValueError when there are no files; its message is a sentence.
    """
    if source.startswith(("http://", "https://")):
        yield _served(source)
        return
    try:
        filesystem, path = open_location(source)
        found = filesystem.get_file_info(path)
        infos = [found] if found.is_file else []
        if found.type == pa.fs.FileType.Directory:
            infos = _lists_below(filesystem, path)
    except (OSError, ValueError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"cannot read the link list {source} ({said}): name a path or a URI") from error
    if not infos:
        raise ValueError(f"there is no link list at {source}: name a file or folder of {ENDINGS}")
    for info in infos:
        location = _location(source, path, info, filesystem)
        kind = format_of(info.path)
        if kind is None:
            raise ValueError(f"{location} is not a link list: its name must end in one of {ENDINGS}")
        yield ListFile(location, kind, info.size, _is_gzip(info.path), filesystem, info.path)


def _served(url: str) -> ListFile:
    path = _path_of(url)
    kind = format_of(path)
    if kind is None:
        raise ValueError(f"{url} is not a link list: its name must end in one of {ENDINGS}")
    try:
        with HttpFile(url) as file:
            size, gives_parts = file.size, file.gives_parts
    except OSError as error:
        raise ValueError(f"cannot read the link list {url} ({error}): check the address") from error
    if size is None:
        raise ValueError(f"the server does not give the size of {url}: download it, and name the copy")
    if kind == "parquet" and not gives_parts:
        raise ValueError(f"the server of {url} does not support ranges: download it, and name the copy")
    return ListFile(url, kind, size, _is_gzip(path), None, path)


def _path_of(source: str) -> str:
    """Return the path of a URL without its query; a local path is returned unchanged."""
    return unquote(urlsplit(source).path) if source.startswith(("http://", "https://")) else source


def _is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def _lists_below(filesystem: pa.fs.FileSystem, root: str) -> list[pa.fs.FileInfo]:
    below = filesystem.get_file_info(pa.fs.FileSelector(root, recursive=True))
    lists = [info for info in below if info.is_file and _is_shown(info.path[len(root) :])]
    others = [info for info in lists if format_of(info.path) not in NOTES]
    return sorted(others or lists, key=lambda info: info.path)


def _is_shown(path: str) -> bool:
    """Return whether a file in a folder is part of its list, unlike _SUCCESS or README.md."""
    return format_of(path) is not None and not any(step.startswith((".", "_")) for step in path.strip("/").split("/"))


def _location(source: str, root: str, info: pa.fs.FileInfo, filesystem: pa.fs.FileSystem) -> str:
    if isinstance(filesystem, pa.fs.LocalFileSystem):
        return str(info.path)
    below = info.path[len(root) :].strip("/")
    if not below:
        return source
    base, mark, query = source.partition("?")
    return f"{base.rstrip('/')}/{quote(below)}{mark}{query}"
