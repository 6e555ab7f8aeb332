"""A plain install has none of the extras' packages: every command starts without them, and reports the missing
package.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"open_clip_torch": "open_clip", "faiss_cpu": "faiss"}
"""The module of a package whose name is another."""

# Imports of the extras' packages fail, as where they are not installed.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def _extras() -> set[str]:
    """The modules that only an extra of a user's brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        re.split(r"[\[<>=~; ]", requirement)[0].lower()
        for extra, requirements in project["optional-dependencies"].items()
        if extra != "dev"
        for requirement in requirements
    }
    plain = {re.split(r"[\[<>=~; ]", requirement)[0].lower() for requirement in project["dependencies"]}
    return {MODULES.get(name.replace("-", "_"), name.replace("-", "_")) for name in named - plain - {"shoal"}}


def run_plain(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ours as a plain install would."""
    package = {"tracker": "tracker", "worker": "workers", "dataset": "dataset"}[command]
    program = f"BLOCKED = {sorted(_extras())!r}\n{BLOCKER}\nfrom {package}.main import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_the_extras_are_what_is_blocked() -> None:
    assert {"torch", "open_clip", "transformers", "duckdb"} <= _extras()


@pytest.mark.parametrize("command", ["tracker", "worker", "dataset"])
def test_a_command_starts_without_any_extra(command: str) -> None:
    shown = run_plain(command, "--help")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("models", "list"), "models"),
        (("publish", "name", "--input", "run"), "release"),
        (("serve", "name"), "index"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_needs_an_extra_says_which(arguments: tuple[str, ...], extra: str) -> None:
    refused = run_plain("dataset", *arguments)
    assert refused.returncode == 1
    assert f"[{extra}]" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_recipe_is_printed_without_any_extra() -> None:
    assert run_plain("dataset", "recipe").returncode == 0
