"""A terminal that cannot show a character gets a ? for it, and JSON stays JSON there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
