"""Side tables phase: removed rows leave the files of every side table, and side_tables.json says so."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.releases import FileKind
from dataset.formats.side_tables import SideFile, SideTable, read_side_tables, write_side_tables
from dataset.takedown.plan import Removed, Work
from dataset.takedown.release_files import file_digest, rewrite_groups

Integers = npt.NDArray[np.int64]


def remove_from_side_tables(work: Work, gone: Removed) -> int:
    """Remove rows from every side table; return the bytes that were written.

    Raises: SideTableError when the record is damaged; TakedownError, StoreError. The next call goes on from there.
    """
    release = work.release
    ranges = {file.path: (file.first_id, file.last_id + 1) for file in release.files(FileKind.DATA)}
    changed: dict[str, SideTable] = {}
    total = 0
    for name, table in read_side_tables(release).items():
        files = []
        for at, file in enumerate(table.files):
            first, end = np.searchsorted(gone.ids, ranges.get(file.data, (0, 0)))
            if first == end:
                files.append(file)
                continue
            marker = f"side/{name}-{table.generation}-{at:06d}.json"
            said = work.once(marker, partial(_rewrite, work, file, gone.ids[first:end]))
            files.append(SideFile(**said["file"]))
            total += said["bytes"]
        rows = sum(file.rows for file in files)
        changed[name] = replace(table, version=gone.version, rows=rows, files=tuple(files))
    if changed:
        write_side_tables(release, changed.values())
    return total


def _rewrite(work: Work, file: SideFile, ids: Integers) -> dict[str, Any]:
    """Rewrite a file without rows; return its entry, and the bytes that were written."""
    release, wanted = work.release, pa.array(ids)
    known = release.store.read_table(release.path(file.path), ["id"])["id"]
    if not pc.any(pc.is_in(known, wanted)).as_py():  # none has a row here, or an earlier call was ended behind this
        size, sha256 = file_digest(release, file.path)
        return {"file": asdict(replace(file, rows=len(known), bytes=size, sha256=sha256)), "bytes": 0}
    writer = rewrite_groups(release, file.path, lambda rows: rows.filter(pc.invert(pc.is_in(rows["id"], wanted))))
    entry = replace(file, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
    return {"file": asdict(entry), "bytes": entry.bytes}
