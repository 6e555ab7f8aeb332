"""`dataset reshard`: the pictures of a selection that are still kept, as shuffled WebDataset tars.

    selection ─▶ source/ ─▶ input and key of each row ─▶ tars, each read once ─▶ buckets by priority ─▶ 00000.tar …

Invariant: nothing is downloaded, and every selected row is a sample, in `missing.parquet`, or removed from the release.
The bytes depend on the selection, the seed and the size alone. It holds 24 bytes for each selected row, and needs the
pictures' bytes once more on the local disk.
"""

import hashlib
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset import strict_json
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import Release
from dataset.formats.selections import SelectionRecord, read_selection
from dataset.formats.shard_writer import tar_header
from dataset.select.candidates import priorities
from dataset.select.errors import SelectError
from dataset.select.pictures import KEY_POSITIONS, PictureTar, find_tars, source_rows
from dataset.select.spool import Picture, Spool
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.screen import Screen

Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

RECORD = "reshard.json"
MISSING = "missing.parquet"
_SAMPLE_BYTES = 100_000
"""Assumed bytes per picture, for the number of buckets: twice the mean of LAION at 256 pixels."""

_SAMPLES_AT_ONCE = 100
_TEXTS = frozenset({"URL", "TEXT", "LANGUAGE", "sha256", "subset"})
"""'' where they are null, as in shards: `datasets` infers types from the first samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarFile:
    """A tar that was written."""

    path: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardRecord:
    """The content of reshard.json. Selected rows = samples + missing + removed."""

    release: str
    version: str
    where: str
    seed: int
    samples: int
    missing: int
    """Rows whose pictures are no longer kept: missing.parquet lists them for download."""
    removed: int
    """Rows that were taken out of the release after they were selected."""
    tars: tuple[TarFile, ...]


def reshard(
    release: Release,
    selection: Store,
    out: Store,
    *,
    screen: Screen | None = None,
    samples_per_shard: int = 10_000,
    seed: int = 0,
    memory_bytes: int = 1 << 30,
    threads: int = 1,
    scratch: Path | None = None,
    on_progress: Progress = lambda *_: None,
) -> ReshardRecord:
    """Write the tars, the list of what is missing, and the record last. Called again, it begins anew.

    Rows that `screen` hides count as removed.

    Raises: SelectError when the selection is not of this release, or the folder holds something else; StoreError.
    """
    record = read_selection(selection)
    if record.release != release.record.name:
        raise SelectError(f"{selection.uri} was selected from {record.release}, not from {release.record.name}.")
    _make_room(out)
    ids = _read_ids(selection, record)
    inputs, keys = source_rows(release, ids)
    hidden = _hidden_ids(selection, record, screen) if screen and screen.columns else np.empty(0, np.int64)
    inputs[np.isin(ids, hidden)] = keys[np.isin(ids, hidden)] = -1
    removed = int(np.count_nonzero(keys < 0))
    schema = _schema(selection, record)
    buckets = max(1, len(ids) * _SAMPLE_BYTES // memory_bytes)
    with (
        tempfile.TemporaryDirectory(prefix="shoal-reshard-", dir=scratch) as folder,
        Spool(Path(folder), schema, buckets) as spool,
    ):
        alive = ids[keys >= 0]
        for rows in _read_rows(selection, record):
            kept = rows.filter(pc.is_in(rows["id"], pa.array(alive))) if removed else rows
            spool.add_rows(kept, priorities(kept["id"].to_numpy(), seed))
        spool.end_rows()
        _gather(release, spool, ids, inputs, keys, seed, threads, on_progress)
        tars, missing = _write_all(spool, out, schema, samples_per_shard, on_progress)
    found = ReshardRecord(
        release=record.release,
        version=record.version,
        where=record.where,
        seed=seed,
        samples=sum(tar.samples for tar in tars),
        missing=missing,
        removed=removed,
        tars=tuple(tars),
    )
    out.put(RECORD, to_json(found))
    return found


def _gather(
    release: Release,
    spool: Spool,
    ids: Integers,
    inputs: Integers,
    keys: Integers,
    seed: int,
    threads: int,
    on_progress: Progress,
) -> None:
    """Read each tar once, and put the pictures of selected rows into the spool."""
    for number in np.unique(inputs[inputs >= 0]):
        rows = np.flatnonzero(inputs == number)
        rows = rows[np.argsort(keys[rows])]
        ordered = keys[rows]
        tars = list(find_tars(release, release.record.inputs[number], np.unique(ordered // KEY_POSITIONS)))

        def read(tar: PictureTar, rows: Integers = rows, ordered: Integers = ordered) -> None:
            low, high = np.searchsorted(ordered, (tar.job * KEY_POSITIONS, (tar.job + 1) * KEY_POSITIONS))
            some = ids[rows[low:high]]
            order = priorities(some, seed)
            wanted = {f"{key:015d}": at for at, key in enumerate(ordered[low:high].tolist())}
            for key, ending, data in _members(tar, wanted):
                at = wanted[key]
                spool.add_picture(Picture(int(order[at]), int(some[at]), ending, data))

        for done, _ in enumerate(map_in_order(read, tars, threads), 1):
            on_progress("reading", done, len(tars))


def _members(tar: PictureTar, wanted: Mapping[str, int]) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, ending and bytes of the pictures that are wanted, each once; a tar that breaks off ends there."""
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


