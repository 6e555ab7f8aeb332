"""Checks of a release and of what was derived from it: no file has an id that was removed, or another content than its
record says.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.duplicates import NAME as DUPLICATES
from dataset.formats.npy import open_rows
from dataset.formats.release_embeddings import image_path, metadata_path, text_path
from dataset.formats.releases import CHECKSUMS, FileKind, Release, ReleaseFile
from dataset.formats.side_tables import read_side_tables
from dataset.publish.deny import DenyRules
from dataset.stats.saved import SavedCountsError, bytes_to_counts
from dataset.stats.units import saved_path
from dataset.takedown.checks import FileCheck
from dataset.takedown.embeddings_files import folders
from dataset.takedown.release_files import file_digest
from dataset.takedown.scan import Companions, data_files, denied, read_rows

Integers = npt.NDArray[np.int64]


def release_checks(
    release: Release, ids: Integers, rules: Mapping[str, DenyRules], *, everything: bool
) -> Iterator[FileCheck]:
    """Yield the checks of the data files that had removed rows, and of their companions; of all if `everything`."""
    companions, store = Companions(release), release.store
    yield from _summaries(release)
    for data in data_files(release):
        low, high = np.searchsorted(ids, (data.first_id, data.last_id + 1))
        if low == high and not everything:
            continue
        kinds = [(kind, None) for kind in (FileKind.DATA, FileKind.EXTENDED, FileKind.SOURCE, FileKind.HOSTS)]
        for kind, variant in [*kinds, *((FileKind.VARIANT, name) for name in release.record.options.variants)]:
            file = companions.of(data, kind, variant)
            if file is not None:
                check = partial(_check_release_file, release, file, ids[low:high])
                yield FileCheck(store, release.path(file.path), check)
        if rules:
            yield FileCheck(store, release.path(data.path), partial(_check_denied, release, companions, data, rules))
        counts = release.path(saved_path(data.path))
        if store.exists(counts):
            yield FileCheck(store, counts, partial(_check_counts, release, data, counts))


def _summaries(release: Release) -> Iterator[FileCheck]:
    """Yield the checks of the files that sum up others: the card, its plots, hosts.parquet, the record itself."""
    listed = {file.path for file in release.record.files}
    lines = release.store.read(release.path(CHECKSUMS)).decode().splitlines()
    for sha256, _, path in (line.partition("  ") for line in lines):
        if path not in listed:
            yield FileCheck(release.store, release.path(path), partial(_check_sum, release, path, sha256))


def _check_sum(release: Release, path: str, sha256: str) -> Iterator[str]:
    if file_digest(release, path)[1] != sha256:
        yield f"{release.path(path)} is not the file that {CHECKSUMS} lists, so it may sum up removed rows."


def _check_release_file(release: Release, file: ReleaseFile, gone: Integers) -> Iterator[str]:
    path = release.path(file.path)
    size, sha256 = file_digest(release, file.path)
    if (size, sha256) != (file.bytes, file.sha256):
        yield f"{path} is not the file that release.json lists: restore the one of this version, or apply --again."
    if file.kind is FileKind.HOSTS:
        return
    table = release.store.read_table(path)
    if table.num_rows != file.rows:
        yield f"{path} has {table.num_rows} rows, and release.json says {file.rows}."
    here = table.filter(pc.is_in(table["id"], pa.array(gone)))
    if file.kind is FileKind.SOURCE:
        traces = [name for name in here.column_names if name != "id" and here[name].null_count < len(here)]
        if traces:
            yield f"{path} still leads from a removed row to its source, by {', '.join(traces)}."
    elif len(here):
        yield f"{path} still has {len(here)} removed rows."


def _check_denied(
    release: Release, companions: Companions, data: ReleaseFile, rules: Mapping[str, DenyRules]
) -> Iterator[str]:
    columns = frozenset().union(*(one.columns for one in rules.values()))
    for rows in read_rows(release, companions, data, columns):
        count = len(rows) - denied(rows, rules).null_count
        if count:
            yield f"{release.path(data.path)} has {count} rows that a deny list names: apply it with --again."


def _check_counts(release: Release, data: ReleaseFile, path: str) -> Iterator[str]:
    """Statistics name the most frequent hosts and captions, so they have to be those of the file."""
    try:
        bytes_to_counts(release.store.read(path), data.sha256)
    except SavedCountsError:
        yield f"{path} was counted of another version of its data file: delete it."


def derived_checks(release: Release, ids: Integers) -> Iterator[FileCheck]:
    """Yield the checks of all side tables and embeddings."""
    store = release.store
    for table in read_side_tables(release).values():
        for file in table.files:
            check = partial(_check_ids, release, file.path, ids, file.sha256)
            yield FileCheck(store, release.path(file.path), check)
            if table.name == DUPLICATES:
                check = partial(_check_representatives, release, file.path, ids)
                yield FileCheck(store, release.path(file.path), check)
    for folder in folders(release):
        known = {one.path: one for one in folder.record.files}
        for path, one in known.items():
            place = f"{folder.path}/{path}"
            if path.endswith(".parquet"):
                yield FileCheck(store, release.path(place), partial(_check_ids, release, place, ids, one.sha256))
        for at in range(folder.files):
            rows = known[metadata_path(at)].rows
            for path in (image_path(at), text_path(at)):
                place = f"{folder.path}/{path}"
                check = partial(_check_vectors, release, place, known[path].sha256, rows)
                yield FileCheck(store, release.path(place), check)


def _check_ids(release: Release, relative: str, gone: Integers, sha256: str) -> Iterator[str]:
    path = release.path(relative)
    if file_digest(release, relative)[1] != sha256:
        yield f"{path} is not the file that its record lists: write it anew."
    found = int(np.count_nonzero(np.isin(release.store.read_table(path, ["id"])["id"].to_numpy(), gone)))
    if found:
        yield f"{path} still has {found} removed rows: apply again with --again."


def _check_representatives(release: Release, relative: str, gone: Integers) -> Iterator[str]:
    """A search for near-duplicates that ended after an apply may name rows that it removed."""
    path = release.path(relative)
    named = release.store.read_table(path, ["representative"])["representative"].to_numpy()
    found = int(np.count_nonzero(np.isin(named, gone)))
    if found:
        yield f"{path} has {found} rows that a removed row represents: apply again with --again."


def _check_vectors(release: Release, relative: str, sha256: str, rows: int) -> Iterator[str]:
    path = release.path(relative)
    if file_digest(release, relative)[1] != sha256:
        yield f"{path} is not the file that index.json lists: write it anew with --restart."
    found = open_rows(release.store, path).rows
    if found != rows:
        yield f"{path} has {found} rows, its metadata {rows}: write it anew with --restart."
