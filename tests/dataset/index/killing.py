"""Builds, additions, compactions and removals of an index that are killed at random moments until they come to an end.

    python -m tests.dataset.index.killing [--kills 30] [--seed N]

A child does one of them in small units and prints a line for each that is done; the parent waits for a random line and
a random moment behind it, and kills the child with SIGKILL. The bytes have to be those of an undisturbed run. The last
line is JSON.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

from dataset.formats.releases import open_release
from dataset.index import add, describe, merge, plan
from dataset.index.delete import delete_ids
from dataset.index.jobs import build
from dataset.index.plan import IndexOptions, work_on_release
from dataset.store.store import Store
from tests.dataset.index.made import MEASURED, publish_batch
from tests.killing import digests, kill_until_done
from tests.parts import MadeStore

MODULE = "tests.dataset.index.killing"
STEPS = ("sq16", "rabitq", "add", "delete", "compact")


def fill(folder: Path) -> None:
    """Make a release of two batches with embeddings."""
    made = MadeStore(Store.open(str(folder)))
    publish_batch(made, "crawl", range(700))
    publish_batch(made, "more", range(700, 1_000), "2026-12-01")


def work(folder: Path, step: str) -> None:
    """Do a step in small units; print a line for each."""
    store = Store.open(str(folder))
    release = open_release(store, "laion")

    def show(phase: str, done: int, total: int) -> None:
        print(phase, done, total, flush=True)

    if step == "delete":
        print("begun", flush=True)
        delete_ids(store, release.path("index/ViT-L-14/image"), range(0, 1_000, 3))
        return
    asked = {
        "sq16": {"kind": "sq16", "modality": "text", "batches": ("2026-11-26", "2026-12-01")},
        "rabitq": {"kind": "rabitq", "batches": ("2026-11-26",)},
        "add": {"further": True},
        "compact": {"compact": True},
    }[step]
    options = IndexOptions(model="ViT-L-14", lists=16, held_out=16, unit_rows=90, **asked)  # type: ignore[arg-type]
    path = f"indexing/laion/v1/ViT-L-14/{options.modality}/local/plan.json"
    if step in ("add", "compact") and _is_done(store, step, path):
        return
    small = patch.multiple(plan, RANGE_ROWS=250, DESCRIBED_IDS=120)
    with (
        small,
        patch.object(add, "DESCRIBED_IDS", 120),
        patch.object(describe, "DESCRIBED_IDS", 120),
        patch.object(merge, "BLOCK_BYTES", 2 * 16 * 64),
    ):
        build(partial(work_on_release, release, options), on_progress=show)


def _is_done(store: Store, step: str, path: str) -> bool:
    """Return whether the plan is that of this step and has come to its end: to add or compact again is another step."""
    if not store.exists(path) or not store.exists(path.replace("plan.json", plan.FINISHED)):
        return False
    options = json.loads(store.read(path))["options"]
    return bool(options["further"] if step == "add" else options["compact"])


def kill_and_compare(home: Path, draw: random.Random, kills: int, steps: Sequence[str] = STEPS) -> dict[str, int]:
    """Do each step undisturbed and killed, until each was killed its share of `kills`; return how often.

    Raises: AssertionError when the bytes differ.
    """
    undisturbed = home / "undisturbed"
    fill(undisturbed)
    killed = dict.fromkeys(steps, 0)
    for at, step in enumerate(steps):
        before = home / f"before-{step}"
        shutil.copytree(undisturbed, before)
        work(undisturbed, step)
        expected = digests(undisturbed, MEASURED)
        share = kills * (at + 1) // len(steps) - kills * at // len(steps)
        while killed[step] < share:
            disturbed = home / f"killed-{step}-{killed[step]}"
            shutil.copytree(before, disturbed)
            arguments, lines = ["--child", step, "--folder", str(disturbed)], 1 if step == "delete" else 9
            left = share - killed[step]
            killed[step] += kill_until_done(MODULE, arguments, draw, left, lines=lines, seconds=0.05)
            found = digests(disturbed, MEASURED)
            assert found == expected, f"{step}: {sorted(found.items() ^ expected.items())}"
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work(asked.folder, asked.child)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-kill-") as home:
        killed = kill_and_compare(Path(home), random.Random(asked.seed), asked.kills)
    print(json.dumps({"seed": asked.seed, "killed": killed, "equal": True}))


if __name__ == "__main__":
    main()
