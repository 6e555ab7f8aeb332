"""The wheel contains every module and data file; a file that setuptools does not find would be missing only in
images.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tracker", "workers", "dataset", "migrations")
# Alembic runs it, with a context of its own.
NOT_IMPORTED = "migrations.env"

IMPORT_ALL = """
import importlib, sys
folder = sys.argv[1]
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    assert module.__file__.startswith(folder), f"{name} comes from {module.__file__}"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel, built from this tree, is installed into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source / name)], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def _files() -> list[Path]:
    return [
        file.relative_to(ROOT)
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    ]


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    assert [str(file) for file in _files() if not (installed / file).is_file()] == []


def test_every_module_can_be_imported_from_the_installed_wheel(installed: Path) -> None:
    modules = [
        ".".join(file.with_suffix("").parts).removesuffix(".__init__") for file in _files() if file.suffix == ".py"
    ]
    modules.remove(NOT_IMPORTED)
    command = [sys.executable, "-P", "-W", "ignore", "-c", IMPORT_ALL, str(installed), *modules]
    subprocess.run(command, check=True, cwd=installed, env={"PYTHONPATH": str(installed)})
