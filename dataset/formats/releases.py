"""Releases: the paths, columns and record of a published dataset.

    releases/NAME/release.json                                      the record; a file not listed here is not part of it
    releases/NAME/data/{subset}/{batch}/train-00000-of-00012.parquet    URL, TEXT … as LAION has them, id, sha256
    releases/NAME/extended/…                                        row i has further columns of row i of the data file
    releases/NAME/variants/{variant}/{subset}/{batch}/…             the data file's rows for which a predicate holds
    releases/NAME/README.md  croissant.json  plots/                 the card, for people and for programs
    releases/NAME/source/…  ids/{subset}/{batch}.i64                private: where a row came from; hashes in id order

Invariant: `release.json` is written last, so a reader sees a whole version. Rows of a file are in the order of `hash`
(signed) and of `id`; the ids of a batch are dense, subset after subset. `ids/` holds the hashes of a batch in that
order as little-endian int64: id = the first id of the subset in the batch + the position.

Source: names, order and types of the data columns are LAION-5B's; LANGUAGE is a column of `multi` only, as there.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json, to_json
from dataset.formats.takedowns import applying_plan
from dataset.formats.versions import major_of
from dataset.recipe.extra_columns import arrow_type
from dataset.store.store import Store, StoreError

SUBSETS = ("en", "multi", "nolang")
FORMAT = 1
RECORD = "release.json"
CHECKSUMS = "SHA256SUMS"
HOSTS = "hosts.parquet"
README = "README.md"
CROISSANT = "croissant.json"
PLOTS = "plots"
STORES = "source/stores.json"
"""Private: where the stores of other trackers are. It is rewritten with each batch, before release.json."""
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
MAX_NAME = 100
"""The longest name of a release, batch or variant, in characters; each becomes the name of a folder."""
MAX_ID = 2**53
"""Ids are below this number, so that clients that read JSON numbers as doubles get them exactly."""
ROW_GROUP_ROWS = 100_000
"""Rows per group, 6 to 13 MB compressed: the Hub's viewer and DuckDB read one group for a page of rows."""


class ReleaseError(DatasetError):
    """A release cannot be read, or its record is damaged."""


class FileKind(StrEnum):
    """The content of a file of a release; the value is its folder."""

    DATA = "data"
    EXTENDED = "extended"
    VARIANT = "variants"
    SOURCE = "source"
    IDS = "ids"
    HOSTS = "stats/hosts"


