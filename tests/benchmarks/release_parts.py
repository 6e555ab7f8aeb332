"""Parts like those of a crawl, made by columns: 10 million rows in two minutes."""

import json
from collections.abc import Iterator
from pathlib import Path

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.parts import PART_SCHEMA
from dataset.store.store import Store
from tests.manifests import put_manifest
from tests.parts import MODELS, TAGS

PART_ROWS = 1_200
BLOCK_PARTS = 100
AGAIN = 0.03
"""Share of rows that are another row's pair again, as when two crawls meet the same page."""
SHARES = {"en": 0.42, "multi": 0.38, "nolang": 0.20}  # LAION-5B: 2.3, 2.2 and 1.3 billion
LANGUAGES = ("ru", "fr", "de", "es", "zh", "ja", "it", "pt", "nl", "pl")

Integers = npt.NDArray[np.int64]

_LETTERS = np.array(list("eeeeetttaaaooiinnsshhrrddlucmwfgypbvk"))
_WORDS = 30_000
_HOSTS = 300_000
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def put_parts(folder: Path, rows: int, *, sha1: bool = False) -> Store:
    """Return a store with a run `crawl` of about `rows` rows, with or without their sha1; it is made once."""
    store = Store.open(str(folder))
    if store.exists("manifest.parquet"):
        return store
    listed = []
    draw = np.random.default_rng(8)
    for number, table in enumerate(_parts(rows)):
        if sha1:
            table = table.set_column(table.column_names.index("sha1"), "sha1", _digests(draw, len(table), 20))
        stem = f"crawl/parts/{number:010d}"
        metadata = {"shoal.recipe": "r", "shoal.models": json.dumps(MODELS), "shoal.tags": json.dumps(TAGS)}
        place = folder / f"{stem}.parquet"
        place.parent.mkdir(parents=True, exist_ok=True)
        pa.parquet.write_table(table.replace_schema_metadata(metadata), place, compression="zstd")
        listed.append({"kind": "part", "run": "crawl", "path": stem, "rows": len(table), "bytes": place.stat().st_size})
    put_manifest(store, listed)
    return store


