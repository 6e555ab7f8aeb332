"""Compare Shoal's Bloom filter with `rbloom`, the fastest on PyPI: from a pack's URLs to the mask of new ones.

    python -m tests.benchmarks.bench_bloom [--keys 1000000] [--rate 0.001]

`rbloom` is not a dependency: it is installed into a virtual environment of its own under .shoal/, and runs there beside
this one's packages. It is measured with Python's own `hash`, its fastest, whose filters no other process can use, and
with XXH3-128, which can be saved as ours can. Both sides begin with Arrow columns, as packs are read, and add what is
new. One half of the URLs are duplicates of the other. The last line is JSON.
"""

import argparse
import io
import json
import os
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from dataset.formats.url_hashes import url_hashes
from dataset.ingest.bloom import BloomFilter
from tests.dataset.ingest.rates import estimated_rate

ENVIRONMENT = Path(".shoal/bench-rbloom")
PACK_ROWS = 100_000
REPEATS = 3

# Runs under ENVIRONMENT's Python; reads the two numbers as arguments and prints one JSON object a hash function.
RBLOOM = """
import json, sys, time
import pyarrow as pa, xxhash
from rbloom import Bloom
keys, rate, pack_rows, repeats = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
urls = pa.array([URL.format(host=i % 9973, image=i) for i in range(keys)] * 2)
others = [URL.format(host=i % 9973, image=-1 - i) for i in range(keys)]
def xxh3(url):
    return xxhash.xxh3_128_intdigest(url.encode()) - 2**127
def first_seen_and_add(bloom, pack):
    mask = []
    for url in pack:
        new = url not in bloom
        mask.append(new)
        if new:
            bloom.add(url)
    return mask
for name, function in (("hash", hash), ("xxh3", xxh3)):
    best = float("inf")
    for _ in range(repeats):
        bloom = Bloom(keys, rate, function)
        start = time.perf_counter()
        for at in range(0, len(urls), pack_rows):
            first_seen_and_add(bloom, urls[at : at + pack_rows].to_pylist())
        best = min(best, time.perf_counter() - start)
    found = sum(url in bloom for url in others)
    print(json.dumps({"hash": name, "keys_per_second": len(urls) / best, "bytes": bloom.size_in_bits // 8,
                      "measured_rate": found / keys}))
"""
URL = "https://host{host}.example.com/wp-content/uploads/2023/{image}/picture.jpg"

Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=0.001)
    asked = parser.parse_args()
    ours = measure_ours(asked.keys, asked.rate)
    report("ours", ours)
    grown = measure_ours(asked.keys, asked.rate, capacity=max(1, asked.keys // 16))
    report("ours, grown from 1/16", grown)
    theirs = {str(row["hash"]): row for row in measure_rbloom(asked.keys, asked.rate)}
    for name, row in theirs.items():
        report(f"rbloom, {name}", row)
    speed = float(ours["keys_per_second"])
    ratios = {name: round(speed / float(row["keys_per_second"]), 2) for name, row in theirs.items()}
    for name, ratio in ratios.items():
        print(f"ours / rbloom with {name}: {ratio:.2f}")
    print(json.dumps({"ours": ours, "grown": grown, "rbloom": theirs, "ratio": ratios}))


def measure_ours(keys: int, rate: float, capacity: int | None = None) -> dict[str, float]:
    urls = pa.array([URL.format(host=i % 9973, image=i) for i in range(keys)] * 2)
    others = url_hashes([URL.format(host=i % 9973, image=-1 - i) for i in range(keys)])

    def ingest() -> BloomFilter:
        bloom = BloomFilter(capacity or keys, rate)
        for start in range(0, len(urls), PACK_ROWS):
            hashes = url_hashes(urls[start : start + PACK_ROWS])
            new = bloom.first_seen(hashes)
            bloom.add(hashes[new])
        return bloom

    seconds, bloom = fastest(ingest)
    hashes = url_hashes(urls)
    contains_seconds, _ = fastest(lambda: bloom.contains(hashes))
    save_seconds, snapshot = fastest(lambda: saved(bloom))
    load_seconds, _ = fastest(lambda: BloomFilter.load(io.BytesIO(snapshot)))
    return {
        "keys_per_second": len(urls) / seconds,
        "contains_per_second": len(urls) / contains_seconds,
        "save_bytes_per_second": len(snapshot) / save_seconds,
        "load_bytes_per_second": len(snapshot) / load_seconds,
        "bytes": bloom.size_bytes,
        "measured_rate": float(np.mean(bloom.contains(others))),
        "estimated_rate": estimated_rate(bloom),
    }


def measure_rbloom(keys: int, rate: float) -> Iterator[dict[str, float]]:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        venv.create(ENVIRONMENT, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "rbloom"], check=True)
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib")}
    program = RBLOOM.replace("URL", repr(URL))
    command = [str(python), "-c", program, str(keys), str(rate), str(PACK_ROWS), str(REPEATS)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    for line in finished.stdout.splitlines():
        yield json.loads(line)


def fastest(work: Callable[[], Result]) -> tuple[float, Result]:
    """Run it REPEATS times -> the shortest time in seconds, and the last result."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def saved(bloom: BloomFilter) -> bytes:
    file = io.BytesIO()
    bloom.save(file)
    return file.getvalue()


def report(name: str, row: dict[str, float]) -> None:
    print(
        f"{name:24} {row['keys_per_second'] / 1e6:6.2f}M URLs/s  {row['bytes'] / 1e6:7.2f} MB  "
        f"false positives {row['measured_rate']:.6f}"
    )


if __name__ == "__main__":
    main()
