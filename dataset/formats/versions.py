"""Paths of what is made from a release's rows, by units that may come back late.

    indexing/NAME/v1/…   dedup/NAME/v1/…   joining/NAME/v1/…     working files of a build over the versions 1.x.y
    releases/NAME/index/{model}/{modality}/1-1-BATCH-v1/…        files of an index
    releases/NAME/{table}/1-v1/…                                 files of a side table

Invariant: only a takedown makes a new MAJOR version, and it gives every such file that it changes a path of that
version. A unit writes only under the version that its build began with. So a worker whose lease ran out long ago may
write its file again at any time: no record names that path any more, and no later build reads it. `dataset takedown`
deletes what lies under older versions and no record names, and `verify` reports it.

Rejected: a check of the version at the end of each unit, because time passes between a check and a write.
"""

import re
from enum import StrEnum

_FOLDER = re.compile(r"(?:.*/)?[^/]*-v(\d+)")


class WorkKind(StrEnum):
    """Builds whose working files lie below a version; the value is their folder in the store."""

    INDEX = "indexing"
    DEDUP = "dedup"
    SIDE_TABLE = "joining"
    EMBEDDINGS = "consolidating"
    TAG = "tagging"


def major_of(version: str) -> int:
    """Return the MAJOR number of a version like 2.1.0."""
    return int(version.partition(".")[0])


def work_folder(kind: WorkKind, name: str, version: str) -> str:
    """Return the folder in the store of working files that are made of a version of the release `name`."""
    return f"{kind.value}/{name}/v{major_of(version)}"


def versioned(folder: str, version: str) -> str:
    """Return the name of a folder for files made of a version; '' is the version of rows that have no release."""
    return f"{folder}-v{major_of(version)}" if version else folder


def in_version(path: str, version: str) -> str:
    """Return a path whose first folder is `versioned`, for another version."""
    folder, _, rest = path.partition("/")
    return f"{versioned(re.sub(r'-v[0-9]+$', '', folder), version)}/{rest}"


def version_in(folder: str) -> int | None:
    """Return the MAJOR version in the name of the last folder of a path; None if it has none."""
    found = _FOLDER.fullmatch(folder)
    return int(found[1]) if found else None
