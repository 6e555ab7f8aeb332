"""Publishes that are killed at random moments, again and again, until one comes to its end.

    python -m tests.dataset.publish.killing [--kills 50] [--seed N]

A child publishes with two workers and prints a line for each unit that is done; the parent waits for a random line and
a random moment behind it, and kills the child and its workers with SIGKILL. The bytes have to be those of an
undisturbed run, of a first batch and of a further one. The last line is JSON.
"""

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from dataset.publish import planning
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.killing import digests, kill_until_done
from tests.parts import MadeStore, in_parts, make_pair

MODULE = "tests.dataset.publish.killing"
BATCHES = {"first": "2026-11-26", "second": "2026-12-01"}


def fill(folder: Path) -> None:
    """Make a store with two runs that have half of their pairs in common."""
    made = MadeStore(Store.open(str(folder)))
    for at, run in enumerate(BATCHES):
        pairs = [make_pair(seed, subset=("en", "multi", "nolang")[seed % 3], similarity=0.3 + at / 10)
                 for seed in range(at * 3_000, 6_000 + at * 3_000)]  # fmt: skip
        made.put_run(run, in_parts(pairs, 500))


def publish_batch(folder: Path, run: str, workers: int) -> None:
    """Publish a run as a batch, in about 70 small units; print a line for each that is done."""
    request = Request(
        name="laion",
        inputs=[InputName(".", run)],
        batch=BATCHES[run],
        rows_per_file=400,
        variants={"safe": "punsafe < 0.45"},
    )
    with patch.object(planning, "MIN_UNIT_ROWS", 250):
        publish(
            Store.open(str(folder)),
            request,
            memory_bytes=1,
            workers=workers,
            on_progress=lambda phase, done, total: print(phase, done, total, flush=True),
        )


def kill_and_compare(home: Path, draw: random.Random, kills: int) -> dict[str, int]:
    """Publish two batches undisturbed and killed, until each was killed `kills` times; return how often.

    Raises: AssertionError when the bytes differ.
    """
    undisturbed = home / "undisturbed"
    fill(undisturbed)
    killed = dict.fromkeys(BATCHES, 0)
    for run in BATCHES:
        before = home / f"before-{run}"
        shutil.copytree(undisturbed, before)
        publish_batch(undisturbed, run, workers=1)
        expected = digests(undisturbed / "releases")
        while killed[run] < kills:
            disturbed = home / f"killed-{run}-{killed[run]}"
            shutil.copytree(before, disturbed)
            arguments = ["--child", run, "--folder", str(disturbed)]
            killed[run] += kill_until_done(MODULE, arguments, draw, kills - killed[run], lines=5, seconds=0.1)
            found = digests(disturbed / "releases")
            assert found == expected, f"{sorted(found.items() ^ expected.items())} differ"
            assert [path for path in (disturbed / "publishing").rglob("*") if path.is_file()] == []
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        publish_batch(asked.folder, asked.child, workers=2)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-kill-") as home:
        killed = kill_and_compare(Path(home), random.Random(asked.seed), asked.kills // len(BATCHES))
    print(json.dumps({"seed": asked.seed, "killed": killed, "equal": True}))


if __name__ == "__main__":
    main()
