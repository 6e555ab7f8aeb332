"""Throw hostile pictures at a download worker for a while.

    python -m tests.hostile.run [--minutes 5] [--seed 0]
    SHOAL_HOSTILE_CORPUS=folder python -m tests.hostile.run    # every file below the folder, once

With a folder its files are taken as they are: Pillow's test images or go-fuzz's corpora are worth a run. A picture that
ended its decoder is kept under .shoal/hostile/, named by its SHA-256, for whom it may concern. The end is 1 when the
worker died, hung, grew, or left a picture without its one outcome.
"""

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import trio

from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store
from tests.hostile.mutants import mutants
from tests.hostile.trial import try_pictures
from workers.download.decoder_pool import Decoders

KEPT = Path(".shoal/hostile")
BATCH = 500
MAX_SECONDS_EACH = 20.0
MAX_GROWTH_MIB = 100
RESIZED = ImageRules(min_bytes=0)
AS_RECEIVED = replace(RESIZED, reencode=False, resize_mode=ResizeMode.NO)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    folder = os.environ.get("SHOAL_HOSTILE_CORPUS")
    pictures = files_below(Path(folder)) if folder else mutants(asked.seed)
    print(f"corpus {folder}" if folder else f"seed {asked.seed}, {asked.minutes:g} minutes")
    deadline = float("inf") if folder else time.monotonic() + 60 * asked.minutes
    sys.exit(trio.run(throw, pictures, deadline))


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files below a folder, each with its path."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes()


async def throw(pictures: Iterator[tuple[str, bytes]], deadline: float) -> int:
    """Download batch after batch until the pictures or the time is over; return the exit code."""
    counts: Counter[str] = Counter()
    first_mib = mib = 0
    with tempfile.TemporaryDirectory() as place, Decoders(seconds=MAX_SECONDS_EACH) as decoders:
        store = Store.open(place)
        while time.monotonic() < deadline and (batch := list(islice(pictures, BATCH))):
            for rules in (RESIZED, AS_RECEIVED):
                began = time.monotonic()
                with trio.fail_after(60.0 + MAX_SECONDS_EACH * len(batch)):
                    ends = await try_pictures([data for _, data in batch], rules, store, decoders)
                counts.update(f"{end.outcome}: {end.reason}" for end in ends)
                for (name, data), end in zip(batch, ends, strict=True):
                    if (end.reason or "").startswith("codec"):
                        keep(name, data, end.reason or "")
                mib = resident_mib()
                print(f"  {len(batch)} pictures in {time.monotonic() - began:.1f} s, the worker holds {mib} MiB")
            first_mib = first_mib or mib
    for end_of_many, count in counts.most_common():
        print(f"{count:8}  {end_of_many}")
    if mib > first_mib + MAX_GROWTH_MIB:
        print(f"The worker has grown from {first_mib} to {mib} MiB.", file=sys.stderr)
        return 1
    return 0


def keep(name: str, data: bytes, reason: str) -> None:
    """Keep a picture that ended its decoder."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    print(f"  {reason}: {name}, kept as {path}")


def resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    main()
