"""Shards: a WebDataset tar of samples and a parquet with one row for every link of the batch, side by side.

Invariant: `<output>.tar` and `<output>.parquet` are written whole or not at all, and the parquet last: where it is, the
tar is. A sample's members (key.jpg, key.txt, key.json) stand together in the tar; its row says `success`. Rows are in
the order of their keys, members in the order in which the links ended. `dataset.formats.shard_writer` makes them.

Source: the column names `url` to `sha256` and the three values of `status` are img2dataset's, so that what reads its
shards reads ours; the columns behind them are our own.

Rejected: reading samples from the tar alone (a damaged member would hide all that follow it: here each row of a success
yields one item, whatever the tar holds), and EXIF, which img2dataset keeps: it can tell where a person lives.
"""

import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields

import pyarrow as pa
import pyarrow.compute as pc

from dataset.errors import DatasetError
from dataset.pictures.outcomes import Outcome
from dataset.recipe.extra_columns import list_names
from dataset.store.store import Store, StoreError

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
        ("md5", pa.string()),  # of the same bytes; private, as sha1 is
        ("sha1", pa.string()),  # null where the recipe does without it
        ("pdq", pa.string()),  # null unless the recipe, or a list of hashes never to keep, asks for it
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

ANONYMOUS_COLUMNS = ("key", "status", "outcome", "final", "attempt", "subset", "pack", "pack_row")
"""All that the row of a picture that nobody may hold keeps. Everything else, also a link list's own columns, could lead
to the picture, or tell that its link did; so what is kept is listed, and not what is blanked."""


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
    sha256: str | None = None  # of the bytes as they were received; so are the next two
    md5: str | None = None
    sha1: str | None = None
    pdq: str | None = None  # None: not computed, or the picture is too flat
    final_url: str | None = None  # after redirects
    extra: Mapping[str, object] = field(default_factory=dict)
    """What the list says of the link, by its own names: of the columns that were asked for, null where it has none."""


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


def blank_value(name: str) -> str | None:
    """Return what stands in a column of an anonymous row: '' where readers expect a text, else null."""
    return "" if name in ("url", "caption") else None


def read_samples(
    store: Store, output: str, pictures: str | None = None, *, extra: Iterable[str] = ()
) -> Iterator[Sample | LostSample]:
    """Yield one item for each row that says `success`: members in the tar's order, then the lost ones by key.

    `pictures` is the stem of another tar that has them: the part's, once the shard's own is deleted. `extra` names the
    list's columns that are read, by their names in the list.

    Raises: ShardError when the parquet is missing or not a shard's (the shard was never finished), or the tar is
    missing; StoreError when the store stops giving it: what a second reading may give is not lost.
    """
    rows = _success_rows(store, output, list_names(extra, SHARD_SCHEMA.names))
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
            f"{path} cannot be read, and its parquet is there ({error}): if its pictures' time was over, "
            "write the list of what exists anew (tracker manifest); else download the batch again."
        ) from error


def _success_rows(store: Store, output: str, extra: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """Read the rows by key, in the order of the keys; `extra` are the list's columns, by their names in the list."""
    try:
        table = store.read_table(f"{output}.parquet", [*_SAMPLE_COLUMNS, "outcome", *extra.values()])
        table = table.filter(pc.equal(table["outcome"], Outcome.SUCCESS.value)).sort_by("key")
        rows = table.select(_SAMPLE_COLUMNS).to_pylist()
        told = table.select([*extra.values()]).rename_columns([*extra]).to_pylist() if extra else [{}] * len(rows)
    except (StoreError, pa.ArrowException, KeyError) as error:
        raise ShardError(f"{output}.parquet is no shard's table ({error}): download the batch again.") from error
    return {row["key"]: row | {"extra": values} for row, values in zip(rows, told, strict=True)}


def _sample(row: Mapping[str, object], image: bytes) -> Sample:
    return Sample(image=image, **row)  # type: ignore[arg-type]  # SHARD_SCHEMA has the types


_SAMPLE_COLUMNS = [name.name for name in fields(Sample) if name.name in SHARD_SCHEMA.names]


def _lost(row: Mapping[str, object], reason: str) -> LostSample:
    return LostSample(key=str(row["key"]), url=str(row["url"]), caption=str(row["caption"]), reason=reason)
