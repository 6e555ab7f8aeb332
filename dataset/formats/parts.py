"""Parts: the samples of one shard that passed the filter, and the scores of all its pairs.

Invariant: `<output>.parquet` and `<output>.scores.parquet` are each written whole or not at all, the part last; so
where a part exists, its scores exist. Rows are in the order of their keys, and nothing in the files depends on when or
where they were written, so filtering a shard twice on one machine gives the same bytes.

Source: names and types from URL to hash are LAION's; `hash` joins a part with its scores and with LAION's own files.

A row contains all that a release needs, so that publishing never reads a shard: the hashes of the picture, where and
when it was fetched, where its link came from, and, after PART_SCHEMA's columns, those of a link list.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

import mmh3
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.embeddings import (
    PairEmbeddings,
    count_removed,
    delete_embeddings,
    embeddings_bytes,
    remove_embeddings,
    write_embeddings,
)
from dataset.recipe.extra_columns import list_fields, list_names
from dataset.store.store import Store


class Verdict(StrEnum):
    """The filter's decision about a pair."""

    KEPT = "kept"
    BELOW_THRESHOLD = "below_threshold"
    UNDECODABLE = "undecodable"
    """Its picture cannot be decoded, so it has no similarity."""
    UNREADABLE = "unreadable"
    """The shard's row says success, but its tar breaks off or lacks the picture."""
    WITHOUT_DIRECTION = "without_direction"
    """The model returned no finite embedding, so it has no similarity; a part contains no NaN."""
    UNSAFE_MINOR = "unsafe_minor"
    """A safety rule applies: sexual content with a minor."""
    UNSAFE_ANIMAL = "unsafe_animal"
    UNSAFE = "unsafe"
    """One of the operator's own safety rules applies."""
    RESTRICTED = "restricted"
    """The picture is on a hash list."""


REMOVED = frozenset({Verdict.UNSAFE_MINOR, Verdict.UNSAFE_ANIMAL, Verdict.UNSAFE, Verdict.RESTRICTED})
"""Verdicts whose samples leave only a count: no row, key, hash or picture."""


PART_SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),  # of the picture as received
        ("HEIGHT", pa.int32()),
        ("LANGUAGE", pa.string()),  # null if the language is not known with confidence
        ("similarity", pa.float64()),
        ("pwatermark", pa.float64()),  # null without a head for it
        ("punsafe", pa.float64()),
        ("aesthetic", pa.float64()),
        ("hash", pa.int64()),
        ("subset", pa.string()),
        ("sha256", pa.string()),  # this and the next two: of the bytes as received, in hex
        ("md5", pa.string()),
        ("sha1", pa.string()),  # null if the recipe switches it off
        ("pdq", pa.binary(32)),  # null if the picture has too little contrast
        ("dhash", pa.int64()),
        ("final_host", pa.string()),  # the host that sent the picture, after redirects
        ("fetched", pa.timestamp("ms", tz="UTC")),  # when the shard was completed, to the second
        ("key", pa.string()),
        ("pack", pa.int64()),
        ("pack_row", pa.int32()),
        ("shard", pa.string()),
    ]
)

PRIVATE_COLUMNS = frozenset({"md5", "sha1"})
"""Columns that are never published. They are kept because hash lists have these hashes, and some lists come years
later.
"""

_RELEASE_NAMES = ("id", "input", "crawl", "date")
"""Columns that a release adds; a list's column with such a name is renamed in the part."""

SCORES_SCHEMA = pa.schema(
    [
        ("hash", pa.int64()),
        ("key", pa.string()),
        ("similarity", pa.float64()),  # null if undecodable
        ("reason", pa.string()),  # a Verdict
    ]
)


@dataclass(frozen=True, slots=True)
class KeptSample:
    """The fields that only a part's row needs; sizes in pixels, of the original."""

    width: int
    height: int
    language: str | None
    subset: str
    pack: int
    pack_row: int
    sha256: str | None = None
    md5: str | None = None
    sha1: str | None = None
    pdq: bytes | None = None
    dhash: int | None = None
    final_url: str | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    """A link list's other columns, by the list's own names."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A pair with its verdict. `sample` is None unless the verdict is `kept`; a column missing from `tags` is null."""

    key: str
    url: str
    text: str
    verdict: Verdict
    similarity: float | None = None
    sample: KeptSample | None = None
    embeddings: PairEmbeddings | None = None
    """Its embeddings, if the part keeps them."""
    tags: Mapping[str, float] = field(default_factory=dict)


def pair_hash(url: str, text: str) -> int:
    """Return LAION's `hash`: the first signed 64 bits of murmur3 x64 128, seed 0, of URL + TEXT in UTF-8."""
    return mmh3.hash64((url + text).encode("utf-8"), signed=True)[0]


def part_schema(extra: Mapping[str, str]) -> pa.Schema:
    """Return PART_SCHEMA followed by the columns of a list; `extra` maps their names to types, as in the recipe."""
    return pa.schema([*PART_SCHEMA, *list_fields(extra, _OWN_NAMES)])


