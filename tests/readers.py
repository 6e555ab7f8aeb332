"""Programs of others for tests, whose packages conflict with Shoal's, in separate environments in .readers/.

    python -m tests.readers       makes those that are missing (make readers); it needs a package index

A test that needs one that is missing is skipped.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".readers"
CPU_TORCH = ("--constraint", str(FOLDER.parent / "constraints.txt"))
PACKAGES = {
    "mlcroissant": ("mlcroissant>=1.1", "pyarrow"),  # reads parquet through pandas, which needs pyarrow
    "polars": ("polars>=1",),
    "autofaiss": ("autofaiss>=2.18", "pyarrow<18"),  # with embedding-reader; its numpy<2 is too old for later ones
    "clip-retrieval": ("clip-retrieval>=2.45", "setuptools<81", *CPU_TORCH),
    "open_clip": ("open_clip_torch[training]>=3", *CPU_TORCH),
    "axe": ("axe-playwright-python>=0.1.8", "--no-deps"),  # axe-core 4.12 for our own driver of the browser
    "img2dataset": ("img2dataset>=1.45", "setuptools<81"),  # it imports pkg_resources
}


def reader(name: str) -> Path:
    """Return the Python of the environment that has a reader; skips the test where it was not made."""
    import pytest

    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{name} is not there: make readers")
    return python


def make_environments() -> None:
    """Make the environments that are missing."""
    for name, packages in PACKAGES.items():
        folder = FOLDER / name
        if not (folder / "bin" / "python").exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)


if __name__ == "__main__":
    make_environments()
