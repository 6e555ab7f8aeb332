"""Compare the download worker with img2dataset: the same links of the same server, in turn within one run.

    python -m tests.benchmarks.bench_download [--links 8000] [--turns 2] [--connections 64] [--batches 3]

Each side runs in processes of its own: ours through `download_batch`, img2dataset in a virtual environment under
.shoal/bench/ that this script makes. Both write WebDataset shards with a parquet into a folder. What is compared is
CPU time, user and system, of all processes of a side in a whole run; and the same less what the side takes for
START_LINKS links, because img2dataset spends 5 seconds on imports, which a long run does not notice (the keys that end
in _less_start). Memory is PSS over the side's process tree, its peak.

Measured on 2026-11-21 with 8,000 links, two quiet cores, Python 3.11: without reencoding 1,722 images per CPU-second to
404 (4.26 times; 3.85 less the start), resized to 256 299 to 174 (1.72; 1.59), and in an earlier run 305 to 197. Peak
223 MiB at 512 connections; slow web 56 s. What is out of reach: 2.25 times with resizing would be 2.3 ms a picture. Of
ours, 0.6 are fetching and writing, 1.9 the picture, 0.3 its way to another process and back; and of the 1.9 undoing the
Huffman coding alone is 0.8 (see `dataset.pictures.jpeg`), where img2dataset's whole picture takes 2.9.

Besides: our worker alone with 512 connections and 10,000 links a batch, batch after batch (peak_mib); what it holds
after each of 20 shorter ones (growth_mib, from the fifth to the last); and a slow web of which a fifth never answers
and a tenth has no name (slow_web_seconds). All of it counts the processes that decode. At the end, what a shrunk
picture is worth (ours_ssim, img2dataset_ssim). The last line is JSON.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.bench_download_quality import measure_quality
from tests.benchmarks.bench_download_web import describe, paint_pictures, picture_url, web_server
from tests.benchmarks.memory import tree_pss

HOME = Path(".shoal/bench")
START_LINKS = 64
SAMPLE_SECONDS = 0.25
MODES = ("no_reencode", "resize_256")

IMG2DATASET_MODES = {
    "no_reencode": ["--resize_mode", "no", "--disable_all_reencoding", "True"],
    "resize_256": ["--resize_mode", "keep_ratio", "--image_size", "256", "--resize_only_if_bigger", "True"],
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of one side took; `images` are those in the shards."""

    images: int
    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", type=int, default=8_000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--no-keep-alive", action="store_true", help="the server ends each connection")
    parser.add_argument("--batches", type=int, default=3, help="of 10,000 links at 512 connections, for the peak")
    parser.add_argument("--short-batches", type=int, default=20, help="of 2,000 links at 512 connections, for growth")
    asked = parser.parse_args()
    pictures = HOME / "pictures"
    paint_pictures(pictures)
    print(describe(pictures))
    with web_server(HOME / "nginx", pictures, keep_alive=not asked.no_keep_alive) as port:
        result = {name: ratio for mode in MODES for name, ratio in compare(mode, port, asked).items()}
        result["peak_mib"] = peak_of_batches(port, asked.batches)
        result["growth_mib"] = growth_over_batches(port, asked.short_batches)
    result["slow_web_seconds"] = slow_web()
    result |= measure_quality(pictures)
    print(json.dumps(result))


def compare(mode: str, port: int, asked: argparse.Namespace) -> dict[str, float]:
    """Measure both sides, turn by turn; return how many times our images per CPU-second are img2dataset's."""
    print(f"\n{mode}: {asked.links} links, {asked.connections} connections, one process a side")
    sides = {"ours": ours, "img2dataset": img2dataset}
    starts = dict.fromkeys(sides, math.inf)
    whole = dict.fromkeys(sides, math.inf)
    for name, run in sides.items():
        print(f"  {name:12} peak {run(mode, port, asked.links, asked.connections, is_watched=True).peak_mib:5.0f} MiB")
    for _ in range(asked.turns):
        for name, run in sides.items():
            starts[name] = min(starts[name], run(mode, port, START_LINKS, asked.connections).cpu_seconds)
            took = run(mode, port, asked.links, asked.connections)
            if took.images != asked.links:
                raise SystemExit(f"{name} has {took.images} of {asked.links} images: its figures would mean nothing.")
            whole[name] = min(whole[name], took.cpu_seconds)
            print(
                f"  {name:12} {took.images / took.cpu_seconds:6.0f} images/CPU-s  {took.wall_seconds:6.1f} s  "
                f"start {starts[name]:.1f} CPU-s"
            )
    less = {name: whole[name] - starts[name] for name in sides}
    ratios = {
        f"ratio_{mode}": round(whole["img2dataset"] / whole["ours"], 2),
        f"ratio_{mode}_less_start": round(less["img2dataset"] / less["ours"], 2),
    }
    print(f"  ours / img2dataset: {', less its start: '.join(map(str, ratios.values()))}")
    return ratios


