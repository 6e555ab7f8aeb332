"""Compare extract with cc2dataset and with CLD3 alone, and ingest with a bare COPY.

    python -m tests.benchmarks.bench_extract [--pages 4000] [--rounds 5] [--packs 108]

Extract reads one generated WAT file (`wat_pages`); its candidates per CPU-second are compared with those of
cc2dataset's own function for a file, `process_wat`, in a separate virtual environment under .shoal/bench/. Ours are
cleaned, free of duplicates and written to parquet; theirs are tuples in memory, so the same file gives us fewer.
Therefore the time for the file is compared too. With language, the other side is CLD3 alone on the same texts.
`ingest_beside_copy` compares ingest with COPY. All sides take turns. For extract the best round of each side counts,
since disturbances only add CPU time; for ingest the median ratio counts. The last line is JSON.
"""

import argparse
import io
import json
import subprocess
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import gcld3
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.candidates.extract import TextRules, extract_pack
from dataset.candidates.language import MAX_BYTES, MIN_BYTES, Labels, Subset
from dataset.recipe.recipe import LanguageRule
from tests.benchmarks.ingest_beside_copy import measure_ingest
from tests.benchmarks.wat_pages import REPEATED, write_wat

FOLDER = Path(".shoal/bench")

# Runs under the environment's Python: a pass over the file for each line that it reads.
CC2DATASET = """
import json, sys, time
from loguru import logger
from cc2dataset.main import process_wat
logger.remove()
for _ in sys.stdin:
    start = time.process_time()
    rows = len(list(process_wat(sys.argv[1], "image")))
    print(json.dumps([rows, time.process_time() - start]), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--packs", type=int, default=108, help="of the WAT file's size, ingested in a round")
    asked = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    wat = FOLDER / "pages.warc.wat.gz"

    wat.write_bytes(write_wat(asked.pages, repeated=0.0))
    print("no caption is repeated")
    figures = {f"{name}_unrepeated": value for name, value in measure_extract(wat, asked.rounds).items()}
    wat.write_bytes(write_wat(asked.pages))
    print(f"{REPEATED:.0%} of a page's images have the caption of the image before")
    figures |= measure_extract(wat, asked.rounds)
    figures |= measure_ingest(FOLDER / "ingest", extracted(wat.read_bytes())[1], asked.packs, asked.rounds)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def measure_extract(wat: Path, rounds: int) -> Mapping[str, float]:
    """Let all sides read the file in turn -> ratios of candidates a CPU-second."""
    content = wat.read_bytes()
    texts = extracted(content)[1]["text"].to_pylist()
    detector = gcld3.NNetLanguageIdentifier(MIN_BYTES, MAX_BYTES)
    names = ("cc2dataset", "ours, no language", "ours", "CLD3 alone")
    rows: dict[str, int] = dict.fromkeys(names, len(texts))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with cc2dataset(wat) as theirs:
        for _ in range(rounds):
            rows["cc2dataset"], taken = read_once(theirs)
            seconds["cc2dataset"].append(taken)
            with patch("dataset.candidates.extract.classify_all", unlabelled):
                seconds["ours, no language"].append(extracted(content)[0])
            seconds["ours"].append(extracted(content)[0])
            start = time.process_time()
            for text in texts:
                detector.FindLanguage(text)
            seconds["CLD3 alone"].append(time.process_time() - start)
    best = {name: min(taken) for name, taken in seconds.items()}
    for name in names:
        print(f"  {name:18} {rows[name]:7,} rows  {best[name]:6.3f} CPU-s  {rows[name] / best[name]:8,.0f} rows/CPU-s")
    same_file = best["cc2dataset"] / best["ours, no language"]
    return {
        "extract_vs_cc2dataset": same_file * len(texts) / rows["cc2dataset"],
        "extract_vs_cc2dataset_same_file": same_file,
        "extract_vs_cld3": best["CLD3 alone"] / best["ours"],
        "extract_per_cpu_second": len(texts) / best["ours, no language"],
        "extract_with_language_per_cpu_second": len(texts) / best["ours"],
        "texts_repeated": 1 - len(set(texts)) / len(texts),
    }


def extracted(content: bytes) -> tuple[float, pa.Table]:
    """Extract a WAT file -> CPU-seconds, and its pack."""
    file = io.BytesIO()

    @contextmanager
    def write(slot: int) -> Iterator[BinaryIO]:
        assert slot == 0
        yield file

    start = time.process_time()
    extract_pack(io.BytesIO(content), wat="pages", rules=TextRules(), slots=1, write=write)
    seconds = time.process_time() - start
    return seconds, pq.read_table(pa.py_buffer(file.getvalue()))


def unlabelled(texts: pa.Array, rule: LanguageRule) -> Labels:
    """Stand in for `classify_all` where language is left out."""
    n = len(texts)
    return Labels(pa.repeat(Subset.NOLANG.value, n), pa.nulls(n, pa.string()), pa.nulls(n, pa.float32()))


@contextmanager
def cc2dataset(wat: Path) -> Iterator[subprocess.Popen[str]]:
    """Start cc2dataset in an environment of its own, which is made at first."""
    environment = FOLDER / "cc2dataset"
    python = environment / "bin" / "python"
    if not python.exists():
        venv.create(environment, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "cc2dataset"], check=True, stderr=subprocess.DEVNULL)
    command = [str(python), "-c", CC2DATASET, str(wat)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def read_once(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Read the file once with cc2dataset; return rows and CPU-seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    rows, seconds = json.loads(process.stdout.readline())
    return rows, seconds


if __name__ == "__main__":
    main()
