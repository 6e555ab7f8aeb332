"""Near-duplicates of a release, from the report of `dataset dedup`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dataset.formats.duplicates import REPORT
from dataset.formats.releases import Release


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups by their size: those of "4" have 4 to 7 rows. `at` is the cosine from which rows are near-duplicates."""

    at: float
    rows: int
    representatives: int
    members: Mapping[str, int]
    groups_by_lowest_size: Mapping[str, int]


def read_duplicates(release: Release) -> Duplicates | None:
    """Return the near-duplicates of a release's version; None if they were not searched.

    Raises: StoreError.
    """
    path = release.path(REPORT)
    if not release.store.exists(path):
        return None
    try:
        report = json.loads(release.store.read(path))
        if report["version"] != release.record.version:
            return None
        return Duplicates(
            report["options"]["at"],
            report["rows"],
            report["representatives"],
            report["members"],
            report["groups_by_lowest_size"],
        )
    except (ValueError, KeyError, TypeError):
        return None  # written by another version of Shoal: the statistics leave it out