PRIVATE = frozenset({FileKind.SOURCE, FileKind.IDS})
"""Kinds that must not be passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseInput:
    """A crawl that went into a release; its position among the inputs is the `input` of `source/` files."""

    store: str
    """'.' is the store that the release was published in; others are called store-1 …, and only STORES has their
    URIs.
    """
    run: str
    tracker: str
    parts: int
    rows: int
    recipe: str
    """Digest of the run's recipe; '' if its parts do not contain it."""
    models: Mapping[str, Mapping[str, Any]]
    """By role: name, threshold, sha256, config_sha256."""
    tags: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    """By role and tag: the head and its sha256; None if no head computes the tag."""
    columns: Mapping[str, str]
    """The link list's own columns with their types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputStores:
    """The content of STORES: the URIs of stores by their names in release.json."""

    format: int
    stores: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseOptions:
    """The publisher's choices, which later batches keep."""

    unique: tuple[str, ...]
    drop_contacts: bool
    mixed: bool
    variants: Mapping[str, str]
    rows_per_file: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CardDetails:
    """The publisher's details for README.md and croissant.json; '' where not given."""

    title: str = ""
    description: str = ""
    creator: str = ""
    contact: str = ""
    """A mail address or URL for requests for removal."""
    url: str = ""
    """The page of the release; a repository's, if it is on a hub."""
    license: str = "cc-by-4.0"
    """The license of links and metadata: an identifier of the Hugging Face Hub, or another name."""
    license_url: str = ""
    gate: str = ""
    """The terms that a user must accept before downloading from the hub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsetRows:
    """The rows of one subset in a batch: ids are first_id to first_id + rows - 1."""

    first_id: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseBatch:
    """The rows added by one publish. Input rows = rows of the subsets + dropped."""

    name: str
    version: str
    writer: str
    """The library that wrote its parquet files: a file's bytes depend on it."""
    inputs: tuple[int, ...]
    subsets: Mapping[str, SubsetRows]
    dropped: Mapping[str, int]
    contacts: Mapping[str, int]
    """Published rows with an e-mail address, or a phone number, in the caption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """A file, by its path in the release's folder."""

    path: str
    kind: FileKind
    subset: str
    batch: str
    variant: str | None
    rows: int
    bytes: int
    sha256: str
    first_id: int
    last_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """The content of release.json."""

    format: int
    name: str
    version: str
    previous: str | None
    published: str
    inputs: tuple[ReleaseInput, ...]
    options: ReleaseOptions
    card: CardDetails
    columns: Mapping[str, str]
    """The columns of `extended/` that came from link lists, with their types."""
    aesthetic: bool
    next_id: int
    batches: tuple[ReleaseBatch, ...]
    removed: Mapping[str, int]
    files: tuple[ReleaseFile, ...]

    def to_json(self) -> bytes:
        """Return release.json; equal records give equal bytes."""
        return to_json(self)

    @property
    def rows(self) -> Mapping[str, int]:
        """Rows of each subset, over all batches."""
        return {
            subset: sum(file.rows for file in self.files if file.kind is FileKind.DATA and file.subset == subset)
            for subset in SUBSETS
        }


@dataclass(frozen=True, slots=True)
class Release:
    """A release in a store; `folder` is '' when the store is the release's own folder."""

    store: Store
    folder: str
    record: ReleaseRecord

    def path(self, relative: str) -> str:
        """Return the path in the store of a path in the release."""
        return f"{self.folder}/{relative}" if self.folder else relative

    def input_uri(self, name: str) -> str:
        """Return the URI of an input's store; '.' is the release's own.

        Raises: ReleaseError when the release does not have it, as a copy without `source/`.
        """
        if name == ".":
            return name
        uri = read_input_stores(self.store, self.folder).get(name)
        if uri is None:
            raise ReleaseError(
                f"{self.record.name} was made from crawls of another store, {name}, whose place only {STORES} says: "
                "use the store that it was published in. Copies do not include source/, because it is private."
            )
        return uri

    def input_store(self, name: str) -> Store:
        """Open the store of an input.

        Raises: StoreError when it cannot be reached; ReleaseError when the record does not name it and this is not its
        folder.
        """
        if name == "." and not self.folder:
            raise ReleaseError(
                f"{self.record.name} was published in the store of its crawls, which is not known from the release's "
                "folder: give that store with --store, and the release by its name."
            )
        return open_input_store(self.store, self.input_uri(name))

    def batch(self, name: str) -> ReleaseBatch:
        """Return a batch.

        Raises: ReleaseError when there is none with this name.
        """
        for batch in self.record.batches:
            if batch.name == name:
                return batch
        names = ", ".join(batch.name for batch in self.record.batches)
        raise ReleaseError(f"{self.record.name} {self.record.version} has no batch {name}, only {names}.")

    def files(
        self, kind: FileKind, *, subset: str | None = None, batch: str | None = None, variant: str | None = None
    ) -> Iterator[ReleaseFile]:
        """Yield the files of a kind in the order of their ids."""
        for file in self.record.files:
            if (
                file.kind is kind
                and subset in (None, file.subset)
                and batch in (None, file.batch)
                and (kind is not FileKind.VARIANT or variant in (None, file.variant))
            ):
                yield file