def _parts(rows: int) -> Iterator[pa.Table]:
    """Yield parts: of one subset each, in blocks that are made at once."""
    draw = np.random.default_rng(7)
    words = {subset: _vocabulary(draw, subset) for subset in SHARES}
    hosts = _host_names(draw, words["en"])
    number = 0
    while number * PART_ROWS < rows:
        subset = str(draw.choice(list(SHARES), p=list(SHARES.values())))
        parts = min(BLOCK_PARTS, -(-rows // PART_ROWS) - number)
        block = _block(draw, subset, parts * PART_ROWS, number, words, hosts)
        for at in range(parts):
            yield block.slice(at * PART_ROWS, PART_ROWS)
        number += parts


def _block(
    draw: np.random.Generator, subset: str, n: int, number: int, words: dict[str, pa.Array], hosts: pa.Array
) -> pa.Table:
    again = np.where(draw.random(n) < AGAIN, draw.integers(0, n, n), np.arange(n))
    host = hosts.take(pa.array(_zipf(draw, n, _HOSTS)))
    path = _sentences(draw, words["en"], n, 1, 4, "-")
    year, image = draw.integers(2010, 2026, n), draw.integers(0, 10**7, n)
    url = pc.binary_join_element_wise(
        "https://", host, "/wp-content/uploads/", _text(year), "/", path, "-", _text(image), ".jpg", ""
    ).take(pa.array(again))
    text = _sentences(draw, words[subset], n, 3, 22, " ").take(pa.array(again))
    pairs = pc.binary_join_element_wise(url, text, "").cast(pa.binary()).to_pylist()
    jobs = np.repeat(np.arange(number, number + n // PART_ROWS), PART_ROWS)
    columns = {
        "URL": url,
        "TEXT": text,
        "WIDTH": draw.choice([300, 400, 500, 600, 640, 800, 1000, 1024, 1200, 1920], n) + draw.integers(0, 2, n) * 24,
        "HEIGHT": draw.choice([225, 300, 400, 480, 600, 768, 1080], n) + draw.integers(0, 300, n),
        "LANGUAGE": _languages(draw, subset, n),
        "similarity": 0.28 + draw.exponential(0.03, n),
        "pwatermark": draw.random(n) ** 3,
        "punsafe": draw.random(n) ** 6,
        "aesthetic": draw.normal(5, 1, n),
        "hash": [mmh3.hash64(pair, signed=True)[0] for pair in pairs],
        "subset": pa.array([subset]).take(pa.array(np.zeros(n, np.int64))),
        "sha256": _digests(draw, n, 32),
        "md5": _digests(draw, n, 16),
        "sha1": pa.nulls(n, pa.string()),
        "pdq": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), n, [None, pa.py_buffer(draw.bytes(n * 32))]),
        "dhash": draw.integers(-(2**63), 2**63 - 1, n),
        "final_host": host,
        "fetched": pa.array(1_760_000_000_000 + jobs * 1000).cast(pa.timestamp("ms", "UTC")),
        "key": pc.utf8_lpad(_text(jobs * 100_000 + np.arange(n) % PART_ROWS), 15, "0"),
        "pack": draw.integers(0, 10**6, n),
        "pack_row": draw.integers(0, 10**5, n),
        "shard": pc.binary_join_element_wise("crawl/shards/", _text(jobs), "-0b5e9f54", ""),
    }
    return pa.table({name: pa.array(values) if isinstance(values, list | np.ndarray) else values
                     for name, values in columns.items()}).cast(PART_SCHEMA)  # fmt: skip


def _vocabulary(draw: np.random.Generator, subset: str) -> pa.Array:
    letters = _LETTERS if subset == "en" else np.array(list("оеаинтсрвлкмдпуяыьгзбчйхжшюцщэ" + "éèüöäßñçaeiounrst"))
    return pa.array(["".join(draw.choice(letters, size)) for size in draw.integers(2, 11, _WORDS)])


def _host_names(draw: np.random.Generator, words: pa.Array) -> pa.Array:
    names = words.take(pa.array(draw.integers(0, _WORDS, _HOSTS)))
    endings = pa.array([".com", ".co.uk", ".de", ".org", ".ru", ".blogspot.com"])
    return pc.binary_join_element_wise(
        "www.", names, _text(np.arange(_HOSTS)), endings.take(pa.array(draw.integers(0, 6, _HOSTS))), ""
    )


def _sentences(draw: np.random.Generator, words: pa.Array, n: int, low: int, high: int, between: str) -> pa.Array:
    sizes = draw.integers(low, high, n)
    drawn = words.take(pa.array(_zipf(draw, int(sizes.sum()), _WORDS)))
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), drawn), between)


def _zipf(draw: np.random.Generator, n: int, size: int) -> Integers:
    ranks: Integers = np.minimum(size ** draw.random(n), size).astype(np.int64) - 1
    return ranks


def _languages(draw: np.random.Generator, subset: str, n: int) -> pa.Array:
    if subset == "nolang":
        return pa.nulls(n, pa.string())
    names = pa.array(["en"] if subset == "en" else LANGUAGES)
    return names.take(pa.array(_zipf(draw, n, len(names)) if subset == "multi" else np.zeros(n, np.int64)))


def _digests(draw: np.random.Generator, n: int, size: int) -> pa.Array:
    data = np.frombuffer(draw.bytes(n * size), np.uint8)
    digits = np.stack([_HEX[data >> 4], _HEX[data & 15]], axis=1).tobytes()
    offsets = np.arange(n + 1, dtype=np.int32) * (size * 2)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(digits))


def _text(numbers: Integers) -> pa.Array:
    return pa.array(numbers).cast(pa.string())
