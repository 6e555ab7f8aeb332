"""Embeddings phase: removed rows leave every model's consolidated embeddings, and index.json says so.

Rows lie in the order of their sources, so the ids of every file are read: 8 bytes a row. The vectors of a touched file
are copied in pieces; the metadata keep their row groups.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset import strict_json
from dataset.formats.json_records import from_json
from dataset.formats.npy import open_rows, write_header
from dataset.formats.release_embeddings import (
    MISSING,
    EmbeddingsFile,
    EmbeddingsRecord,
    embeddings_path,
    find_embeddings,
    image_path,
    metadata_path,
    metadata_writer,
    text_path,
    write_embeddings_record,
)
from dataset.formats.release_parquet import HashedFile
from dataset.formats.releases import Release, ReleaseBatch
from dataset.formats.takedowns import TakedownError
from dataset.takedown.plan import Removed, Work
from dataset.takedown.release_files import file_digest, rewrite_groups

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_COPIED_BYTES = 16 << 20
REMOVED = "removed"
"""The reason among those for which source rows were left out."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The embeddings of one model and batch."""

    model: str
    batch: ReleaseBatch
    record: EmbeddingsRecord

    @property
    def path(self) -> str:
        """The folder in the release."""
        return embeddings_path(self.model, self.batch.name)

    @property
    def files(self) -> int:
        """The number of its files of each kind."""
        return sum(file.path.startswith("metadata/") for file in self.record.files)


def folders(release: Release) -> Iterator[Folder]:
    """Yield the embeddings of a release, by model and batch.

    Raises: ReleaseEmbeddingsError when a record is damaged; StoreError.
    """
    root = release.path("embeddings")
    paths = [path.removeprefix(f"{root}/") for path in release.store.list(root)]
    for model in sorted({path.partition("/")[0] for path in paths}):
        for batch in release.record.batches:
            record = find_embeddings(release, model, batch.name)
            if record is not None:
                yield Folder(model, batch, record)


def remove_from_embeddings(work: Work, gone: Removed) -> int:
    """Remove rows from all embeddings; return the bytes that were written.

    Raises: ReleaseEmbeddingsError, TakedownError when a file cannot be read; StoreError. The next call goes on from
        there.
    """
    return sum(_remove(work, folder, gone) for folder in list(folders(work.release)))


def _remove(work: Work, folder: Folder, gone: Removed) -> int:
    subsets = folder.batch.subsets
    first = min(one.first_id for one in subsets.values())
    mine = gone.between(first, max(one.first_id + one.rows for one in subsets.values()))
    if not len(mine.ids):
        return 0
    base = f"embeddings/{folder.model}/{folder.batch.name}"
    before = work.once(f"{base}/before.json", lambda: asdict(folder.record))
    record = from_json(EmbeddingsRecord, strict_json.dumps(before).encode())
    known = {file.path: file for file in record.files}
    done = [work.once(f"{base}/{at:06d}.json", partial(_rewrite, work, folder, at, mine)) for at in range(folder.files)]
    rows = sum(said["gone"] for said in done)
    if not rows and not len(mine.new):
        return 0
    embedded: Counter[str] = Counter()
    for said in done:
        known |= {one["path"]: EmbeddingsFile(**one) for one in said["files"]}
        embedded.update(said["new"])
    entry = work.once(f"{base}/missing.json", partial(_rewrite_missing, work, folder, mine.ids))
    known[MISSING] = EmbeddingsFile(**entry)
    removed = _by_subset(folder.batch, mine.new)
    left_out = Counter(record.left_out)
    left_out[REMOVED] += rows
    record = replace(
        record,
        version=gone.version,
        rows=record.rows - rows,
        left_out=dict(sorted(left_out.items())),
        missing={name: n - (removed.get(name, 0) - embedded[name]) for name, n in record.missing.items()},
        files=tuple(known[path] for path in sorted(known)),
    )
    write_embeddings_record(work.release, folder.model, record)
    return sum(int(said["bytes"]) for said in done)


def _rewrite(work: Work, folder: Folder, at: int, mine: Removed) -> dict[str, Any]:
    """Rewrite three files without rows; return their entries, how many rows are gone, and the new ones by subset.

    The metadata come last: a call that was ended before finds the ids in them, and the vectors that it has shortened.
    """
    release, store = work.release, work.release.store
    paths = image_path(at), text_path(at), metadata_path(at)
    places = [release.path(f"{folder.path}/{path}") for path in paths]
    noted = work.path(f"embeddings/{folder.model}/{folder.batch.name}/{at:06d}.ids")
    known = store.read_table(places[2], ["id"])["id"].to_numpy()
    if not work.store.exists(noted):
        found = known[np.isin(known, mine.ids)]
        if not len(found):
            return {"files": [], "gone": 0, "new": {}, "bytes": 0}
        work.store.put(noted, np.sort(found).astype("<i8").tobytes())
    gone = np.frombuffer(work.store.read(noted), "<i8")
    keep = ~np.isin(known, gone)
    for place in places[:2]:
        _shorten(release, place, keep)
    if not keep.all():
        _shorten_metadata(release, places[2], gone)
    entries = []
    for path in paths:
        size, sha256 = file_digest(release, f"{folder.path}/{path}")
        entries.append(asdict(EmbeddingsFile(path=path, rows=int(keep.sum()), bytes=size, sha256=sha256)))
    new = _by_subset(folder.batch, gone[np.isin(gone, mine.new)])
    return {"files": entries, "gone": len(gone), "new": new, "bytes": sum(one["bytes"] for one in entries)}


def _shorten(release: Release, place: str, keep: Mask) -> None:
    """Copy the vectors that are kept; do nothing if it was done before."""
    vectors = open_rows(release.store, place)
    if vectors.rows == int(keep.sum()):
        return
    if vectors.rows != len(keep):
        raise TakedownError(f"{place} has {vectors.rows} rows, its metadata {len(keep)}: write it anew with --restart.")
    step = max(1, _COPIED_BYTES // vectors.row_bytes)
    with release.store.write(place) as file:
        write_header(file, int(keep.sum()), vectors.dimensions)
        for start in range(0, vectors.rows, step):
            end = min(vectors.rows, start + step)
            file.write(np.ascontiguousarray(vectors.read(start, end)[keep[start:end]]).tobytes())


def _shorten_metadata(release: Release, place: str, ids: Integers) -> None:
    with (
        release.store.open_input(place) as source,
        release.store.write(place) as target,
        metadata_writer(HashedFile(target)) as writer,
    ):
        parquet = pq.ParquetFile(source)
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, use_threads=False).replace_schema_metadata(None)
            kept = rows.filter(pa.array(~np.isin(rows["id"].to_numpy(), ids)))
            if len(kept):
                writer.write_table(kept.combine_chunks())


def _rewrite_missing(work: Work, folder: Folder, ids: Integers) -> Mapping[str, Any]:
    """Take removed rows off the list of rows that have no embedding; return its entry."""
    path = f"{folder.path}/{MISSING}"
    writer = rewrite_groups(
        work.release, path, lambda rows: rows.filter(pa.array(~np.isin(rows["id"].to_numpy(), ids)))
    )
    return asdict(EmbeddingsFile(path=MISSING, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256))


def _by_subset(batch: ReleaseBatch, ids: Integers) -> dict[str, int]:
    return {
        name: int(np.count_nonzero((ids >= one.first_id) & (ids < one.first_id + one.rows)))
        for name, one in batch.subsets.items()
    }