def open_release(store: Store, name: str) -> Release:
    """Open the live version of the release `name` under `releases/` in the store; '' if the store itself is its folder.

    Raises: ReleaseError when there is none, or its record is not one this version of Shoal wrote.
    """
    folder = release_folder(name) if name else ""
    path = f"{folder}/{RECORD}" if folder else RECORD
    if not store.exists(path):
        raise ReleaseError(f"{path} is missing from the store {store.uri}: publish {name or 'the release'} first.")
    return Release(store, folder, read_record(store.read(path), path))


def recording_path(name: str) -> str:
    """Return the path that exists while a publish writes a version of a release."""
    return f"publishing/{name}/recording"


def publish_is_recording(store: Store, name: str) -> bool:
    """Return whether a publish is writing a version of a release, or was killed while it did."""
    return store.exists(recording_path(name))


def require_live(release: Release, version: str | None = None) -> None:
    """Check that no rows were removed from a release since it was opened (or since `version`), or are being removed.

    Call this before writing a record of anything that was derived from its rows, and hold the lock of the release's
    folder (`dataset.store.lock`) until it is written: an apply begins with waiting for that lock.

    Raises: ReleaseError when the work must be started again.
    """
    name, before = release.record.name, version or release.record.version
    live = open_release(release.store, name if release.folder else "").record.version
    if major_of(live) != major_of(before) or release.store.exists(applying_plan(name)):
        raise ReleaseError(
            f"Rows of {name} {before} were removed in the meantime: finish `dataset takedown apply {name}` if it is "
            "unfinished, and start again with --restart."
        )


def open_input_store(release_store: Store, uri: str) -> Store:
    """Open the store of an input; '.' is the release's own store.

    Raises: StoreError when it cannot be reached.
    """
    return release_store if uri == "." else Store.open(uri, writable=False)


def read_input_stores(store: Store, folder: str) -> dict[str, str]:
    """Return the URIs of the stores of a release's inputs by their names; {} for a copy without `source/`.

    Raises: ReleaseError when the file is damaged.
    """
    path = f"{folder}/{STORES}" if folder else STORES
    if not store.exists(path):
        return {}
    try:
        return dict(from_json(InputStores, store.read(path)).stores)
    except ValueError as error:
        raise ReleaseError(f"{path} cannot be read ({error}): restore it from a copy.") from error


def read_record(data: bytes, path: str = RECORD) -> ReleaseRecord:
    """Read release.json.

    Raises: ReleaseError when it is damaged or of another format.
    """
    try:
        found = json.loads(data)
        if isinstance(found, dict) and found.get("format") != FORMAT:
            raise ReleaseError(
                f"{path} has the format {found.get('format')}, not {FORMAT}: use the Shoal that wrote it."
            )
        return _check_possible(from_json(ReleaseRecord, data))
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{path} cannot be read ({error}): restore it from history/ or a copy.") from error


def _check_possible(record: ReleaseRecord) -> ReleaseRecord:
    """Raise ValueError for values that no valid release has, because paths, versions and ids are made from them."""
    for place, value, possible in _checks(record):
        if not possible:
            raise ValueError(f"{place} is {value!r}")
    return record


def _checks(record: ReleaseRecord) -> Iterator[tuple[str, Any, bool]]:
    """Yield the keys of a record with their values, and whether each value is valid."""
    yield "name", record.name, _is_name(record.name)
    yield "version", record.version, re.fullmatch(r"\d{1,9}(\.\d{1,9}){2}", record.version, re.ASCII) is not None
    yield "next_id", record.next_id, 0 <= record.next_id <= MAX_ID
    for at, batch in enumerate(record.batches):
        known = all(0 <= number < len(record.inputs) for number in batch.inputs)
        yield f"batches[{at}].inputs", batch.inputs, known
    for at, file in enumerate(record.files):
        yield f"files[{at}].path", file.path, not {"", ".", ".."} & set(file.path.split("/"))
        yield f"files[{at}].subset", file.subset, file.subset in SUBSETS
        yield f"files[{at}].rows", file.rows, 0 <= file.rows <= MAX_ID


