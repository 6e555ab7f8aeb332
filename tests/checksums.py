"""Check SHA256SUMS with the program that users run."""

import subprocess
from pathlib import Path


def check_sums(folder: Path) -> None:
    """Check all files of a folder: each is listed, with the bytes that it has."""
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    listed = {line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {"SHA256SUMS"}
