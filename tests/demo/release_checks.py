"""Compare the demo's release with its parts, its files with their checksums, and its card with both."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from dataset.formats.releases import CHECKSUMS, README, FileKind, Release
from dataset.store.store import Store
from tests.demo.checks import Check


def check_release(store: Store, manifest: pa.Table, release: Release, page: Path) -> list[Check]:
    """Ask whether the release has the kept pairs, once each, and whether card and statistics page say so."""
    kept = set(_pairs(store, (row["path"] for row in manifest.to_pylist() if row["kind"] == "part")))
    published = [
        pair for file in release.files(FileKind.DATA) for pair in _rows(release.store, release.path(file.path))
    ]
    lost, strange = len(kept - set(published)), len(set(published) - kept)
    once = len(published) == len(set(published))
    said = f"{len(published):,} rows of {len(kept):,} different pairs"
    damaged = [path for path, sha256 in checksums(release) if _sha256(release, path) != sha256]
    rows = f"{len(published):,}"
    texts = {"the card": release.store.read(release.path(README)).decode(), "the page": page.read_text("utf-8")}
    silent = [name for name, text in texts.items() if f"{rows} pairs" not in text]
    return [
        Check("the release has every kept pair once", once and not lost and not strange, said),
        Check(
            "its files have their checksums",
            not damaged,
            ", ".join(damaged) or "all that SHA256SUMS lists",
        ),
        Check("card and statistics page tell its pairs", not silent, f"{rows} pairs"),
    ]


def checksums(release: Release) -> Iterator[tuple[str, str]]:
    """Yield the path and sha256 of each file that SHA256SUMS lists."""
    for line in release.store.read(release.path(CHECKSUMS)).decode().splitlines():
        sha256, _, path = line.partition("  ")
        yield path, sha256


def _sha256(release: Release, path: str) -> str:
    return hashlib.sha256(release.store.read(release.path(path))).hexdigest()


def _pairs(store: Store, parts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for path in parts:
        yield from _rows(store, f"{path}.parquet")


def _rows(store: Store, path: str) -> Iterator[tuple[str, str]]:
    table = store.read_table(path, ["URL", "TEXT"])
    yield from zip(table["URL"].to_pylist(), table["TEXT"].to_pylist(), strict=True)
