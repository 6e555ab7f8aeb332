"""The end of an apply: the next version of the release, and the record of what was removed.

Until release.json is replaced, its checksums are those of the version before. Every step may be repeated: what is
written depends on the plan and on what the units left.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from dataset.card.card import write_card
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import (
    CHECKSUMS,
    HOSTS,
    HOSTS_SCHEMA,
    RECORD,
    FileKind,
    Release,
    ReleaseFile,
    ReleaseRecord,
    history_path,
)
from dataset.formats.takedowns import Applied, AppliedVersion, applied_path, log_event, read_applied, removed_path
from dataset.publish.hosts import mean_punsafe, merge_hosts
from dataset.publish.record import checksums
from dataset.takedown.plan import Work
from dataset.takedown.requests import this_person


def write_version(work: Work, files: Sequence[Mapping[str, Any]], removed: Mapping[str, int]) -> ReleaseRecord:
    """Make the version without the removed rows; `files` are the entries that changed. Return its record.

    Raises: StatsError, StoreError. The next call goes on from there.
    """
    store, before = work.release.store, work.release.record
    changed = {one["path"]: one for one in files}
    totals = Counter(before.removed)
    totals.update(removed)
    record = replace(
        before,
        version=work.plan.version,
        previous=before.version,
        published=work.time.date().isoformat(),
        removed=dict(sorted(totals.items())),
        files=tuple(_changed(file, changed.get(file.path)) for file in before.files),
    )
    release = Release(store, work.release.folder, record)
    store.put(release.path(history_path(before.version)), before.to_json())
    paths = [release.path(file.path) for file in record.files if file.kind is FileKind.HOSTS]
    with table_writer(store, release.path(HOSTS), HOSTS_SCHEMA) as writer:
        for counts in merge_hosts(store, paths):
            writer.write(mean_punsafe(counts))
    data = record.to_json()
    others = {**write_card(release), HOSTS: writer.file.sha256, RECORD: hashlib.sha256(data).hexdigest()}
    store.put(release.path(CHECKSUMS), checksums(record, others))
    store.put(release.path(RECORD), data)
    return record


def write_applied(work: Work, targets: pa.Table, removed: Mapping[str, int]) -> None:
    """Note which lists were applied, and which rows a version lacks if one was made.

    Raises: StoreError.
    """
    plan, store = work.plan, work.store
    applied = read_applied(store, plan.name)
    versions = applied.versions
    version = plan.version if removed else plan.before
    if len(targets):
        store.write_table(removed_path(plan.name, plan.time), targets)
        if all(one.time != plan.time for one in versions):
            versions = (*versions, AppliedVersion(version=version, time=plan.time, removed=removed))
    deny = tuple(dict.fromkeys((*plan.applied, *plan.deny)))
    store.put(applied_path(plan.name), to_json(Applied(deny=deny, versions=versions)))
    facts = {"by": this_person(), "version": version, "removed": dict(removed), "others": targets["id"].null_count}
    log_event(store, work.time, "applied", plan.name, facts)


def _changed(file: ReleaseFile, entry: Mapping[str, Any] | None) -> ReleaseFile:
    if entry is None:
        return file
    return replace(file, rows=entry["rows"], bytes=entry["bytes"], sha256=entry["sha256"])
