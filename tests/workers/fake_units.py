"""Units of a build that only follows its options; `python -m` of it does one, as `workers.index` does."""

import fcntl
import hashlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset.errors import DatasetError
from dataset.formats.steps import Step, UnitFile, UnitResult
from dataset.store.store import Store
from workers.runtime.unit_process import answer_request
from workers.runtime.unit_stage import UnitStage

PLAN = [("train", 1), ("add", 3), ("finish", 1)]


class FakeUnits(UnitStage):
    kind = "dedup"
    module = "tests.workers.fake_units"


def plan_steps(store: Store, release: str, options: Mapping[str, Any]) -> list[Step]:
    return [Step(name, units) for name, units in options.get("plan", PLAN)]


def run_unit(
    store: Store, release: str, options: Mapping[str, Any], step: str, unit: int, *, scratch: Path
) -> UnitResult:
    """Write what the unit of the step before it wrote, hashed; or end in the way that the options name."""
    print("a library speaks")
    (scratch / "work").write_text("x")
    match options.get("ends"):
        case "sentence":
            raise DatasetError("The embeddings have changed:\nsearch anew.")
        case "taken down":
            record = store.read(f"releases/{release}/release.json")
            store.put(f"releases/{release}/release.json", record.replace(b"1.0.0", b"2.0.0"))
            store.read(f"dedup/{release}/v1/what the apply deleted")
        case "memory":
            return UnitResult(len(bytearray(1 << 30)), 0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(3)
        case "missing":
            raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
        case "never":
            with Path(options["lock"]).open("r+b") as held:
                fcntl.flock(held, fcntl.LOCK_EX)  # released with the process
                held.write(b"locked")
                held.flush()
                while True:
                    hashlib.sha256(bytes(1 << 20))
    folder = f"releases/{release}/duplicates"
    before = [path for path in sorted(store.list(folder)) if f"/{step}-" not in path]
    data = "\n".join([step, str(unit), *(f"{path} {store.read(path)!r}" for path in before)]).encode()
    path = f"{folder}/{step}-{unit}.txt"
    store.put(path, hashlib.sha256(data).hexdigest().encode())
    return UnitResult(5, 3, (UnitFile(path, 3, 64),))


if __name__ == "__main__":
    answer_request(plan_steps, run_unit)
