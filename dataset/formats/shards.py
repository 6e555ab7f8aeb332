"""Shards: a WebDataset tar of samples, and a parquet with one row for every link of the batch.

Invariant: `<output>.tar` and `<output>.parquet` are each written whole or not at all, the parquet last; so where the
parquet exists, the tar was complete. A sample's members (key.jpg, key.txt, key.json) are adjacent in the tar, and its
row says `success`. Rows are in the order of their keys, members in the order in which the links ended.
`dataset.formats.shard_writer` writes both.

Source: the columns `url` to `sha256` and the three values of `status` are img2dataset's, so that programs that read its
shards can read these; the columns after them are Shoal's own.

Rejected: reading samples from the tar alone, because one damaged member would hide all later ones (here each row with
`success` yields one item, whatever the tar contains); EXIF, which img2dataset keeps, because it can reveal where a
person lives.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.formats.tar_members import read_members
from dataset.pictures.outcomes import Outcome
from dataset.recipe.extra_columns import list_names
from dataset.store.store import Store, StoreError

MAX_POSITION = 99_999
"""A key has five digits for the position, like img2dataset's keys."""

SHARD_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("status", pa.string()),  # success | failed_to_download | failed_to_resize
        ("error_message", pa.string()),  # null for a success
        ("width", pa.int32()),  # of the picture in the tar
        ("height", pa.int32()),
        ("original_width", pa.int32()),  # of the picture as received, upright
        ("original_height", pa.int32()),
        ("sha256", pa.string()),  # of the bytes as received
        ("md5", pa.string()),  # of the same bytes; private, like sha1
        ("sha1", pa.string()),  # null if the recipe switches it off
        ("pdq", pa.string()),  # null unless the recipe or a hash list needs it
        ("outcome", pa.string()),  # an Outcome
        ("http_status", pa.int16()),  # of the last response; null if there was none
        ("content_type", pa.string()),
        ("final_url", pa.string()),  # after redirects
        ("fetch_seconds", pa.float32()),
        ("bytes", pa.int32()),  # received, after decompression
        ("attempt", pa.int16()),
        ("final", pa.bool_()),  # false if the link waits for another attempt, which has its own row
        ("language", pa.string()),
        ("subset", pa.string()),
        ("pack", pa.int64()),
        ("pack_row", pa.int32()),
    ]
)

ANONYMOUS_COLUMNS = ("key", "status", "outcome", "final", "attempt", "subset", "pack", "pack_row")
"""The only columns that are kept in the row of a picture that must not be kept. Any other column, even of a link list,
could lead to the picture; therefore the columns to keep are listed, not those to blank.
"""


class ShardError(DatasetError):
    """A shard cannot be written or read."""


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
    sha256: str | None = None  # this and the next two: of the bytes as received
    md5: str | None = None
    sha1: str | None = None
    pdq: str | None = None  # None: not computed, or too little contrast
    final_url: str | None = None  # after redirects
    extra: Mapping[str, object] = field(default_factory=dict)
    """The requested columns of the link list, by the list's own names; null if it has no value."""


@dataclass(frozen=True, slots=True)
class LostSample:
    """The row says `success`, but the picture cannot be read from the tar."""

    key: str
    url: str
    caption: str
    reason: str


def sample_key(job_id: int, position: int) -> str:
    """Return the key of the sample at `position` of a job's batch: 15 digits, unique within one tracker.

    Raises: ShardError when the position has more than five digits.
    """
    if not 0 <= position <= MAX_POSITION:
        raise ShardError(f"Cannot make a key for position {position}: draw at most {MAX_POSITION + 1} links per batch.")
    return f"{job_id:010d}{position:05d}"


def blank_value(name: str) -> str | None:
    """Return the value of a blanked column in an anonymous row: '' if readers expect a text, otherwise null."""
    return "" if name in ("url", "caption") else None


def read_samples(
    store: Store, output: str, pictures: str | None = None, *, extra: Iterable[str] = ()
) -> Iterator[Sample | LostSample]:
    """Yield one item for each row that says `success`: members in the tar's order, then lost samples by key.

    `pictures` is the stem of another tar that contains the pictures: the part's, after the shard's own was deleted.
    `extra` names the link list's columns to read, by their names in the list.

    Raises: ShardError when the parquet is missing (the shard was never finished) or not a shard's, or the tar is
    missing; StoreError when the store stops responding: samples that a second attempt may read are not reported as
    lost.
    """
    rows = _success_rows(store, output, list_names(extra, SHARD_SCHEMA.names))
    end = "its member is missing from the tar"
    try:
        with _opened(store, f"{pictures or output}.tar") as file:
            for name, size, image in read_members(file):
                key, _, extension = name.partition(".")
                if extension in ("txt", "json") or key not in rows:
                    continue
                row = rows.pop(key)
                if len(image) != size or not image:
                    yield _lost(row, "its member is cut off")
                    continue
                yield _sample(row, image)
    except (tarfile.TarError, EOFError, ValueError):
        end = "the tar cannot be read up to its member"
    except OSError as error:
        raise StoreError(
            f"Cannot read {output}.tar in the store {store.uri} ({error}): check the store and try again."
        ) from error
    for row in rows.values():
        yield _lost(row, end)


def _opened(store: Store, path: str) -> pa.NativeFile:
    try:
        return store.open_input(path)
    except StoreError as error:
        raise ShardError(
            f"Cannot read {path}, although its parquet exists ({error}): if its pictures were deleted on schedule, "
            "write the manifest again (tracker manifest); otherwise download the batch again."
        ) from error


def _success_rows(store: Store, output: str, extra: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Return the rows by key, in the order of the keys; `extra` maps the list's column names to the shard's."""
    try:
        table = store.read_table(f"{output}.parquet", [*_SAMPLE_COLUMNS, "outcome", *extra.values()])
        table = table.filter(pc.equal(table["outcome"], Outcome.SUCCESS.value)).sort_by("key")
        rows = table.select(_SAMPLE_COLUMNS).to_pylist()
        told = table.select([*extra.values()]).rename_columns([*extra]).to_pylist() if extra else [{}] * len(rows)
    except (StoreError, pa.ArrowException, KeyError) as error:
        raise ShardError(
            f"{output}.parquet is not the table of a shard ({error}): download the batch again."
        ) from error
    return {row["key"]: row | {"extra": values} for row, values in zip(rows, told, strict=True)}


def _sample(row: Mapping[str, object], image: bytes) -> Sample:
    return Sample(image=image, **row)  # type: ignore[arg-type]  # SHARD_SCHEMA has the types


_SAMPLE_COLUMNS = [name.name for name in fields(Sample) if name.name in SHARD_SCHEMA.names]


def _lost(row: Mapping[str, object], reason: str) -> LostSample:
    return LostSample(key=str(row["key"]), url=str(row["url"]), caption=str(row["caption"]), reason=reason)
