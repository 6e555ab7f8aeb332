"""`dataset reshard`: the pictures of a selection that are still kept, as shuffled WebDataset tars.

    selection ─▶ source/ ─▶ input and key of each row ─▶ tars, each read once ─▶ buckets by priority ─▶ 00000.tar …

Invariant: nothing is downloaded, and every selected row becomes one or more samples, is in `missing.parquet`, is not
drawn, or has been removed from the release. The bytes depend only on the selection, the options and the columns that
they name. It needs 26 bytes of memory for each selected row, and space on the local disk for a copy of all samples'
pictures.
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
from dataset.formats.releases import MAX_ID, Release
from dataset.formats.selections import SelectionRecord, read_selection
from dataset.formats.shard_writer import tar_header
from dataset.select.candidates import priorities
from dataset.select.copies import ColumnReader, choose_captions, draw_copies, sample_key, sample_numbers
from dataset.select.errors import SelectError
from dataset.select.pictures import KEY_POSITIONS, PictureTar, find_tars, picture_members, source_rows
from dataset.select.spool import Picture, Spool
from dataset.side_tables.rows import ReleaseRows
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.screen import Screen

Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

RECORD = "reshard.json"
MISSING = "missing.parquet"
SIZES = "sizes.json"
"""The number of samples of each tar, which open_clip's trainer reads."""
_SAMPLE_BYTES = 100_000
"""Assumed bytes per picture, for the number of buckets: twice the mean of LAION at 256 pixels."""

