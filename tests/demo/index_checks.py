"""Looks whether the demo's index finds pictures by their captions, within filters, and not what was taken down."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataset.formats.releases import FileKind, Release
from tests.demo.checks import Check

ASKED = 10
Found = Sequence[Mapping[str, Any]]


def caption_to_find(release: Release) -> tuple[int, str]:
    """Return the id and the caption of the release's last English row: the first one is taken down."""
    file = list(release.files(FileKind.DATA, subset="en"))[-1]
    rows = release.store.read_table(release.path(file.path), ["id", "TEXT"])
    return rows["id"][-1].as_py(), rows["TEXT"][-1].as_py()


def check_index(row: int, caption: str, rows: int, built: Mapping[str, Any], found: Found, safe: Found) -> list[Check]:
    """Ask whether the index has every row, a caption finds its picture, and a filter gives as many results."""
    captions = [one["caption"] for one in found]
    unsafe = [one["id"] for one in safe if not one["punsafe"] < 0.45]
    return [
        Check("the index has every row", built["rows"] == rows, f"{built['rows']:,} of {rows:,}"),
        Check(f"a caption finds its picture among {ASKED}", row in [one["id"] for one in found],
              f"{caption!r}, first {captions[0]!r}" if captions else "nothing found"),
        Check("a filter gives as many, all safe", len(safe) == ASKED and not unsafe, f"{len(safe)} results"),
    ]  # fmt: skip
