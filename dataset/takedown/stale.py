"""Files that builds over older MAJOR versions left: working files, and files of a release that no record names.

They have rows that were removed. An apply deletes them; a worker that comes back after it, with a unit of such a build,
writes them again, where nothing reads them (`dataset.formats.versions`).
"""

from collections.abc import Iterator
from functools import partial

from dataset.formats.index_files import index_folders, read_index_record
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.formats.versions import WorkKind, major_of, version_in
from dataset.takedown.checks import FileCheck

_INDEX_DEPTH, _TABLE_DEPTH = 4, 2
"""Folders down to that which has a version: index/{model}/{modality}/{segment}, {table}/{generation}."""


def stale_files(release: Release) -> list[str]:
    """Return the paths in the store of files of older versions.

    Raises: SearchIndexError, SideTableError when a record, which may name them, is damaged; StoreError.
    """
    live, name = major_of(release.record.version), release.record.name
    found = []
    for kind in WorkKind:
        folder = f"{kind.value}/{name}/"
        for path in release.store.list(folder.rstrip("/")):
            begun = path.removeprefix(folder).split("/")[0].removeprefix("v")
            found += [path] if begun.isdecimal() and int(begun) < live else []
    named = _named(release)
    for path in release.store.list(release.folder):
        parts = path.removeprefix(f"{release.folder}/").split("/")
        depth = _INDEX_DEPTH if parts[0] == "index" else _TABLE_DEPTH
        version = version_in("/".join(parts[:depth])) if len(parts) > depth else None
        if version is not None and version < live and path not in named:
            found.append(path)
    return found


def stale_checks(release: Release) -> Iterator[FileCheck]:
    """Yield a check that fails for each file of an older version."""
    for path in stale_files(release):
        yield FileCheck(release.store, path, partial(_is_left, path))


def _is_left(path: str) -> Iterator[str]:
    yield f"{path} was made from a version whose rows were removed: apply again with --again, which deletes it."


def _named(release: Release) -> frozenset[str]:
    """Return the paths in the store of all files that records of a release name."""
    paths = [file.path for file in release.record.files]
    paths += [file.path for table in read_side_tables(release).values() for file in table.files]
    found = [release.path(path) for path in paths]
    for folder in index_folders(release):
        found += [f"{folder}/{file.path}" for file in read_index_record(release.store, folder).files]
    return frozenset(found)
