"""Searches for near-duplicates that are killed in every kind of job until they come to their end.

    python -m tests.dataset.dedup.killing [--kinds ids,layout] [--rounds 3] [--seed N]

A child searches a release of two batches and prints a line as each unit begins; the parent waits for a random unit of
the kind, and a random moment in it, and kills the child with SIGKILL. The next child continues, and is killed in the
next kind. All files have to be those of an undisturbed search with one process; so have those of searches with two and
four. Every second search copies the embeddings, as that of a large release does. The last line is JSON.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset.dedup import jobs
from dataset.dedup import work as dedup_work
from dataset.dedup.jobs import run_unit_of
from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.dedup.work import Work
from dataset.formats.releases import Release, open_release
from dataset.formats.steps import UnitResult
from dataset.store.store import Store
from tests.killing import ROOT, digests
from tests.planted import MODEL, planted, put_release

KINDS = ("ids", "quality", "train", "layout", "gather", "new", "merge", "rest", "sweep", "count", "verify", "result",
         "texts", "write", "finish", "clean")  # fmt: skip
OPTIONS = Options(model=MODEL, at=0.94, cells=16, super_cells=4)
MOMENT = 0.02
"""Seconds in a unit, at most; units of so small a release take as long."""


def fill(folder: Path) -> Release:
    """Make a release of two batches."""
    vectors = planted(1_500, dimensions=48)
    return put_release(
        Store.open(str(folder)), "laion", [vectors[:1_200], vectors[1_200:]], rows_per_file=400, embeddings_per_file=500
    )


@contextmanager
def copying(copied: bool) -> Iterator[None]:
    """Copy embeddings in searches of this process, or do not."""
    before = dedup_work.COPY_FROM_ROWS
    setattr(dedup_work, "COPY_FROM_ROWS", 0 if copied else before)  # noqa: B010
    try:
        yield
    finally:
        setattr(dedup_work, "COPY_FROM_ROWS", before)  # noqa: B010


def work(folder: Path, copied: bool) -> None:
    """Search, and print the kind of each unit that begins."""

    def shown(opened: Work, step: str, unit: int) -> UnitResult:
        print(step.partition("-")[0], flush=True)
        return run_unit_of(opened, step, unit)

    setattr(jobs, "run_unit_of", shown)  # noqa: B010
    with copying(copied):
        search(open_release(Store.open(str(folder)), "laion"), OPTIONS)


def kill_in_each(folder: Path, draw: random.Random, kinds: tuple[str, ...], *, copied: bool) -> dict[str, int]:
    """Search until it ends, killed once in each kind of job on the way; return how often it was killed."""
    killed = dict.fromkeys(kinds, 0)
    for kind in kinds:
        killed[kind] += kill_in(folder, kind, draw, copied)
    assert not kill_in(folder, "", draw, copied)
    return killed


def kill_in(folder: Path, kind: str, draw: random.Random, copied: bool) -> bool:
    """Search until a unit of this kind is under way; return whether it was killed in it. It ends if there is none."""
    command = [sys.executable, "-m", "tests.dataset.dedup.killing", "--child", str(folder)]
    command += ["--copied"] * copied
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        units = 1 if kind in ("train", *KINDS[-2:]) else draw.randint(1, 3)
        for line in child.stdout:
            units -= line.strip() == kind
            if not units:
                break
        try:
            child.wait(draw.random() * MOMENT if not units else None)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        code = child.wait()
    assert code in (0, -signal.SIGKILL), f"the search failed, to be killed in {kind}"
    return code != 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--copied", action="store_true", help="of a child: copy the embeddings")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    asked = parser.parse_args()
    if asked.child:
        work(asked.child, asked.copied)
        return
    draw = random.Random(asked.seed)
    killed: dict[str, int] = dict.fromkeys(asked.kinds.split(","), 0)
    with tempfile.TemporaryDirectory() as home:
        undisturbed, with_copies = Path(home) / "undisturbed", Path(home) / "with copies"
        search(fill(undisturbed), OPTIONS)
        with copying(True):
            search(fill(with_copies), OPTIONS)
        for at in range(asked.rounds):
            folder = Path(home) / str(at)
            fill(folder)
            for kind, count in kill_in_each(folder, draw, tuple(killed), copied=at % 2 == 1).items():
                killed[kind] += count
            expected = digests(with_copies if at % 2 else undisturbed)
            assert digests(folder) == expected, f"other bytes after kills, seed {asked.seed}"
        for processes in (2, 4):
            folder = Path(home) / f"{processes} processes"
            search(fill(folder), OPTIONS, processes=processes)
            assert digests(folder) == digests(undisturbed), f"other bytes with {processes} processes"
    print(json.dumps({"killed": killed, "seed": asked.seed, "processes": [1, 2, 4], "equal": True}))


if __name__ == "__main__":
    main()