_SAMPLES_AT_ONCE = 100
_IDS_AT_ONCE = 1 << 17
_SAMPLE, _CAPTION = "reshard.sample", "reshard.caption"
"""Columns that only the spool has; the dot distinguishes them from a release's."""
_TEXTS = frozenset({"URL", "TEXT", "LANGUAGE", "sha256", "subset"})
"""Columns in which '' replaces null, as in shards, because `datasets` infers types from the first samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TarFile:
    """A tar that was written."""

    path: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardRecord:
    """The content of reshard.json. Selected rows = samples - repeated + missing + not_drawn + removed."""

    release: str
    version: str
    where: str
    seed: int
    caption: str | None
    copies: str | None
    """The release's columns with captions, and with the number of copies; None means TEXT, and one sample of each
    row.
    """
    samples: int
    repeated: int
    """Samples that are second or later copies of a row."""
    missing: int
    """Rows whose pictures are not kept any more: missing.parquet lists them for download."""
    not_drawn: int
    """Rows of which `copies` drew no sample."""
    removed: int
    """Rows that were removed from the release after they were selected."""
    tars: tuple[TarFile, ...]


def reshard(
    release: Release,
    selection: Store,
    out: Store,
    *,
    screen: Screen | None = None,
    samples_per_shard: int = 10_000,
    seed: int = 0,
    caption: str | None = None,
    copies: str | None = None,
    memory_bytes: int = 1 << 30,
    threads: int = 1,
    scratch: Path | None = None,
    on_progress: Progress = lambda *_: None,
) -> ReshardRecord:
    """Write the tars, the list of missing pictures, and the record last. When called again, it starts from the
    beginning.

    Rows that `screen` hides count as removed. `caption` names a column of captions, strings or lists of them; a row
    without one keeps TEXT. `copies` names a column of numbers: samples of a row, on average.

    Raises: SelectError when the selection is not of this release, a column cannot be used, or the folder contains other
    files; StoreError.
    """
    record = read_selection(selection)
    if record.release != release.record.name:
        raise SelectError(f"{selection.uri} was selected from {record.release}, not from {release.record.name}.")
    release_rows = ReleaseRows.open(release)
    captions = ColumnReader(release_rows, caption, "caption") if caption else None
    numbers = ColumnReader(release_rows, copies, "number") if copies else None
    _make_room(out)
    ids = _read_ids(selection, record)
    inputs, keys = source_rows(release, ids)
    hidden = _hidden_ids(selection, record, screen) if screen and screen.columns else np.empty(0, np.int64)
    inputs[np.isin(ids, hidden)] = keys[np.isin(ids, hidden)] = -1
    alive = keys >= 0
    counts = draw_copies(numbers, _chunks(ids), seed) if numbers else np.ones(len(ids), np.uint16)
    not_drawn = int(np.count_nonzero(alive & (counts == 0)))
    counts[~alive] = 0
    schema = _schema(selection, record)
    spooled = pa.schema([*schema, (_SAMPLE, pa.int64()), (_CAPTION, pa.string())])
    buckets = max(1, int(counts.sum(dtype=np.int64)) * _SAMPLE_BYTES // memory_bytes)
    with (
        tempfile.TemporaryDirectory(prefix="shoal-reshard-", dir=scratch) as folder,
        Spool(Path(folder), spooled, buckets) as spool,
    ):
        start = 0
        for rows in _read_rows(selection, record):
            some, start = counts[start : start + len(rows)], start + len(rows)
            samples = _samples_of(rows, some, captions, seed)
            spool.add_rows(samples, priorities(samples[_SAMPLE].to_numpy(), seed))
        spool.end_rows()
        drawn = Drawn(ids, inputs, keys, counts)
        _gather(release, spool, drawn, seed, threads, on_progress)
        tars, missing = _write_all(spool, out, schema, samples_per_shard, on_progress)
    samples_in_all = sum(tar.samples for tar in tars)
    removed = len(ids) - int(np.count_nonzero(alive))
    out.put(SIZES, strict_json.dumps({tar.path: tar.samples for tar in tars}).encode())
    found = ReshardRecord(
        release=record.release,
        version=record.version,
        where=record.where,
        seed=seed,
        caption=caption,
        copies=copies,
        samples=samples_in_all,
        repeated=samples_in_all - (len(ids) - missing - not_drawn - removed),
        missing=missing,
        not_drawn=not_drawn,
        removed=removed,
        tars=tuple(tars),
    )
    out.put(RECORD, to_json(found))
    return found


@dataclass(frozen=True, slots=True)
class Drawn:
    """The selected rows by id: the places of their pictures, and the number of samples that they become; each (N,)."""

    ids: Integers
    inputs: Integers
    keys: Integers
    copies: npt.NDArray[np.uint16]


def _samples_of(rows: pa.Table, copies: npt.NDArray[np.uint16], captions: ColumnReader | None, seed: int) -> pa.Table:
    """Return a row for each sample, with its number and its caption."""
    ids = rows["id"].to_numpy()
    places, numbers = sample_numbers(ids, copies)
    chosen = pa.nulls(len(numbers), pa.string())
    if captions is not None and len(ids):
        chosen = choose_captions(pc.take(captions.read(ids), pa.array(places)), numbers, seed)
    return rows.take(pa.array(places)).append_column(_SAMPLE, pa.array(numbers)).append_column(_CAPTION, chosen)


def _gather(release: Release, spool: Spool, drawn: Drawn, seed: int, threads: int, on_progress: Progress) -> None:
    """Read each tar once, and put the pictures of selected rows into the spool."""
    for number in np.unique(drawn.inputs[drawn.copies > 0]):
        rows = np.flatnonzero((drawn.inputs == number) & (drawn.copies > 0))
        rows = rows[np.argsort(drawn.keys[rows])]
        ordered = drawn.keys[rows]
        tars = list(find_tars(release, release.record.inputs[number], np.unique(ordered // KEY_POSITIONS)))

        def read(tar: PictureTar, rows: Integers = rows, ordered: Integers = ordered) -> None:
            low, high = np.searchsorted(ordered, (tar.job * KEY_POSITIONS, (tar.job + 1) * KEY_POSITIONS))
            wanted = {f"{key:015d}": row for key, row in zip(ordered[low:high].tolist(), rows[low:high], strict=True)}
            for key, ending, data in picture_members(tar, wanted):
                row = slice(wanted[key], wanted[key] + 1)
                _, samples = sample_numbers(drawn.ids[row], drawn.copies[row])
                for sample, priority in zip(samples.tolist(), priorities(samples, seed).tolist(), strict=True):
                    spool.add_picture(Picture(priority, sample, ending, data))

        for done, _ in enumerate(map_in_order(read, tars, threads), 1):
            on_progress("reading", done, len(tars))


def _write_all(
    spool: Spool, out: Store, schema: pa.Schema, samples_per_shard: int, on_progress: Progress
) -> tuple[list[TarFile], int]:
    """Write the pictures into tars, bucket after bucket, and the rows without one into missing.parquet."""
    tars: list[TarFile] = []
    with table_writer(out, MISSING, schema) as missing:

        def samples() -> Iterator[tuple[Picture, dict[str, Any]]]:
            for bucket in range(spool.buckets):
                rows = spool.rows(bucket).sort_by(_SAMPLE)
                known = rows[_SAMPLE].to_numpy()
                seen = np.zeros(len(rows), bool)
                pictures = spool.pictures(bucket)
                while some := list(islice(pictures, _SAMPLES_AT_ONCE)):
                    places = np.searchsorted(known, np.array([picture.sample for picture in some], np.int64))
                    seen[places] = True
                    yield from zip(some, rows.take(pa.array(places)).to_pylist(), strict=True)
                missing.write(rows.filter(pa.array(~seen & (known < MAX_ID))))
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
    """A file that counts and hashes the bytes that are written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self._file.write(data)
        self.bytes += len(data)


