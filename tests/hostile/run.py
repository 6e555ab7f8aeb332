"""Throw hostile pictures at download, filter and embed for a while.

    python -m tests.hostile.run [--minutes 5] [--seed 0]
    SHOAL_HOSTILE_CORPUS=folder python -m tests.hostile.run    # every file below the folder, once

With a folder, its files are used unchanged; Pillow's test images and go-fuzz's corpora are worth a run. A picture that
ended its decoder is kept as .shoal/hostile/SHA-256. Each batch is downloaded with two recipes, then put into a shard
unchanged, filtered and embedded. Exit 1 if a process died, hung, grew or exceeded its memory limit, or if a picture
lacks its outcome or verdict.
"""

import argparse
import contextlib
import hashlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import trio

from dataset.models.clip import ClipModel
from dataset.models.pipeline import Pipeline
from dataset.pictures.fork_server import DECODE_BYTES
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store
from tests.hostile import memory
from tests.hostile.mutants import mutants
from tests.hostile.stored import demo_model, try_stored
from tests.hostile.trial import try_pictures
from workers.download.decoder_pool import Decoders

KEPT = Path(".shoal/hostile")
BATCH = 500
MAX_SECONDS_EACH = 20.0
MAX_GROWTH_MIB = 100
MAX_PEAK_MIB = 400
"""Above what the process holds anyway, while it filters and embeds: pictures of a batch, none of them decoded here."""
MAX_DECODER_MIB = (DECODE_BYTES >> 20) + 500
"""The bound for a picture, and the imports that decoders share."""
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
    """Try batches until the pictures or the time are used up; return the exit code."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    first_mib = 0
    model = demo_model()
    with contextlib.ExitStack() as opened:
        store = Store.open(opened.enter_context(tempfile.TemporaryDirectory()))
        decoders = opened.enter_context(Decoders(seconds=MAX_SECONDS_EACH))
        pipeline = opened.enter_context(Pipeline())
        while time.monotonic() < deadline and (batch := list(islice(pictures, BATCH))):
            for rules in (RESIZED, AS_RECEIVED):
                counts.update(await downloaded(batch, rules, store, decoders))
            peak_mib = await trio.to_thread.run_sync(stored, batch, store, model, pipeline, counts)
            mib = memory.resident_mib()
            decoder_mib = memory.decoders_peak_mib()
            print(f"  this process holds {mib} MiB, {peak_mib} more at the most; its largest decoder {decoder_mib} MiB")
            first_mib = first_mib or mib
            if mib > first_mib + MAX_GROWTH_MIB:
                faults.append(f"The worker has grown from {first_mib} to {mib} MiB.")
            if peak_mib > MAX_PEAK_MIB:
                faults.append(f"Filtering took {peak_mib} MiB of the worker.")
            if decoder_mib > MAX_DECODER_MIB:
                faults.append(f"A decoder held {decoder_mib} MiB.")
    for end_of_many, count in counts.most_common():
        print(f"{count:8}  {end_of_many}")
    print(*faults, sep="\n", file=sys.stderr)
    return 1 if faults else 0


async def downloaded(
    batch: Sequence[tuple[str, bytes]], rules: ImageRules, store: Store, decoders: Decoders
) -> list[str]:
    """Download a batch by these rules; return how each picture ended."""
    began = time.monotonic()
    with trio.fail_after(60.0 + MAX_SECONDS_EACH * len(batch)):
        ends = await try_pictures([data for _, data in batch], rules, store, decoders)
    for (name, data), end in zip(batch, ends, strict=True):
        if (end.reason or "").startswith("codec"):
            keep(name, data, end.reason or "")
    print(f"  {len(batch)} pictures downloaded in {time.monotonic() - began:.1f} s")
    return [f"download, {end.outcome}: {end.reason}" for end in ends]


def stored(
    batch: Sequence[tuple[str, bytes]], store: Store, model: ClipModel, pipeline: Pipeline, counts: Counter[str]
) -> int:
    """Filter and embed a batch unchanged; return by how many MiB this process grew at most."""
    began, before_mib = time.monotonic(), memory.resident_mib()
    memory.forget_peak()
    verdicts = try_stored([data for _, data in batch], store, model, pipeline)
    counts.update(f"filter, {verdict}" for verdict in verdicts)
    print(f"  {len(batch)} pictures filtered and embedded in {time.monotonic() - began:.1f} s")
    return memory.peak_mib() - before_mib


def keep(name: str, data: bytes, reason: str) -> None:
    """Keep a picture that ended its decoder."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = KEPT / hashlib.sha256(data).hexdigest()
    path.write_bytes(data)
    print(f"  {reason}: {name}, kept as {path}")


if __name__ == "__main__":
    main()
