"""Shards: a WebDataset tar of samples and a parquet with one row for every link of the batch, side by side.

Invariant: `<output>.tar` and `<output>.parquet` are written whole or not at all, and the parquet last: where it is, the
tar is. A sample's members (key.jpg, key.txt, key.json) stand together in the tar; its row says `success`. Rows are in
the order of their keys, members in the order in which the links ended.

Source: the column names `url` to `sha256` and the three values of `status` are img2dataset's, so that what reads its
shards reads ours; the columns behind them are our own. The tar's headers are POSIX ustar.

Rejected: `tarfile` for writing (its header costs 25 µs, this one 4, three to a sample), reading samples from the tar
alone (a damaged member would hide all that follow it: here each row of a success yields one item, whatever the tar
holds), and EXIF, which img2dataset keeps: it can tell where a person lives.
"""

import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

import pyarrow as pa

from dataset.errors import DatasetError
from dataset.extra import unpack_extra
from dataset.outcomes import PICTURE_FAULTS, Outcome
from dataset.received import Picture
from dataset.store import Store, StoreError

MAX_POSITION = 99_999
"""A key gives five digits to the position, as img2dataset's keys do."""

SHARD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("status", pa.string()),  # success | failed_to_download | failed_to_resize
        ("error_message", pa.string()),  # null for a success
        ("width", pa.int32()),  # of the picture in the tar
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # of the picture as it was received, upright
        ("original_height", pa.int32()),
        ("sha256", pa.string()),  # of the bytes as they were received
        ("md5", pa.string()),  # this and pdq: null unless the recipe, or a list of hashes never to keep, asks for it
        ("pdq", pa.string()),
        ("outcome", pa.string()),  # an Outcome
        ("http_status", pa.int16()),  # of the last response, null when none came
        ("content_type", pa.string()),
        ("final_url", pa.string()),  # after redirects
        ("fetch_seconds", pa.float32()),
        ("bytes", pa.int32()),  # received, after decompression
        ("attempt", pa.int16()),
        ("final", pa.bool_()),  # false: the link waits for another attempt and counts there
        ("language", pa.string()),
        ("subset", pa.string()),
        ("pack", pa.int64()),
        ("pack_row", pa.int32()),
    ]
)


_JSON = json.JSONEncoder(ensure_ascii=False)

LIST_PREFIX = "list_"
"""Goes before a list's extra column whose name is one of ours: its `width` is what the list says, ours what came."""


class ShardError(DatasetError):
    """A shard cannot be written or read."""


@dataclass(frozen=True, slots=True)
class LinkRow:
    """What became of one link; `picture` is None unless `outcome` is success."""

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
    """The other columns of a list's row, packed (see extra)."""
    reason: str | None = None
    http_status: int | None = None
    content_type: str | None = None
    final_url: str | None = None
    fetch_seconds: float = 0.0
    bytes_received: int | None = None
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A candidate with its picture, as a shard holds it; sizes in pixels."""

    key: str
    image: bytes
    url: str
    caption: str
    language: str | None
    subset: str
    pack: int
    pack_row: int
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str | None = None  # of the bytes as they were received


@dataclass(frozen=True, slots=True)
class LostSample:
    """A row says `success`, but its picture cannot be read from the tar."""

    key: str
    url: str
    caption: str
    reason: str


def sample_key(job_id: int, position: int) -> str:
    """Name the sample at `position` of a job's batch: 15 digits, unique within the crawl's tracker.

    Raises: ShardError for a position that has no five digits; draw smaller batches.
    """
    if not 0 <= position <= MAX_POSITION:
        raise ShardError(f"Position {position} has no key: draw at most {MAX_POSITION + 1} links a batch.")
    return f"{job_id:010d}{position:05d}"


class ShardWriter:
    """Writes one shard within a `with` block; without `publish` the block leaves nothing behind.

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
        self._extra_rows: dict[str, str] = {}  # by key
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
        """Append a link's row, and its three members when it has a picture.

        Raises: ShardError when the position has no key; OSError when the disk takes no more.
        """
        columns = self._columns(row)
        with self._lock:
            if row.picture is not None:
                self._append_members(columns | self._named(row.extra), row.picture)
                self.samples += 1
            self._rows.append(columns)
            if row.extra:
                self._extra_rows[str(columns["key"])] = row.extra

    def publish(self) -> None:
        """Put both files in their places.

        Raises: StoreError, OSError when the store does not take them; then neither is there.
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
                table = table.append_column(_extra_name(name), column)
            self._store.write_table(f"{self._output}.parquet", table, self._metadata)
        except BaseException:
            self._store.delete(f"{self._output}.tar")
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar = None
            self._write.__exit__(ShardError, ShardError("The shard was left unfinished."), None)

    def _named(self, packed: str) -> dict[str, object]:
        """A row's extra values by the names of their columns, null where it has none."""
        values = json.loads(packed) if packed else {}
        return {_extra_name(name): values.get(name) for name in self._extra}

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
        if row.picture is not None:
            columns |= {
                "width": row.picture.width,
                "height": row.picture.height,
                "original_width": row.picture.original_width,
                "original_height": row.picture.original_height,
                "sha256": row.picture.sha256,
                "md5": row.picture.md5,
                "pdq": row.picture.pdq,
            }
        return columns

    def _append_members(self, columns: Mapping[str, object], picture: Picture) -> None:
        assert self._tar is not None
        key = str(columns["key"])
        members: list[bytes] = []
        for extension, data in (
            (picture.extension, picture.data),
            ("txt", str(columns["caption"]).encode("utf-8")),
            ("json", _JSON.encode(columns).encode("utf-8")),
        ):
            members += (_tar_header(f"{key}.{extension}", len(data)), data, bytes(-len(data) % tarfile.BLOCKSIZE))
        self._tar.write(b"".join(members))  # one call: nine cost 40 µs


