"""Takedowns that are killed at random moments until they come to their end.

    python -m tests.dataset.takedown.killing [--kills 30] [--seed N]

A child applies a takedown of every kind to a release with all that belongs to it; the parent waits for a random number
of the child's changes and a random moment behind it, and kills the child with SIGKILL. The bytes of the whole store
have to be those of an undisturbed run, and no work may be left. The last line is JSON.
"""

import argparse
import json
import random
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from dataset.formats.takedowns import Entry
from dataset.store.store import Store
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from tests.killing import digests, kill_until_done
from tests.takedowns import make_crawl, make_release, make_tables, sample

MODULE = "tests.dataset.takedown.killing"
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
CHANGES = 300
"""About as many files as an apply writes and deletes."""


def fill(folder: Path) -> None:
    """Make a release with all that belongs to it, and requests by every kind of entry."""
    store = make_crawl(folder)
    make_tables(make_release(store, index="sq16"))
    for seed, (name, column) in enumerate({"url": "URL", "hash": "hash", "sha256": "sha256", "md5": "md5",
                                           "sha1": "sha1", "host": "final_host"}.items()):  # fmt: skip
        value = str(sample(seed * 21)[column])
        file_request(store, [Entry(kind=name, value=value)], "privacy", now=NOW)


def work(folder: Path) -> None:
    """Apply the takedowns; print a line for each file that is written or deleted."""

    replace = Path.replace

    def telling(self: Path, target: Path) -> Path:
        put = replace(self, target)
        print(target, flush=True)
        return put

    Path.replace = telling  # type: ignore[method-assign, assignment]  # the store puts every file in its place so
    delete = Store.delete

    def telling_delete(self: Store, path: str) -> None:
        delete(self, path)
        print(path, flush=True)

    Store.delete = telling_delete  # type: ignore[method-assign]
    apply_takedowns(Store.open(str(folder)), "laion", threads=2, now=NOW)


def kill_and_compare(home: Path, draw: random.Random, kills: int) -> int:
    """Apply undisturbed and killed, until it was killed `kills` times; return how often.

    Raises: AssertionError when the bytes differ.
    """
    before, undisturbed = home / "before", home / "undisturbed"
    fill(before)
    shutil.copytree(before, undisturbed)
    apply_takedowns(Store.open(str(undisturbed)), "laion", threads=2, now=NOW)
    expected = digests(undisturbed)
    killed = 0
    while killed < kills:
        disturbed = home / f"killed-{killed}"
        shutil.copytree(before, disturbed)
        arguments, most = ["--child", str(disturbed)], min(3, kills - killed)
        killed += kill_until_done(MODULE, arguments, draw, most, lines=CHANGES, seconds=0.02)
        found = digests(disturbed)
        assert found == expected, f"{sorted(found.items() ^ expected.items())} differ"
        shutil.rmtree(disturbed)
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        work(asked.child)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-kill-") as home:
        killed = kill_and_compare(Path(home), random.Random(asked.seed), asked.kills)
    print(json.dumps({"seed": asked.seed, "killed": killed, "equal": True}))


if __name__ == "__main__":
    main()
