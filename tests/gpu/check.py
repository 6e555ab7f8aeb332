"""Check the GPU path on a card, and measure it beside its ceilings: `make gpu-check`, without a network tests/gpu/run.

    python -m tests.gpu.check [--quick] [--full STEP ...] [--only STEP ...] [--device cpu] [--seconds 480]

Each step runs in a process of its own, with a time limit; a step that fails or takes too long is recorded, and the next
one runs. A step is not begun if it may not end within `--seconds`. Every number is predicted from operations and bytes,
for an H100, and written as soon as it is measured: results.jsonl, and at the end results.json and table.txt, in the
folder that OUT names, by default .gpu-check. The table is also the end of the output.

`--device cpu` runs what a CPU can, to test the script. Exit 1 if something that has to hold did not.
"""

import argparse
import faulthandler
import importlib
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.gpu.results import Run, line, read_results

LOG = "log.txt"
GRACE_SECONDS = 5
CPU_PATIENCE = 4
"""Time limits are for a card; on a CPU they are so many times as long."""

STEPS_LOADED_FIRST = ("torch", "dataset.models.clip", "dataset.filter.shard", "tests.gpu.speed")


@dataclass(frozen=True, slots=True)
class Step:
    """A function of a module of this package, and its time limits in seconds; with 0, `--quick` leaves it out."""

    name: str
    module: str
    function: str
    seconds: int
    quick_seconds: int
    on_cpu: bool = True


STEPS = (
    Step("ceilings", "ceilings", "measure_device", 40, 20, on_cpu=False),
    Step("decode", "ceilings", "measure_decoders", 40, 30),
    Step("kmeans", "row_kernels", "measure_kmeans", 75, 25),
    Step("join", "row_kernels", "measure_join", 40, 20),
    Step("correct", "correctness", "check_rows", 110, 90),
    Step("memory", "correctness", "check_halving", 40, 25, on_cpu=False),
    Step("l14", "speed", "measure_l14", 140, 125),
    Step("b32", "speed", "measure_b32", 110, 85),
    Step("lease", "lease", "check_lease", 90, 60),
    Step("b32c", "speed", "measure_compiled_b32", 80, 70, on_cpu=False),
    Step("l14c", "speed", "measure_compiled_l14", 100, 0, on_cpu=False),
)


def main() -> None:
    """Run the steps, print the table, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: whether every step runs, not how fast")
    parser.add_argument("--full", nargs="+", default=[], help="these steps at full size although --quick")
    parser.add_argument("--only", nargs="+", choices=[step.name for step in STEPS], help="these steps alone")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, help="time limit of the whole; default: 480, with --quick 150")
    arguments = parser.parse_args()
    ends = time.monotonic() + (arguments.seconds or (150 if arguments.quick else 480))
    out = Path(os.environ.get("OUT", ".gpu-check"))
    out.mkdir(parents=True, exist_ok=True)
    results = out / "results.jsonl"
    results.unlink(missing_ok=True)
    os.environ["SHOAL_GPU_CHECK_DEVICE"] = arguments.device
    started = time.monotonic()
    for module in STEPS_LOADED_FIRST:  # once, not in each step's process; none of them starts CUDA
        importlib.import_module(module)
    Run("machine", arguments.quick, out, results).record("imports", time.monotonic() - started, "s", 15)
    describe(out)
    with tempfile.TemporaryDirectory(prefix="shoal-gpu-check-") as folder:
        Path(folder).chmod(0o755)
        for step in STEPS:
            if arguments.only and step.name not in arguments.only:
                continue
            quick = arguments.quick and step.name not in arguments.full
            if quick and not step.quick_seconds:
                continue
            if arguments.device == "cpu" and not step.on_cpu:
                continue
            run_step(step, Run(step.name, quick, Path(folder), results), out / LOG, ends)
    found = read_results(results)
    table = "\n".join([f"{'':46} {'predicted':>9} {'measured':>9} ratio unit       note", *map(line, found)])
    (out / "table.txt").write_text(table + "\n", encoding="utf-8")
    (out / "results.json").write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")
    print("\n" + table)
    sys.exit(any(one.unit == "holds" and one.measured != 1 for one in found))


def run_step(step: Step, run: Run, log: Path, ends: float) -> None:
    """Run a step in a forked process, and record how long it took or why it failed."""
    limit = step.quick_seconds if run.quick else step.seconds
    limit *= CPU_PATIENCE if os.environ["SHOAL_GPU_CHECK_DEVICE"] == "cpu" else 1
    limit = int(min(limit, ends - time.monotonic()))
    if limit < 8:
        run.record(f"{step.name}: step", None, "s", note="not run: no time left")
        return
    started = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_in_process, args=(step, run, log))
    process.start()
    process.join(limit)
    note = ""
    if process.exitcode is None:
        process.terminate()  # the step ends what it has started
        process.join(GRACE_SECONDS)
        process.kill()
        process.join()
        note = f"FAILED: longer than {limit} s"
    elif process.exitcode:
        note = f"FAILED: see {LOG}"
    run.record(f"{step.name}: step", time.monotonic() - started, "s", note=note)
    if note:
        run.expect(f"{step.name}: ends", holds=False, note=note)


def _in_process(step: Step, run: Run, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"--- {step.name}\n")
        file.flush()
        os.dup2(file.fileno(), 2)
        faulthandler.enable(file)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
        try:
            getattr(importlib.import_module(f"tests.gpu.{step.module}"), step.function)(run)
        except BaseException:
            traceback.print_exc()
            print(f"{step.name}: {traceback.format_exc().strip().splitlines()[-1][:300]}", flush=True)
            raise


def describe(out: Path) -> None:
    """Write what machine and which versions these are."""
    lines = [f"python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}"]
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        lines += sorted({one.strip() for one in file if one.startswith("model name")})
    for command in (["nvidia-smi"], [sys.executable, "-m", "pip", "list", "--disable-pip-version-check"]):
        try:
            said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
            lines += [said.stdout, said.stderr[-300:]]
        except (OSError, subprocess.TimeoutExpired) as error:
            lines.append(f"{command[0]}: {error}")
    (out / "machine.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