def _is_name(name: str) -> bool:
    return bool(name) and not name.startswith(".") and set(name) <= NAME_CHARACTERS and len(name) <= MAX_NAME


def find_release(store: Store, name: str) -> Release | None:
    """Open a release; None when it has not been published yet.

    Raises: ReleaseError when its record cannot be read.
    """
    try:
        return open_release(store, name) if store.exists(f"{release_folder(name)}/{RECORD}") else None
    except StoreError as error:
        raise ReleaseError(f"The release {name} cannot be opened: {error}") from error


def release_folder(name: str) -> str:
    """Return the folder of a release in its store.

    Raises: ReleaseError for a name that cannot be a folder's.
    """
    if not _is_name(name):
        raise ReleaseError(
            f"{name[:MAX_NAME]!r} cannot name a release: use at most {MAX_NAME} letters, digits, '-', '_' and '.', not "
            "'.' first."
        )
    return f"releases/{name}"


def table_path(kind: FileKind, subset: str, batch: str, at: int, files: int, variant: str | None = None) -> str:
    """Return the path in the release of file `at` of `files`."""
    folder = f"{kind.value}/{variant}" if variant else kind.value
    return f"{folder}/{subset}/{batch}/train-{at:05d}-of-{files:05d}.parquet"


def ids_path(subset: str, batch: str) -> str:
    """Return the path in the release of the hashes of a subset's batch."""
    return f"{FileKind.IDS.value}/{subset}/{batch}.i64"


def checksum_list(sums: Mapping[str, str]) -> bytes:
    """Return SHA256SUMS, as `sha256sum --check` reads it, of files by path."""
    return "".join(f"{digest}  {path}\n" for path, digest in sorted(sums.items())).encode()


def history_path(version: str) -> str:
    """Return the path in the release of an earlier version's record."""
    return f"history/{version}.json"


def data_schema(subset: str, *, aesthetic: bool) -> pa.Schema:
    """Return the columns of `data/` and of variants."""
    fields = [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("LANGUAGE", pa.string()),
        ("similarity", pa.float64()),
        ("hash", pa.int64()),
        ("pwatermark", pa.float32()),
        ("punsafe", pa.float32()),
        ("aesthetic", pa.float32()),
        ("id", pa.int64()),
        ("sha256", pa.string()),  # in hex, of the bytes as they were received
    ]
    left_out = ({"LANGUAGE"} if subset != "multi" else set()) | (set() if aesthetic else {"aesthetic"})
    return pa.schema([field for field in fields if field[0] not in left_out])


def extended_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Return the columns of `extended/`; `columns` are those of link lists, by type."""
    return pa.schema(
        [
            ("id", pa.int64()),
            ("final_host", pa.string()),
            ("crawl", pa.string()),
            ("fetched", pa.timestamp("ms", "UTC")),
            ("pdq", pa.binary(32)),
            ("dhash", pa.int64()),
            *((name, arrow_type(kind)) for name, kind in columns.items()),
        ]
    )


SOURCE_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("input", pa.int16()),
        ("key", pa.int64()),
        ("md5", pa.binary(16)),
        ("sha1", pa.binary(20)),
    ]
)

HOSTS_SCHEMA = pa.schema(
    [
        ("domain", pa.string()),  # registrable domains, sorted by their bytes
        ("rows", pa.int64()),
        ("text_bytes", pa.int64()),  # size of the captions in UTF-8
        ("pixels", pa.int64()),
        ("punsafe", pa.float64()),  # mean over the rows that have it; null if none has
    ]
)

HOST_COUNTS_SCHEMA = pa.schema(
    [
        *(field for field in HOSTS_SCHEMA if field.name != "punsafe"),
        ("punsafe_sum", pa.float64()),
        ("punsafe_rows", pa.int64()),
    ]
)
"""The counts of one file; hosts.parquet has their sums."""
