"""Compare `dataset stats` with a DuckDB script of the same figures, on the same files, cores and memory.

    python -m tests.benchmarks.bench_stats [--rows 2000000] [--folder FOLDER]

Each side is a separate process, including its startup; both run twice in turn and the faster run of each counts. The
figures must be equal in every printed digit, distinct counts and most frequent values aside. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from tests.laion_rows import laion_rows

MEMORY = "1536MiB"
FILE_ROWS = 250_000
SKETCHED = {"captions", "hosts", "distinct"}

DUCKDB = """
import json, os, sys, duckdb
from tests.duckdb_figures import duckdb_figures
with duckdb.connect() as connection:
    connection.execute(f"SET threads = {len(os.sched_getaffinity(0))}")
    connection.execute(f"SET memory_limit = '{sys.argv[2]}'")
    connection.execute("SET enable_progress_bar = false")
    print(json.dumps(duckdb_figures(connection, f"read_parquet('{sys.argv[1]}/**/*.parquet')")))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One process: its output, wall and CPU seconds, and the most memory it held."""

    output: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_mib: float


def measure(folder: Path, repeats: int = 2) -> dict[str, Any]:
    """Return the figures of the benchmark for a folder of parquet files with LAION's columns."""
    ours_command = [sys.executable, "-m", "dataset.main", "stats", str(folder), "--json"]
    duckdb_command = [sys.executable, "-c", DUCKDB, str(folder), MEMORY]
    runs = [(_run(ours_command), _run(duckdb_command)) for _ in range(repeats)]
    ours = min((run for run, _ in runs), key=lambda run: run.seconds)
    duckdb = min((run for _, run in runs), key=lambda run: run.seconds)
    figures = ours.output["all"]
    unequal = sorted(name for name in figures.keys() - SKETCHED if figures[name] != duckdb.output[name])
    return {
        "stats_vs_duckdb": round(duckdb.seconds / ours.seconds, 2),
        "stats_rows": figures["rows"],
        "stats_seconds": round(ours.seconds, 2),
        "stats_cpu_seconds": round(ours.cpu_seconds, 2),
        "stats_peak_mib": round(ours.peak_mib),
        "duckdb_seconds": round(duckdb.seconds, 2),
        "duckdb_cpu_seconds": round(duckdb.cpu_seconds, 2),
        "duckdb_peak_mib": round(duckdb.peak_mib),
        "stats_unequal_figures": unequal,
    }


def _run(command: list[str]) -> Run:
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(command, stdout=output, env={**os.environ, "PYTHONPATH": "."}) as process,
    ):
        watched, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            with suppress(psutil.Error, subprocess.TimeoutExpired):
                peak, times = max(peak, watched.memory_info().rss), watched.cpu_times()
                process.wait(0.02)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise SystemExit(f"{command[2]} failed with {process.returncode}.")
        output.seek(0)
        return Run(json.load(output), seconds, times.user + times.system, peak / 2**20)


def make_tables(folder: Path, rows: int) -> None:
    """Write made-up tables of `rows` rows into a folder, once."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-rows // FILE_ROWS)):
        place = folder / f"part-{number:05d}.parquet"
        if not place.exists():
            table = laion_rows(min(FILE_ROWS, rows - number * FILE_ROWS), number)
            pq.write_table(table, place, compression="zstd", row_group_size=100_000)


def main() -> None:
    """Make the tables, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--folder", type=Path, help="Measure these files instead of made-up ones.")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(f".shoal/bench-stats-{arguments.rows}")
    if arguments.folder is None:
        make_tables(folder, arguments.rows)
    print(json.dumps(measure(folder)))


if __name__ == "__main__":
    main()
