"""A terminal that cannot show a character gets a ? for it, and JSON stays JSON there."""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main

import dataset.command_help as dataset_help
import tracker.command_help as tracker_help

ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "LC_ALL=C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}

TABLE = """
import sys; sys.path.insert(0, {root!r})
from rich.table import Table
from {program} import main
from tracker.admin.console import show
def command():
    table = Table("caption")
    table.add_row("Ein schöner Hund 🐕")
    show({{"caption": "schön"}}, {as_json}, lambda: table)
main.app = command
main.main()
"""


def run(environment: str, *command: str) -> subprocess.CompletedProcess[bytes]:
    env = os.environ | ENVIRONMENTS[environment]
    return subprocess.run([sys.executable, *command], capture_output=True, check=False, env=env)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("program", ["tracker", "workers"])
def test_a_table_with_captions_is_shown_with_marks(program: str, environment: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TABLE.format(root=str(Path.cwd()), program=program, as_json=False), encoding="utf-8")
    ran = run(environment, str(script))
    assert ran.returncode == 0, ran.stderr
    assert b"Ein sch?ner Hund ?" in ran.stdout
    script.write_text(TABLE.format(root=str(Path.cwd()), program=program, as_json=True), encoding="utf-8")
    ran = run(environment, str(script))
    assert json.loads(ran.stdout.decode("ascii")) == {"caption": "schön"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_recipe_is_read_in_utf_8_and_printed_in_any_locale(tmp_path: Path, environment: str) -> None:
    (tmp_path / "recipe.json").write_text('{"models": {"en": {"pretrained": "schön"}}}', encoding="utf-8")
    ran = run(environment, "-m", "dataset.main", "recipe", str(tmp_path / "recipe.json"))
    assert json.loads(ran.stdout.decode("ascii"))["models"]["en"]["pretrained"] == "schön"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_list_of_names_is_printed_anywhere(tmp_path: Path, environment: str) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "schön.safetensors").touch()
    ran = run(environment, "-m", "dataset.main", "heads", "list", "--store", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(b"store:heads/sch?")


@pytest.mark.parametrize("program", ["tracker", "workers", "dataset"])
def test_help_is_shown_anywhere(program: str) -> None:
    ran = run("ascii", "-m", f"{program}.main", "--help")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("program", ["tracker", "workers", "dataset"])
def test_every_command_says_its_version_and_no_flag_has_a_type(program: str) -> None:
    code = f"from {program}.main import main; main()"
    said = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, f"shoal {version('shoal')}\n"), said.stderr
    app = importlib.import_module(f"{program}.main").app
    flags = list(_flags(typer.main.get_command(app), None))
    assert len(flags) > 10
    assert {flag.metavar for flag in flags} == {""}
    said = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False)
    assert "--help" in said.stdout
    assert "<bool>" not in said.stdout


def _flags(command: Any, parent: Any) -> Iterator[Any]:
    """Yield the flags of a command and of the commands in it, as its help does."""
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    yield from (parameter for parameter in command.get_params(context) if getattr(parameter, "is_flag", False))
    for inner in getattr(command, "commands", {}).values():
        yield from _flags(inner, context)


def test_the_help_of_tracker_and_dataset_is_made_by_equal_modules() -> None:
    assert inspect.getsource(tracker_help) == inspect.getsource(dataset_help)