def list_columns(schema: pa.Schema) -> list[pa.Field]:
    """Return the columns of a part that come from a link list."""
    return [column for column in schema if column.name not in PART_SCHEMA.names]


def write_part(
    store: Store,
    output: str,
    pairs: Iterable[ScoredPair],
    *,
    shard: str,
    metadata: Mapping[str, str],
    fetched: datetime | None = None,
    extra: Mapping[str, str] | None = None,
    embedded_by: Mapping[str, str] | None = None,
) -> None:
    """Write the part and the scores of a shard's pairs, in the order of their keys; pairs with a REMOVED verdict are
    left out.

    `fetched` is the time at which the shard was completed; `extra` maps the columns of a link list to their types. The
    `embeddings` of kept pairs are written to the folder `<output>.embeddings` (see `dataset.formats.embeddings`); its
    metadata also contain `embedded_by`.

    Raises: StoreError when the store cannot take a file; then neither file is left.
    """
    ordered = sorted((pair for pair in pairs if pair.verdict not in REMOVED), key=lambda pair: pair.key)
    hashes = [pair_hash(pair.url, pair.text) for pair in ordered]
    scores = pa.table(
        {
            "hash": hashes,
            "key": [pair.key for pair in ordered],
            "similarity": [pair.similarity for pair in ordered],
            "reason": [pair.verdict.value for pair in ordered],
        },
        schema=SCORES_SCHEMA,
    )
    with ExitStack() as undo:
        undo.callback(store.delete, f"{output}.scores.parquet")
        store.write_table(f"{output}.scores.parquet", scores, metadata)
        part = _part_table(ordered, hashes, shard, fetched, extra or {})
        rows = [pair.embeddings for pair in ordered if pair.embeddings is not None]
        if rows:
            undo.callback(delete_embeddings, store, output)
            about = part.drop_columns([*PRIVATE_COLUMNS])
            write_embeddings(store, output, rows, about, {**metadata, **(embedded_by or {})})
        store.write_table(f"{output}.parquet", part, metadata)
        undo.pop_all()


def remove_pairs(store: Store, output: str, keys: Collection[str]) -> int:
    """Remove the rows of samples from the scores, the embeddings and the part, the part last; return how many.

    The part's metadata say how many rows were removed in total, because the manifest still counts them.

    Raises: StoreError when a file cannot be written; the next call goes on from there.
    """
    wanted, removed = pa.array(sorted(keys), pa.string()), 0
    removed += remove_embeddings(store, output, keys)
    for path, counted in ((f"{output}.scores.parquet", False), (f"{output}.parquet", True)):
        if store.exists(path):
            table = store.read_table(path)
            gone = pc.is_in(table["key"], wanted)
            count = pc.sum(gone).as_py() or 0
            if count:
                metadata = count_removed(table.schema, count) if counted else None
                store.write_table(path, table.filter(pc.invert(gone)), metadata)
            removed += count
    return removed


def host_of(url: str) -> str | None:
    """Return the host of a URL in lower case, without port and credentials; None if it has none."""
    try:
        return urlsplit(url).hostname or None
    except ValueError:  # brackets without an IP address
        return None


def part_bytes(store: Store, output: str) -> int:
    """Return the bytes of a part with its embeddings, without its scores."""
    return store.size(f"{output}.parquet") + embeddings_bytes(store, output)


def _part_table(
    pairs: Sequence[ScoredPair],
    hashes: Sequence[int],
    shard: str,
    fetched: datetime | None,
    extra: Mapping[str, str],
) -> pa.Table:
    names = list_names(extra, _OWN_NAMES)
    rows = [
        {
            "URL": pair.url,
            "TEXT": pair.text,
            "WIDTH": pair.sample.width,
            "HEIGHT": pair.sample.height,
            "LANGUAGE": pair.sample.language,
            "similarity": pair.similarity,
            "pwatermark": pair.tags.get("pwatermark"),
            "punsafe": pair.tags.get("punsafe"),
            "aesthetic": pair.tags.get("aesthetic"),
            "hash": number,
            "subset": pair.sample.subset,
            "sha256": pair.sample.sha256,
            "md5": pair.sample.md5,
            "sha1": pair.sample.sha1,
            "pdq": pair.sample.pdq,
            "dhash": pair.sample.dhash,
            "final_host": host_of(pair.sample.final_url or pair.url),
            "fetched": fetched,
            "key": pair.key,
            "pack": pair.sample.pack,
            "pack_row": pair.sample.pack_row,
            "shard": shard,
        }
        | {column: pair.sample.extra.get(name) for name, column in names.items()}
        for pair, number in zip(pairs, hashes, strict=True)
        if pair.sample is not None
    ]
    return pa.Table.from_pylist(rows, schema=part_schema(extra))


_OWN_NAMES = (*PART_SCHEMA.names, *_RELEASE_NAMES)
