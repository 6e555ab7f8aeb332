"""What `tracker seed --url-col` is given: a finished list of links, as LAION, DataComp or anyone publishes one.

Invariant: the pieces that come out cover every row of the list once: a file, or some row groups of a parquet file. A
worker on any machine can open them: absolute paths or URIs.

Only columns are looked at here, and a parquet file's footer; the rows are read by ingest workers. A parquet file is cut
where its row groups end, into pieces of about ROWS_A_PIECE; of other files nobody knows where a row begins, so each is
one piece, however large, and is read as a stream.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.json  # noqa: F401 - it is pa.json below
import pyarrow.parquet as pq

from tracker.errors import TrackerError

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
}
ROWS_A_PIECE = 250_000
"""Half of what ingest shuffles together; a worker that dies loses half a minute's work."""
HEAD_BYTES = 1 << 20
"""As much of a text file as its columns are told from."""
FOOTERS_AT_ONCE = 16
PLAIN_TYPES = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "string"}
)


class ListError(TrackerError):
    """A list is not where it was said to be, or has not the columns that were named."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a list's columns, by what they are."""

    url: str
    caption: str | None = None
    language: str | None = None
    extra: Sequence[str] = ()

    @property
    def all(self) -> list[str]:
        named = [self.url, self.caption, self.language, *self.extra]
        return list(dict.fromkeys(name for name in named if name is not None))


def split_names(names: str) -> tuple[str, ...]:
    """Split a command line's names at their commas, each once; spaces around them go."""
    return tuple(dict.fromkeys(name for part in names.split(",") if (name := part.strip())))


@dataclass(frozen=True, slots=True)
class Piece:
    """Some row groups of a parquet file, or a whole file of another format, whose rows nobody has counted (None)."""

    list: str
    format: str
    bytes: int
    first_group: int = 0
    groups: int | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    pieces: Sequence[Piece]
    extra: Mapping[str, str] = field(default_factory=dict)
    """Types of the extra columns, by name, as the recipe keeps them."""


def is_list(source: str) -> bool:
    """Say whether a source's name is that of a list, by its ending."""
    return _format(source) is not None


def read_listing(sources: Sequence[str], columns: Columns) -> Listing:
    """Look at every file of a list: a file, or all lists in a folder and below, here or in an object store.

    Raises:
        ListError: nothing is there, a file is no list, misses a column, or two give an extra column different types.
    """
    files = [file for source in sources for file in _files(source)]
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as threads:
        seen = list(threads.map(lambda file: _look(file, columns), files))
    extra: dict[str, str] = {}
    for file, (_, types) in zip(files, seen, strict=True):
        for name, kind in types.items():
            if extra.setdefault(name, kind) != kind:
                raise ListError(
                    f"column {name!r} is {kind} in {file.uri} and {extra[name]} in a file before it: "
                    "seed them as two runs, or leave it out of --extra-cols"
                )
    return Listing([piece for pieces, _ in seen for piece in pieces], extra)


@dataclass(frozen=True, slots=True)
class _File:
    uri: str
    filesystem: pa.fs.FileSystem
    path: str
    bytes: int

    def open(self) -> pa.NativeFile:
        return self.filesystem.open_input_file(self.path)


def _format(path: str) -> str | None:
    found = [FORMATS[ending] for ending in FORMATS if path.lower().endswith(ending)]
    return found[0] if found else None


def _files(source: str) -> Iterator[_File]:
    """The files that a source names, sorted."""
    try:
        if "://" in source:
            filesystem, path = pa.fs.FileSystem.from_uri(source)
            prefix = source[: len(source) - len(path)] if source.endswith(path) else f"{filesystem.type_name}://"
        else:
            filesystem, path, prefix = pa.fs.LocalFileSystem(), str(Path(source).expanduser().absolute()), ""
        found = filesystem.get_file_info(path)
        if found.type == pa.fs.FileType.Directory:
            below = filesystem.get_file_info(pa.fs.FileSelector(path, recursive=True))
            infos = sorted((info for info in below if info.is_file and _shown(info, path)), key=lambda info: info.path)
        else:
            infos = [found] if found.is_file else []
    except (OSError, pa.ArrowException) as error:
        raise ListError(
            f"the list {source} cannot be looked at: {error}; name a path, s3://, gs:// or abfs://"
        ) from error
    if not infos:
        raise ListError(f"there is no list at {source}: name a file or folder of {', '.join(sorted(FORMATS))}")
    for info in infos:
        if _format(info.path) is None:
            raise ListError(f"{info.path} is no list: its name must end in one of {', '.join(sorted(FORMATS))}")
        yield _File(prefix + info.path, filesystem, info.path, info.size)


def _shown(info: pa.fs.FileInfo, root: str) -> bool:
    """Whether a folder's file is part of its list; others lie beside it (_SUCCESS, README)."""
    steps = info.path[len(root) :].strip("/").split("/")
    return _format(info.path) is not None and not any(step.startswith((".", "_")) for step in steps)


def _look(file: _File, columns: Columns) -> tuple[list[Piece], dict[str, str]]:
    """A file's pieces, and the types of its extra columns."""
    kind = _format(file.path)
    assert kind is not None
    try:
        if kind == "parquet":
            with file.open() as opened:
                parquet = pq.ParquetFile(opened)
                schema, pieces = parquet.schema_arrow, _pieces(file, parquet.metadata)
        else:
            schema, pieces = _text_schema(file, kind), [Piece(file.uri, kind, file.bytes)]
    except (OSError, pa.ArrowException, UnicodeDecodeError, EOFError, csv.Error) as error:
        raise ListError(f"{file.uri} cannot be read as {kind}: {error}; check the file") from error
    for name in columns.all:
        if name not in schema.names:
            raise ListError(f"{file.uri} has no column {name!r}; it has {', '.join(map(str, schema.names))}")
    return pieces, {name: type_name(schema.field(name).type) for name in columns.extra}


def _pieces(file: _File, metadata: pq.FileMetaData) -> list[Piece]:
    pieces: list[Piece] = []
    first, rows = 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= ROWS_A_PIECE or group == metadata.num_row_groups - 1:
            if rows:
                pieces.append(Piece(file.uri, "parquet", file.bytes, first, group + 1 - first, rows))
            first, rows = group + 1, 0
    return pieces


def _text_schema(file: _File, kind: str) -> pa.Schema:
    """The columns of a text file by its first lines; csv and tsv know no types, all is text there."""
    with file.open() as opened:
        head = gzip.GzipFile(fileobj=opened).read(HEAD_BYTES) if file.path.endswith(".gz") else opened.read(HEAD_BYTES)
    if kind != "jsonl":
        line = io.StringIO(bytes(head).decode("utf-8-sig", "replace"), newline="")
        names = next(csv.reader(line, delimiter="\t" if kind == "tsv" else ","), [])
        return pa.schema([(name, pa.string()) for name in names])
    whole = head if len(head) < HEAD_BYTES else head[: head.rfind(b"\n") + 1]
    lines = [line for line in whole.splitlines() if _is_object(line)]
    if not lines:
        raise ListError(f"{file.uri} begins with no line that is a JSON object: check the file")
    return pa.json.read_json(io.BytesIO(b"\n".join(lines))).schema


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def type_name(kind: pa.DataType) -> str:
    """What the recipe calls a column's type: Arrow's name for numbers, bool and text, list<…> of those; else text."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    return str(kind) if str(kind) in PLAIN_TYPES else "string"
