"""A table that was made to have the LAION-5B post's numbers, 100,000 to 1, gives them back.

Source: laion.ai/blog/laion-5b: rows, both sides ≥ 256, 512 and 1024, unsafe and watermark shares, mean caption length
of LAION-2B-en; the most frequent languages of LAION-2B-multi. Every value lies on the edge of what is counted.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.stats.figures import all_figures
from dataset.stats.gather import gather
from dataset.stats.units import units_of_folder
from dataset.store.store import Store

EN = 23_200
AT_LEAST = {1024: 760, 512: 4_880, 256: 13_240}
UNSAFE, WATERMARK = 673, 1_415  # 2.9 and 6.1 percent
LANGUAGES = {"ru": 2_410, "fr": 1_680, "de": 1_500, "es": 1_490, "zh": 1_430, "ja": 1_310, "it": 950, "pt": 880}


def english() -> pa.Table:
    """Return LAION-2B-en's numbers; thresholds are exceeded by one step of float32, or met and not exceeded."""
    sides = np.full(EN, 255)
    for side in sorted(AT_LEAST):
        sides[: AT_LEAST[side]] = side
    longer = np.where(sides == 255, 4_000, sides)
    wide = np.arange(EN) % 2 == 0
    unsafe = np.full(EN, 0.5, np.float32)
    unsafe[:UNSAFE] = np.nextafter(np.float32(0.5), np.float32(1))
    watermark = np.full(EN, 0.8, np.float32)
    watermark[-WATERMARK:] = np.nextafter(np.float32(0.8), np.float32(1))
    return pa.table(
        {
            "URL": [f"https://example.org/{number}.jpg" for number in range(EN)],
            "TEXT": ["é" * (34 if number % 2 else 100) for number in range(EN)],
            "WIDTH": pa.array(np.where(wide, longer, sides), pa.int32()),
            "HEIGHT": pa.array(np.where(wide, sides, longer), pa.int32()),
            "similarity": np.linspace(0.28, 0.48, EN),
            "hash": np.arange(EN),
            "pwatermark": watermark,
            "punsafe": unsafe,
        }
    )


def multilingual() -> pa.Table:
    names = [language for language, rows in LANGUAGES.items() for _ in range(rows)]
    return pa.table({"URL": ["https://example.org/"] * len(names), "LANGUAGE": names})


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("laion")
    for name, table in (("laion2B-en", english()), ("laion2B-multi", multilingual())):
        (folder / name).mkdir()
        pq.write_table(table, folder / name / "part-00000.snappy.parquet", compression="snappy")
    store = Store.open(str(folder), writable=False)
    return all_figures(gather(store, units_of_folder(store)))


def test_rows_and_sizes(figures: dict[str, Any]) -> None:
    en = figures["subsets"]["en"]
    assert en["rows"] == EN
    assert {side: en["sizes"]["both_at_least"][str(side)]["rows"] for side in AT_LEAST} == AT_LEAST
    assert en["sizes"]["either_at_least"]["1024"]["rows"] == EN - 13_240 + 760


def test_shares_and_means(figures: dict[str, Any]) -> None:
    en = figures["subsets"]["en"]
    assert (en["unsafe"]["rows"], round(100 * en["unsafe"]["share"], 1)) == (UNSAFE, 2.9)
    assert (en["watermark"]["rows"], round(100 * en["watermark"]["share"], 1)) == (WATERMARK, 6.1)
    assert en["text"]["characters"]["mean"] == 67
    assert en["text"]["bytes"]["mean"] == 134


def test_quantiles(figures: dict[str, Any]) -> None:
    quantiles = figures["subsets"]["en"]["similarity"]["quantiles"]
    assert [quantiles[q] for q in ("0.05", "0.50", "0.95")] == [0.29, 0.38, 0.47]
    assert figures["subsets"]["en"]["text"]["characters"]["quantiles"]["0.50"] == 34


def test_languages(figures: dict[str, Any]) -> None:
    found = {each["language"]: each["rows"] for each in figures["subsets"]["multi"]["languages"]}
    assert list(found.items()) == list(LANGUAGES.items())
    assert [(each["language"], each["rows"]) for each in figures["subsets"]["en"]["languages"]] == [("en", EN)]
