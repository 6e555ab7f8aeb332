"""A deny list of many million sha256: filed, put into force, compared at each place, and applied.

    python -m tests.benchmarks.bench_deny_lists [--entries 16000000] [--folder …]

The list is a text file with the pictures of 3 rows of a small release among random digests. Of each step: seconds, CPU
seconds and peak memory (PSS) of a process of its own. The named rows have to be hidden, refused and removed, and no
others. The last line is JSON.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.releases import open_release
from dataset.formats.selections import read_selection
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from tests.benchmarks.bench_release import Measured, measure
from tests.takedowns import PER_SHARD, make_crawl, make_release, sample
from tracker.storage.deny_lists import read_deny_list
from tracker.storage.hash_lists import HashList, pack_numbers

ROWS = 6 * PER_SHARD
NAMED = (1, 30, 70)
LOOKED_UP = 100_000
HASHES = "hash_lists/bench.hashes"
_LINES = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=16_000_000)
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-deny-lists"))
    parser.add_argument("--step", choices=["register", "look-up"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        {"register": register, "look-up": look_up}[asked.step](Store.open(str(asked.folder)))
        return
    shutil.rmtree(asked.folder, ignore_errors=True)
    store = make_crawl(asked.folder)
    make_release(store)
    file = asked.folder / "list.txt"
    write_list(file, asked.entries)
    out = str(asked.folder / "selection")
    found: dict[str, object] = {"entries": asked.entries}
    steps: dict[str, Callable[[], Measured]] = {
        "add": lambda: dataset(store, "takedown", "add", "--file", str(file), "--kind", "sha256", "--reason", "bench"),
        "status": lambda: dataset(store, "takedown", "status"),
        "select": lambda: dataset(store, "select", "laion", "--where", "TRUE", "--out", out),
        "register": lambda: myself(store, "register"),
        "look-up": lambda: myself(store, "look-up"),
        "apply": lambda: dataset(store, "takedown", "apply"),
    }
    for name, step in steps.items():
        took = step()
        took.report(name, asked.entries)
        found[name] = [round(took.seconds, 1), round(took.cpu_seconds, 1), took.peak >> 20]
    selected = read_selection(Store.open(out)).rows
    left = sum(open_release(store, "laion").record.rows.values())
    if (selected, left) != (ROWS - len(NAMED),) * 2:
        sys.exit(f"{selected} rows were selected and {left} are left of {ROWS}, of which {len(NAMED)} are denied")
    found["list_bytes"] = sum(store.size(path) for path in list_deny_files(store))
    print(json.dumps(found))


def write_list(file: Path, entries: int) -> None:
    """Write a text file of sha256, most of them random."""
    draw = np.random.default_rng(1)
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{sample(seed)['sha256']}\n" for seed in NAMED)
        for start in range(len(NAMED), entries, _LINES):
            count = min(_LINES, entries - start)
            text = draw.bytes(32 * count).hex()
            lines.writelines(f"{text[at : at + 64]}\n" for at in range(0, 64 * count, 64))


def register(store: Store) -> None:
    """Make the hash list of the deny list, as `tracker serve` does."""
    (path,) = list_deny_files(store)
    data, counts = pack_numbers(read_deny_list(store.uri, path).numbers)
    HashList(HASHES, data, counts).write(store.uri)


def look_up(store: Store) -> None:
    """Load the hash list and compare pictures with it, as workers do."""
    lists = HashLists.load(store, HASHES)
    found = {seed for seed in range(ROWS) if lists.matches(sha256=sample(seed)["sha256"])}
    draw = np.random.default_rng(2)
    others = sum(lists.matches(sha256=draw.bytes(32).hex()) for _ in range(LOOKED_UP))
    if found != {*NAMED} or others:
        sys.exit(f"{sorted(found)} are refused, and {others} of {LOOKED_UP} others")


def dataset(store: Store, *command: str) -> Measured:
    return measure([sys.executable, "-m", "dataset.main", *command, "--store", store.uri])


def myself(store: Store, step: str) -> Measured:
    return measure([sys.executable, "-m", "tests.benchmarks.bench_deny_lists", "--step", step, "--folder", store.uri])


if __name__ == "__main__":
    main()