def _write_sample(file: _Hashed, picture: Picture, row: Mapping[str, Any]) -> None:
    """Write a sample's three members."""
    about = {
        name: "" if value is None and name in _TEXTS else value
        for name, value in row.items()
        if name not in (_SAMPLE, _CAPTION)
    }
    members = {
        picture.ending: picture.data,
        "txt": (row[_CAPTION] or row["TEXT"] or "").encode(),
        "json": strict_json.dumps(about, ensure_ascii=False).encode(),
    }
    for ending, data in members.items():
        file.write(tar_header(f"{sample_key(picture.sample)}.{ending}", len(data)))
        file.write(data)
        file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _make_room(out: Store) -> None:
    """Delete the files of an unfinished call.

    Raises: SelectError when the folder contains anything else.
    """
    left = out.list()
    if RECORD in left:
        raise SelectError(f"{out.uri} contains a resharded selection: name another folder, or delete this one.")
    strange = [
        path for path in left if not (path in (MISSING, SIZES) or (path.endswith(".tar") and path[:-4].isdigit()))
    ]
    if strange:
        raise SelectError(f"{out.uri} contains other files, such as {strange[0]}: name an empty folder.")
    for path in left:
        out.delete(path)


def _schema(selection: Store, record: SelectionRecord) -> pa.Schema:
    with selection.open_input(record.files[0].path) as file:
        return pq.ParquetFile(file).schema_arrow.remove_metadata()


def _read_ids(selection: Store, record: SelectionRecord) -> Integers:
    """Read the ids of all rows, which are sorted."""
    columns = (selection.read_table(file.path, ["id"])["id"].to_numpy() for file in record.files)
    return np.concatenate([np.empty(0, np.int64), *columns])


def _hidden_ids(selection: Store, record: SelectionRecord, screen: Screen) -> Integers:
    return np.concatenate([rows["id"].to_numpy()[screen.hidden(rows)] for rows in _read_rows(selection, record)])


def _chunks(ids: Integers) -> Iterator[Integers]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[start : start + _IDS_AT_ONCE]


def _read_rows(selection: Store, record: SelectionRecord) -> Iterator[pa.Table]:
    for file in record.files:
        with selection.open_input(file.path) as opened:
            parquet = pq.ParquetFile(opened)
            for at in range(parquet.num_row_groups):
                yield parquet.read_row_group(at, use_threads=False).replace_schema_metadata(None)
