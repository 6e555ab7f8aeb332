"""Compare `dataset publish` with DuckDB: from the parts of a crawl to sorted parquet, each pair once.

    python -m tests.benchmarks.bench_release [--rows 10000000] [--memory 1.0] [--folder .shoal/bench-release]

The parts are made once, 1,200 rows each (release_parts.py). Both sides read them with two threads or processes and the
same memory limit, keep the row with the best similarity of each hash, and write zstd 3 in groups of 100,000 rows,
sorted by hash. DuckDB writes one table with all of the columns; publish writes data, extended and source files, ids,
hosts and the counts of its statistics besides, and screens URLs and captions. Peaks are what all processes hold
(PSS). The last line is JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from dataset.formats.releases import FileKind, open_release
from dataset.store.store import Store
from tests.benchmarks import bench_stats
from tests.benchmarks.memory import tree_pss
from tests.benchmarks.release_parts import put_parts

NAME = "bench"
PROCESSES = 2
LEFT_OUT = ("shard", "pack", "pack_row")  # columns that a release has not

DUCKDB = """
import sys, duckdb
parts, out, scratch, gib, processes = sys.argv[1:6]
connection = duckdb.connect()
connection.execute(f"SET threads = {processes}; SET memory_limit = '{gib}GiB'; SET temp_directory = '{scratch}'")
connection.execute("SET enable_progress_bar = false")
connection.execute("SET preserve_insertion_order = false")
connection.execute(f\"\"\"
    COPY (
        SELECT * EXCLUDE (LEFT_OUT) FROM read_parquet('{parts}/*.parquet')
        QUALIFY row_number() OVER (PARTITION BY hash ORDER BY similarity DESC, key) = 1
        ORDER BY hash
    ) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, ROW_GROUP_SIZE 100000)
\"\"\")
""".replace("LEFT_OUT", ", ".join(LEFT_OUT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--memory", type=float, default=1.0, help="GiB for either side")
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-release"))
    asked = parser.parse_args()
    folder = asked.folder / str(asked.rows)
    store = put_parts(folder, asked.rows)
    parts = folder / "crawl" / "parts"
    rows = -(-asked.rows // 1_200) * 1_200
    print(f"{rows:,} rows in {sum(1 for _ in parts.iterdir()):,} parts")

    for made in ("releases", "publishing"):
        shutil.rmtree(folder / made, ignore_errors=True)
    command = ["-m", "dataset.main", "publish", NAME, "--input", "crawl", "--store", str(folder)]
    command += ["--workers", str(PROCESSES), "--memory", str(asked.memory)]
    ours = measure([sys.executable, *command])
    ours.report("publish", rows)

    out, scratch = folder / "duckdb.parquet", folder / "duckdb-scratch"
    script = [str(parts), str(out), str(scratch), str(asked.memory), str(PROCESSES)]
    theirs = measure([sys.executable, "-c", DUCKDB, *script])
    theirs.report("DuckDB", rows)
    print(json.dumps(compare(store, out, rows) | {
        "publish_vs_duckdb": round(theirs.seconds / ours.seconds, 3),
        "publish_peak_mib": round(ours.peak / 2**20),
        "publish_rows_per_s": round(rows / ours.seconds),
    } | bench_stats.measure(parts, repeats=1)))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command took: seconds by the clock and of CPU, and bytes that its processes held at most."""

    seconds: float
    cpu_seconds: float
    peak: int

    def report(self, name: str, rows: int) -> None:
        print(
            f"{name:<8} {self.seconds:8.1f} s {self.cpu_seconds:8.1f} CPU-s {rows / self.seconds:10,.0f} rows/s "
            f"{self.peak / 2**20:7,.0f} MiB",
            flush=True,
        )


def measure(command: list[str]) -> Measured:
    """Run a command to its end."""
    start, peak, before = time.perf_counter(), 0, _children_cpu()
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, tree_pss(process.pid))
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        sys.exit(f"{command[1:4]} failed")
    return Measured(time.perf_counter() - start, _children_cpu() - before, peak)


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compare(store: Store, table: Path, rows: int) -> dict[str, object]:
    """Check that both published the same number of pairs, and measure what a row of the release takes."""
    record = open_release(store, NAME).record
    published = sum(record.rows.values())
    theirs = pq.ParquetFile(table).metadata.num_rows
    dropped = record.batches[0].dropped
    if published + dropped["credentials"] + dropped["denied"] != theirs or published + sum(dropped.values()) != rows:
        sys.exit(f"publish has {published} rows and dropped {dropped}; DuckDB has {theirs}")
    size = sum(file.bytes for file in record.files if file.kind is FileKind.DATA)
    everything = sum(file.bytes for file in record.files)
    print(f"{size / published:.1f} bytes a row of data, {everything / published:.1f} of all files; "
          f"DuckDB's table {table.stat().st_size / theirs:.1f}")  # fmt: skip
    return {"rows": rows, "bytes_per_row": round(size / published, 1)}


if __name__ == "__main__":
    main()
