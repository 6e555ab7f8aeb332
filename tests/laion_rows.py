"""Made-up tables of image-text pairs, distributed much like LAION's: names and words by Zipf, sizes log-normal."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LANGUAGES = [
    "en",
    "ru",
    "fr",
    "de",
    "es",
    "zh",
    "ja",
    "it",
    "pt",
    "nl",
    "pl",
    *(f"l{number:02d}" for number in range(90)),
]


def laion_rows(rows: int, seed: int = 0) -> pa.Table:
    """Return a table with LAION's columns and types, some of its values null or NaN."""
    rng = np.random.default_rng(seed)
    words = pa.array(_words())

    def word() -> pa.Array:
        return words.take(pa.array((rng.zipf(1.4, rows) % len(words)).astype(np.int64)))

    def some(share: float) -> Any:
        return rng.random(rows) < share

    hashes = rng.integers(-(2**63), 2**63 - 1, rows)
    host = pa.array(rng.zipf(1.3, rows) % 200_000).cast(pa.string())
    url = _joined(
        "https://www.Host", host, ".example.com/wp-content/", word(), "/", pa.array(hashes).cast(pa.string()), ".jpg"
    )
    url = pc.if_else(pa.array(some(0.02)), _joined("http://10.0.0.1:8080/", word(), "?", word()), url)
    common = pa.array([f"common caption number {number}" for number in range(2_000)])
    text = _joined(*(part for _ in range(8) for part in (word(), " ")))
    text = pc.if_else(pa.array(some(0.05)), common.take(pa.array((rng.zipf(1.5, rows) % 2_000).astype(np.int64))), text)
    text = pc.if_else(pa.array(some(0.1)), _joined(text, " – große Übersicht 東京 🗼"), text)
    width = np.exp(rng.normal(6.2, 0.7, rows)).clip(0, 90_000).astype(np.int32)
    height = (width * np.exp(rng.normal(0, 0.35, rows))).clip(0, 90_000).astype(np.int32)
    width[some(0.001)] = 0
    languages = pa.array(LANGUAGES).take(pa.array((rng.zipf(1.5, rows) % len(LANGUAGES)).astype(np.int64)))
    unsafe = np.round(rng.beta(0.3, 5, rows), 4).astype(np.float32)
    unsafe[some(0.001)] = np.nan
    return pa.table(
        {
            "URL": url,
            "TEXT": pc.if_else(pa.array(some(0.002)), pa.scalar(None, pa.string()), text),
            "WIDTH": pa.array(width, mask=some(0.002)),
            "HEIGHT": height,
            "LANGUAGE": pc.if_else(pa.array(some(0.02)), pa.scalar(None, pa.string()), languages),
            "similarity": pa.array(0.26 + np.abs(rng.normal(0, 0.04, rows)), mask=some(0.003)),
            "hash": hashes,
            "pwatermark": np.round(rng.beta(0.5, 2, rows), 4).astype(np.float32),
            "punsafe": pa.array(unsafe, mask=some(0.01)),
            "aesthetic": rng.normal(5, 0.8, rows).astype(np.float32),
        }
    )


def _joined(*parts: Any) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _words() -> list[str]:
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (20_000, 10), dtype=np.uint8)
    return [bytes(row[: 3 + at % 8]).decode() for at, row in enumerate(letters)]