def _write_all(
    spool: Spool, out: Store, schema: pa.Schema, samples_per_shard: int, on_progress: Progress
) -> tuple[list[TarFile], int]:
    """Write the pictures into tars, bucket after bucket, and the rows without one into the list of what is missing."""
    tars: list[TarFile] = []
    with table_writer(out, MISSING, schema) as missing:

        def samples() -> Iterator[tuple[Picture, dict[str, Any]]]:
            for bucket in range(spool.buckets):
                rows = spool.rows(bucket).sort_by("id")
                known = rows["id"].to_numpy()
                seen = np.zeros(len(rows), bool)
                pictures = spool.pictures(bucket)
                while some := list(islice(pictures, _SAMPLES_AT_ONCE)):
                    places = np.searchsorted(known, np.array([picture.id for picture in some], np.int64))
                    seen[places] = True
                    yield from zip(some, rows.take(pa.array(places)).to_pylist(), strict=True)
                missing.write(rows.filter(pa.array(~seen)))
                on_progress("writing", bucket + 1, spool.buckets)

        waiting = samples()
        first = next(waiting, None)
        while first is not None:
            path = f"{len(tars):05d}.tar"
            with out.write(path) as file:
                hashed = _Hashed(file)
                count = 0
                while first is not None and count < samples_per_shard:
                    _write_sample(hashed, *first)
                    count += 1
                    first = next(waiting, None)
                hashed.write(bytes(2 * tarfile.BLOCKSIZE))
            tars.append(TarFile(path=path, samples=count, bytes=hashed.bytes, sha256=hashed.digest.hexdigest()))
    return tars, missing.rows


class _Hashed:
    """A file that counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self._file.write(data)
        self.bytes += len(data)


def _write_sample(file: _Hashed, picture: Picture, row: Mapping[str, Any]) -> None:
    """Write a sample's three members, named by its id."""
    about = {name: "" if value is None and name in _TEXTS else value for name, value in row.items()}
    members = {
        picture.ending: picture.data,
        "txt": (row["TEXT"] or "").encode(),
        "json": strict_json.dumps(about, ensure_ascii=False).encode(),
    }
    for ending, data in members.items():
        file.write(tar_header(f"{picture.id:015d}.{ending}", len(data)))
        file.write(data)
        file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _make_room(out: Store) -> None:
    """Delete what an unfinished call left.

    Raises: SelectError when the folder holds anything else.
    """
    left = out.list()
    if RECORD in left:
        raise SelectError(f"{out.uri} holds a resharded selection: name another folder, or delete this one.")
    strange = [path for path in left if not (path == MISSING or (path.endswith(".tar") and path[:-4].isdigit()))]
    if strange:
        raise SelectError(f"{out.uri} holds other files, such as {strange[0]}: name an empty folder.")
    for path in left:
        out.delete(path)


def _schema(selection: Store, record: SelectionRecord) -> pa.Schema:
    with selection.open_input(record.files[0].path) as file:
        return pq.ParquetFile(file).schema_arrow.remove_metadata()


def _read_ids(selection: Store, record: SelectionRecord) -> Integers:
    """Read the ids of all rows, which are in order."""
    columns = (selection.read_table(file.path, ["id"])["id"].to_numpy() for file in record.files)
    return np.concatenate([np.empty(0, np.int64), *columns])


def _hidden_ids(selection: Store, record: SelectionRecord, screen: Screen) -> Integers:
    return np.concatenate([rows["id"].to_numpy()[screen.hidden(rows)] for rows in _read_rows(selection, record)])


def _read_rows(selection: Store, record: SelectionRecord) -> Iterator[pa.Table]:
    for file in record.files:
        with selection.open_input(file.path) as opened:
            parquet = pq.ParquetFile(opened)
            for at in range(parquet.num_row_groups):
                yield parquet.read_row_group(at, use_threads=False).replace_schema_metadata(None)
