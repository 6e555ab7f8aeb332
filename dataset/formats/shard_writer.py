"""Write a shard: rows and samples as links end, then both files at once.

Source: the tar's headers are POSIX ustar.

Rejected: `tarfile` for writing: its headers take 25 µs each, these take 4 µs, and a sample needs three.
"""

import tarfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa

from dataset import strict_json
from dataset.formats.shards import ANONYMOUS_COLUMNS, SHARD_SCHEMA, ShardError, blank_value, sample_key
from dataset.pictures.outcomes import PICTURE_FAULTS, Outcome
from dataset.pictures.picture import Picture
from dataset.recipe.extra_columns import list_names, unpack_extra, unpack_one
from dataset.store.store import Store

_JSON = strict_json.Encoder(ensure_ascii=False)

_TEXTS = frozenset(field.name for field in SHARD_SCHEMA if field.type == pa.string())


@dataclass(frozen=True, slots=True)
class LinkRow:
    """The result for one link; `picture` is None unless `outcome` is success.

    Of an `anonymous` row only ANONYMOUS_COLUMNS are written.
    """

    position: int
    pack: int
    pack_row: int
    attempt: int
    final: bool
    language: str | None
    url: str
    caption: str
    outcome: Outcome
    extra: str = ""
    """The other columns of a list's row, packed (see `recipe.extra_columns`)."""
    reason: str | None = None
    http_status: int | None = None
    content_type: str | None = None
    final_url: str | None = None
    fetch_seconds: float = 0.0
    bytes_received: int | None = None
    picture: Picture | None = None
    anonymous: bool = False


class ShardWriter:
    """Writes one shard within a `with` block; without `publish` the block leaves no file.

    `add` may be called from several threads.
    """

    def __init__(
        self,
        store: Store,
        output: str,
        *,
        job_id: int,
        subset: str,
        metadata: Mapping[str, str] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        self._output = output
        self._job_id = job_id
        self._subset = subset
        self._metadata = dict(metadata or {})
        self._extra = extra or {}
        self._names = list_names(self._extra, SHARD_SCHEMA.names)
        self._extra_rows: dict[str, str] = {}  # by key
        # In a json member '' replaces null for texts: Hugging Face `datasets` infers types from the first five samples,
        # and fails on a later text if all five were null.
        self._texts = _TEXTS | {self._names[name] for name, kind in self._extra.items() if kind == "string"}
        self._rows: list[dict[str, object]] = []
        self._lock = threading.Lock()
        self._write = store.write(f"{output}.tar")
        self._tar: BinaryIO | None = None
        self.samples = 0

    @property
    def rows(self) -> int:
        """Links added so far."""
        return len(self._rows)

    def __enter__(self) -> Self:
        self._tar = self._write.__enter__()
        return self

    def add(self, row: LinkRow) -> None:
        """Add a link's row, and its three members if it has a picture.

        Raises: ShardError when the position is too large for a key; OSError when the disk is full.
        """
        assert not (row.anonymous and row.picture)
        columns = self._columns(row)
        with self._lock:
            if row.picture is not None:
                self._append_members(columns | self._named(row.extra), row.picture)
                self.samples += 1
            self._rows.append(columns)
            if row.extra and not row.anonymous:
                self._extra_rows[str(columns["key"])] = row.extra

    def publish(self) -> None:
        """Publish both files.

        Raises: StoreError, OSError when the store cannot take them; then neither file is left.
        """
        assert self._tar is not None
        self._tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of an archive: two empty blocks
        self._tar = None
        self._write.__exit__(None, None, None)
        try:
            self._rows.sort(key=lambda columns: str(columns["key"]))
            table = pa.Table.from_pylist(self._rows, schema=SHARD_SCHEMA)
            packed = [self._extra_rows.get(str(columns["key"]), "") for columns in self._rows]
            for name, column in unpack_extra(packed, self._extra).items():
                table = table.append_column(self._names[name], column)
            self._store.write_table(f"{self._output}.parquet", table, self._metadata)
        except BaseException:
            self._store.delete(f"{self._output}.tar")
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar = None
            self._write.__exit__(ShardError, ShardError("The shard was not finished."), None)

    def _named(self, packed: str) -> dict[str, object]:
        """Return a row's extra values by column name; null if it has no value."""
        values = unpack_one(packed, self._extra)
        return {column: values[name] for name, column in self._names.items()}

    def _columns(self, row: LinkRow) -> dict[str, object]:
        columns: dict[str, object] = {
            "key": sample_key(self._job_id, row.position),
            "url": row.url,
            "caption": row.caption,
            "status": _status(row.outcome),
            "error_message": None if row.outcome is Outcome.SUCCESS else row.reason or row.outcome.value,
            "outcome": row.outcome.value,
            "http_status": row.http_status,
            "content_type": row.content_type,
            "final_url": row.final_url,
            "fetch_seconds": row.fetch_seconds,
            "bytes": row.bytes_received,
            "attempt": row.attempt,
            "final": row.final,
            "language": row.language,
            "subset": self._subset,
            "pack": row.pack,
            "pack_row": row.pack_row,
        }
        if row.anonymous:
            return {name: columns[name] if name in ANONYMOUS_COLUMNS else blank_value(name) for name in columns}
        if row.picture is not None:
            columns |= {
                "width": row.picture.width,
                "height": row.picture.height,
                "original_width": row.picture.original_width,
                "original_height": row.picture.original_height,
                "sha256": row.picture.sha256,
                "md5": row.picture.md5,
                "sha1": row.picture.sha1,
                "pdq": row.picture.pdq,
            }
        return columns

    def _append_members(self, columns: Mapping[str, object], picture: Picture) -> None:
        assert self._tar is not None
        key = str(columns["key"])
        about = {name: "" if value is None and name in self._texts else value for name, value in columns.items()}
        members: list[bytes] = []
        for extension, data in (
            (picture.extension, picture.data),
            ("txt", str(columns["caption"]).encode("utf-8")),
            ("json", _JSON.encode(about).encode("utf-8")),
        ):
            members += (tar_header(f"{key}.{extension}", len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))
        self._tar.write(b"".join(members))  # one call: nine cost 40 µs


def _status(outcome: Outcome) -> str:
    if outcome is Outcome.SUCCESS:
        return "success"
    return "failed_to_resize" if outcome in PICTURE_FAULTS else "failed_to_download"


def tar_header(name: str, size: int) -> bytes:
    """Return the 512 bytes before a member: a regular file, readable by all, owned by root, dated 1970."""
    fields = b"%b%b%011o\0%011o\0" % (name.encode("ascii").ljust(100, b"\0"), _OWNER, size, 0)
    checksum = sum(fields) + 8 * ord(" ") + _REST_SUM
    return (fields + b"%06o\0 " % checksum + _REST).ljust(tarfile.BLOCKSIZE, b"\0")


_OWNER = b"0000444\0" + 2 * b"0000000\0"
"""Mode, user and group in octal."""

_REST = b"0".ljust(101, b"\0") + b"ustar\x0000"
"""Type (regular file), link name, and format."""

_REST_SUM = sum(_REST)