def read_samples(store: Store, output: str, pictures: str | None = None) -> Iterator[Sample | LostSample]:
    """Yield one item for each row that says `success`: members in the tar's order, then the lost ones by key.

    `pictures` is the stem of another tar that has them: the part's, once the shard's own is deleted.

    Raises: ShardError when the parquet is missing or not a shard's (the shard was never finished), or the tar is
    missing; StoreError when the store stops giving it: what a second reading may give is not lost.
    """
    rows = _success_rows(store, output)
    end = "its member is missing from the tar"
    try:
        with _opened(store, f"{pictures or output}.tar") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header: 30 MB for a shard
                key, _, extension = member.name.partition(".")
                if extension in ("txt", "json") or key not in rows:
                    continue
                content = tar.extractfile(member)
                image = content.read() if content else b""
                row = rows.pop(key)
                if len(image) != member.size or not image:
                    yield _lost(row, "its member is cut off")
                    continue
                yield _sample(row, image)
    except (tarfile.TarError, EOFError, ValueError):
        end = "the tar cannot be read up to its member"
    except OSError as error:
        raise StoreError(
            f"Cannot read {output}.tar in the store {store.uri} ({error}): mend it and try again."
        ) from error
    for row in rows.values():
        yield _lost(row, end)


def _opened(store: Store, path: str) -> pa.NativeFile:
    try:
        return store.open_input(path)
    except StoreError as error:
        raise ShardError(
            f"{path} cannot be read, and its parquet is there ({error}): download the batch again."
        ) from error


def _success_rows(store: Store, output: str) -> dict[str, dict[str, object]]:
    columns = ["key", "url", "caption", "language", "subset", "pack", "pack_row"]
    columns += ["width", "height", "original_width", "original_height", "sha256", "outcome"]
    try:
        table = store.read_table(f"{output}.parquet", columns)
        rows = [row for row in table.to_pylist() if row["outcome"] == Outcome.SUCCESS.value]
    except (StoreError, pa.ArrowException, KeyError) as error:
        raise ShardError(f"{output}.parquet is no shard's table ({error}): download the batch again.") from error
    return {row["key"]: row for row in sorted(rows, key=lambda row: str(row["key"]))}


def _sample(row: Mapping[str, object], image: bytes) -> Sample:
    return Sample(image=image, **{name: value for name, value in row.items() if name != "outcome"})  # type: ignore[arg-type]  # SHARD_SCHEMA has the types


def _lost(row: Mapping[str, object], reason: str) -> LostSample:
    return LostSample(key=str(row["key"]), url=str(row["url"]), caption=str(row["caption"]), reason=reason)


def _extra_name(name: str) -> str:
    return LIST_PREFIX + name if name in SHARD_SCHEMA.names else name


def _status(outcome: Outcome) -> str:
    if outcome is Outcome.SUCCESS:
        return "success"
    return "failed_to_resize" if outcome in PICTURE_FAULTS else "failed_to_download"


def _tar_header(name: str, size: int) -> bytes:
    """Make the 512 bytes before a member: a plain file, readable by all, owned by root, dated 1970."""
    fields = b"%b%b%011o\0%011o\0" % (name.encode("ascii").ljust(100, b"\0"), _OWNER, size, 0)
    checksum = sum(fields) + 8 * ord(" ") + _REST_SUM
    return (fields + b"%06o\0 " % checksum + _REST).ljust(tarfile.BLOCKSIZE, b"\0")


_OWNER = b"0000444\0" + 2 * b"0000000\0"
"""Mode, user and group, in octal."""

_REST = b"0".ljust(101, b"\0") + b"ustar\x0000"
"""A plain file's type, no link, and the format."""

_REST_SUM = sum(_REST)
