"""Side tables phase: removed rows leave the files of every side table, and side_tables.json says so.

In `duplicates`, rows of the same groups change, too. A file that changes is written under the release's new version
(`dataset.formats.versions`); the others stay where they are.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.duplicates import NAME
from dataset.formats.releases import FileKind
from dataset.formats.side_tables import SideFile, SideTable, read_side_tables, side_path_in, write_side_tables
from dataset.takedown.duplicates import write_changes
from dataset.takedown.plan import Removed, Work
from dataset.takedown.release_files import file_digest, rewrite_groups

Integers = npt.NDArray[np.int64]


def remove_from_side_tables(work: Work, gone: Removed) -> int:
    """Remove rows from every side table; return the bytes that were written.

    Raises: SideTableError when the record is damaged; TakedownError, StoreError. The next call goes on from there.
    """
    release = work.release
    changes = write_changes(work, gone)
    changed_ids = changes["id"].to_numpy()
    ranges = {file.path: (file.first_id, file.last_id + 1) for file in release.files(FileKind.DATA)}
    changed: dict[str, SideTable] = {}
    total = 0
    for name, table in read_side_tables(release).items():
        files = []
        for at, file in enumerate(table.files):
            first, end = np.searchsorted(gone.ids, ranges.get(file.data, (0, 0)))
            low, high = np.searchsorted(changed_ids, ranges.get(file.data, (0, 0))) if name == NAME else (0, 0)
            if first == end and low == high:
                files.append(file)
                continue
            marker = f"side/{name}-{table.generation}-{at:06d}.json"
            ids, new = gone.ids[first:end], changes.slice(low, high - low)
            said = work.once(marker, partial(_rewrite, work, file, gone.version, ids, new))
            files.append(SideFile(**said["file"]))
            total += said["bytes"]
        rows = sum(file.rows for file in files)
        changed[name] = replace(table, version=gone.version, rows=rows, files=tuple(files))
    if changed:
        write_side_tables(release, changed.values())
    return total


def _rewrite(work: Work, file: SideFile, version: str, ids: Integers, changes: pa.Table) -> dict[str, Any]:
    """Rewrite a file without rows, and with changed ones; return its entry, and the bytes that were written."""
    release, wanted = work.release, pa.array(ids)
    known = release.store.read_table(release.path(file.path), ["id"])["id"]
    if not len(changes) and not pc.any(pc.is_in(known, wanted)).as_py():
        # No such row is here, or an earlier call, which made the version that is live, was ended behind this.
        size, sha256 = file_digest(release, file.path)
        return {"file": asdict(replace(file, rows=len(known), bytes=size, sha256=sha256)), "bytes": 0}

    def change(rows: pa.Table) -> pa.Table:
        rows = rows.filter(pc.invert(pc.is_in(rows["id"], wanted)))
        new = changes.filter(pc.is_in(changes["id"], rows["id"].combine_chunks()))
        if not len(new):
            return rows
        same = rows.filter(pc.invert(pc.is_in(rows["id"], new["id"].combine_chunks())))
        return pa.concat_tables([same, new.select(rows.column_names).cast(rows.schema)]).sort_by("id")

    path = side_path_in(file.path, version)
    writer = rewrite_groups(release, file.path, change, path)
    entry = replace(file, path=path, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
    return {"file": asdict(entry), "bytes": entry.bytes}
