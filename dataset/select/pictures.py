"""Find the pictures of selected rows: in the tars of shards, and in those of parts that keep their own."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from dataset.formats.manifest import Output, OutputKind, outputs
from dataset.formats.releases import FileKind, Release, ReleaseInput
from dataset.select.errors import SelectError
from dataset.store.store import Store, StoreError

Integers = npt.NDArray[np.int64]

KEY_POSITIONS = 100_000
"""A key is the number of the shard's job and five digits."""
_NO_KEY = -1


@dataclass(frozen=True, slots=True)
class PictureTar:
    """A tar in the store of an input; `job` is the job of its shard."""

    store: Store
    path: str
    job: int


def source_rows(release: Release, ids: Integers) -> tuple[Integers, Integers]:
    """Return the input and the key of each row, -1 for rows that were removed; `ids` are sorted; both results are (N,)
    int64.

    Raises: SelectError when `source/`, which is private, is missing; StoreError.
    """
    inputs, keys = np.full(len(ids), _NO_KEY, np.int64), np.full(len(ids), _NO_KEY, np.int64)
    found = False
    for file in release.files(FileKind.SOURCE):
        found = True
        low, high = np.searchsorted(ids, (file.first_id, file.last_id + 1))
        if low == high:
            continue
        with release.store.open_input(release.path(file.path)) as opened:
            parquet = pq.ParquetFile(opened)
            start = file.first_id
            for at in range(parquet.num_row_groups):
                end = start + parquet.metadata.row_group(at).num_rows
                first, last = np.searchsorted(ids, (start, end))
                if first < last:
                    rows = parquet.read_row_group(at, columns=["input", "key"], use_threads=False)
                    places = ids[first:last] - start
                    for target, name in ((inputs, "input"), (keys, "key")):
                        target[first:last] = rows[name].cast("int64").fill_null(_NO_KEY).to_numpy()[places]
                start = end
    if not found:
        raise SelectError(f"{release.record.name} has no source/, which is private: use the store it was published in.")
    return inputs, keys


def find_tars(release: Release, described: ReleaseInput, jobs: Integers) -> Iterator[PictureTar]:
    """Yield the tars that have the pictures of shards, which are given by the numbers of their jobs; a shard's own tar
    comes before a part's.

    Raises: ManifestError, StoreError when the input cannot be read.
    """
    store = release.input_store(described.store)
    wanted = {int(job) for job in jobs}
    for output in outputs(store, kind=OutputKind.SHARD, run=described.run):
        if output.job in wanted and _has_tar(output.tar_bytes, output.tar_deleted_at):
            wanted.discard(output.job)
            yield PictureTar(store, f"{output.path}.tar", output.job)
    if not wanted:
        return
    for output in outputs(store, kind=OutputKind.PART, run=described.run):
        if output.rows and _has_tar(output.tar_bytes, output.tar_deleted_at):
            job = _job_of(store, output)
            if job in wanted:
                wanted.discard(job)
                yield PictureTar(store, f"{output.path}.tar", job)


def picture_members(tar: PictureTar, wanted: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, extension and bytes of the requested pictures, each once; a tar that is cut off ends there."""
    left = set(wanted)
    try:
        with tar.store.open_input(tar.path) as file, tarfile.open(fileobj=file, mode="r|") as members:
            for member in members:
                members.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header
                key, _, ending = member.name.partition(".")
                if key not in left or ending in ("txt", "json"):
                    continue
                content = members.extractfile(member)
                data = content.read() if content else b""
                if data and len(data) == member.size:
                    left.discard(key)
                    yield key, ending, data
                if not left:
                    return
    except (tarfile.TarError, EOFError):
        return


def read_kept(release: Release, ids: Integers) -> dict[int, bytes]:
    """Return the pictures of rows that are still kept, by id; `ids` are sorted and few.

    Raises: SelectError when `source/`, which is private, is missing; ManifestError, StoreError.
    """
    return dict(kept_pictures(release, ids))


def kept_pictures(release: Release, ids: Integers) -> Iterator[tuple[int, bytes]]:
    """Yield the rows that are still kept, tar by tar, with their pictures; `ids` are sorted.

    Raises: SelectError when `source/`, which is private, is missing; ManifestError, StoreError.
    """
    inputs, keys = source_rows(release, ids)
    for number in np.unique(inputs[inputs >= 0]).tolist():
        rows = np.flatnonzero(inputs == number)
        of_key = {f"{keys[row]:015d}": int(ids[row]) for row in rows}
        for tar in find_tars(release, release.record.inputs[number], np.unique(keys[rows] // KEY_POSITIONS)):
            first = f"{tar.job:010d}"
            for key, _, data in picture_members(tar, [key for key in of_key if key.startswith(first)]):
                yield of_key[key], data


def _has_tar(tar_bytes: int, deleted: datetime | None) -> bool:
    return tar_bytes > 0 and deleted is None


def _job_of(store: Store, part: Output) -> int | None:
    """Return the job of the shard that a part was made of; None if takedowns have removed all its rows."""
    try:
        with store.open_input(f"{part.path}.parquet") as file:
            for batch in pq.ParquetFile(file).iter_batches(1, columns=["key"]):
                if len(batch):
                    return int(batch["key"][0].as_py()) // KEY_POSITIONS
    except OSError as error:
        raise StoreError(f"{part.path}.parquet cannot be read ({error}): write the manifest again.") from error
    return None