def ours(mode: str, port: int, links: int, connections: int, batches: int = 1, *, is_watched: bool = False) -> Run:
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        module = "tests.benchmarks.bench_download_worker"
        numbers = map(str, (port, links, connections, batches))
        return measure([sys.executable, "-m", module, folder, mode, *numbers], Path(folder), is_watched=is_watched)


def img2dataset(mode: str, port: int, links: int, connections: int, *, is_watched: bool = False) -> Run:
    environment = HOME / "img2dataset"
    program = environment / "bin" / "img2dataset"
    if not program.exists():
        venv.create(environment, with_pip=True)
        subprocess.run([environment / "bin" / "python", "-m", "pip", "install", "--quiet", "img2dataset"], check=True)
    with tempfile.TemporaryDirectory(dir=HOME) as folder:
        urls = [picture_url(port, number) for number in range(links)]
        pq.write_table(pa.table({"url": urls, "caption": ["a caption"] * links}), f"{folder}/urls.parquet")
        command = [str(program.absolute()), "--url_list", f"{folder}/urls.parquet", "--input_format", "parquet"]
        command += ["--url_col", "url", "--caption_col", "caption", "--output_format", "webdataset"]
        command += ["--output_folder", f"{folder}/out", "--processes_count", "1", "--thread_count", str(connections)]
        command += ["--number_sample_per_shard", "10000", "--enable_wandb", "False", *IMG2DATASET_MODES[mode]]
        return measure(command, Path(folder) / "out", is_watched=is_watched)


def measure(command: list[str], shards: Path, *, is_watched: bool) -> Run:
    """Run a side to its end; it must end well, and its shards lie below `shards`.

    Watching its memory costs it CPU time (the kernel walks its pages meanwhile), so the two are measured apart.
    """
    log = HOME / "side.log"
    began = time.monotonic()
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as side:
        peak = 0
        while True:
            pid, status, usage = os.wait4(side.pid, os.WNOHANG)
            if pid:
                side.returncode = os.waitstatus_to_exitcode(status)
                break
            if is_watched:
                peak = max(peak, tree_pss(side.pid))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.monotonic() - began
    if side.returncode:
        raise SystemExit(f"{command[0]} ended with {side.returncode}: see {log}")
    tables = [pq.read_table(path, columns=["status"]) for path in sorted(shards.rglob("*.parquet"))]
    images = sum(table["status"].to_pylist().count("success") for table in tables)
    return Run(images, usage.ru_utime + usage.ru_stime, seconds, peak / 2**20)


def peak_of_batches(port: int, batches: int) -> float:
    took = ours("resize_256", port, 10_000, 512, batches, is_watched=True)
    rate = took.images / took.cpu_seconds
    print(f"\n512 connections, {batches} x 10,000 links: peak {took.peak_mib:.0f} MiB, {rate:.0f} images/CPU-s")
    return round(took.peak_mib, 1)


def growth_over_batches(port: int, batches: int) -> float:
    """Return how much more the worker holds after its last batch than it held after the fourth part of them."""
    if batches < 4:
        return 0.0
    took = ours("resize_256", port, 2_000, 512, batches, is_watched=True)
    print(f"\n512 connections, {batches} x 2,000 links: peak {took.peak_mib:.0f} MiB; PSS after each batch, MiB:")
    after = [float(line.split()[-1]) for line in (HOME / "side.log").read_text().splitlines() if "pss_mib" in line]
    print("  " + " ".join(f"{mib:.0f}" for mib in after))
    return round(after[-1] - after[batches // 4 - 1], 1)


def slow_web() -> float:
    command = [sys.executable, "-m", "tests.benchmarks.bench_download_slow"]
    with (
        tempfile.TemporaryDirectory(dir=HOME) as folder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as web,
    ):
        assert web.stdout is not None
        try:
            ports = web.stdout.readline().split()
            module = "tests.benchmarks.bench_download_worker"
            took = measure([sys.executable, "-m", module, folder, "slow", *ports], Path(folder), is_watched=False)
        finally:
            web.terminate()
    print(f"slow web, 10,000 links: {took.images} images, {took.wall_seconds:.1f} s, {took.cpu_seconds:.1f} CPU-s")
    return round(took.wall_seconds, 1)


if __name__ == "__main__":
    main()
