"""The end of a publish: write hosts.parquet, the card, checksums, the record of the previous version, and finally
release.json.

Until release.json is replaced, a reader sees the previous version; the files of the new batch have their own paths.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from dataset.card.card import write_card
from dataset.formats.deny_lists import list_deny_files
from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import (
    CHECKSUMS,
    FORMAT,
    HOSTS,
    HOSTS_SCHEMA,
    MAX_ID,
    PRIVATE,
    RECORD,
    STORES,
    FileKind,
    InputStores,
    Release,
    ReleaseBatch,
    ReleaseFile,
    ReleaseInput,
    ReleaseRecord,
    checksum_list,
    find_release,
    history_path,
    read_input_stores,
    recording_path,
    release_folder,
    require_live,
)
from dataset.formats.takedowns import applying_plan
from dataset.publish.errors import PublishError
from dataset.publish.hosts import mean_punsafe, merge_hosts
from dataset.publish.plan import Work
from dataset.store.lock import locked


def write_record(work: Work, batch: ReleaseBatch, files: Sequence[ReleaseFile]) -> ReleaseRecord:
    """Add the batch to the release, and return the new record.

    Raises: StoreError when the store cannot be written.
    """
    store = work.release_store
    store.put(recording_path(work.plan.name), b"")
    check_unchanged(work)
    before = find_release(store, work.plan.name)
    record = _next_record(work, before.record if before else None, batch, files)
    if before:
        store.put(work.release_path(history_path(before.record.version)), before.record.to_json())
    hosts = _write_hosts(work, record)
    card = write_card(Release(store, release_folder(record.name), record))
    data = record.to_json()
    others = {**card, HOSTS: hosts, RECORD: hashlib.sha256(data).hexdigest()}
    _write_input_stores(work)
    store.put(work.release_path(CHECKSUMS), checksums(record, others))
    store.put(work.release_path(RECORD), data)
    store.delete(recording_path(work.plan.name))
    return record


def check_unchanged(work: Work) -> None:
    """Check that there is no version, deny list or takedown that the plan does not know.

    Raises: PublishError; then nothing has been recorded.
    """
    try:
        _check_unchanged(work)
    except PublishError:
        work.release_store.delete(recording_path(work.plan.name))
        raise


def _check_unchanged(work: Work) -> None:
    plan = work.plan
    if work.release_store.exists(applying_plan(plan.name)):
        raise PublishError(
            f"A takedown is being applied to {plan.name}: finish it (dataset takedown apply {plan.name}), and start "
            "again with --restart."
        )
    release = find_release(work.release_store, plan.name)
    version = release.record.version if release else None
    if version != plan.previous:
        raise PublishError(
            f"{plan.name} is now version {version or 'none'}, and this publish began with {plan.previous or 'none'}: "
            "start again with --restart."
        )
    added = sorted(set(list_deny_files(work.release_store)) - set(plan.deny))
    if added:
        raise PublishError(
            f"{added[0]} was written after this publish of {plan.name} had begun, and the rows that it denies must not "
            "be published: start again with --restart."
        )


def checksums(record: ReleaseRecord, others: dict[str, str]) -> bytes:
    """Return SHA256SUMS of the public files; side tables and embeddings have their own."""
    return checksum_list({file.path: file.sha256 for file in record.files if file.kind not in PRIVATE} | others)


def refresh_card(release: Release) -> None:
    """Write the card of a version anew, after its side tables have changed, and SHA256SUMS.

    Raises: ReleaseError when rows were removed since the release was opened; StatsError when a data file cannot be
        counted; StoreError.
    """
    store = release.store
    with locked(store, release.folder):
        require_live(release)
        same = {name: hashlib.sha256(store.read(release.path(name))).hexdigest() for name in (HOSTS, RECORD)}
        store.put(release.path(CHECKSUMS), checksums(release.record, {**write_card(release), **same}))


def _next_record(
    work: Work, before: ReleaseRecord | None, batch: ReleaseBatch, files: Sequence[ReleaseFile]
) -> ReleaseRecord:
    plan = work.plan
    next_id = plan.first_id + sum(subset.rows for subset in batch.subsets.values())
    if next_id > MAX_ID:
        raise PublishError(f"{plan.name} would have ids above 2^53, which JSON readers round: publish another release.")
    order = list(FileKind)
    every = [*(before.files if before else ()), *files]
    return ReleaseRecord(
        format=FORMAT,
        name=plan.name,
        version=plan.version,
        previous=plan.previous,
        published=plan.published,
        inputs=(*(before.inputs if before else ()), *_named_inputs(work)),
        options=plan.options,
        card=plan.card,
        columns=plan.columns,
        aesthetic=plan.aesthetic,
        next_id=next_id,
        batches=(*(before.batches if before else ()), batch),
        removed=before.removed if before else {},
        files=tuple(sorted(every, key=lambda file: (order.index(file.kind), file.variant or "", file.first_id))),
    )


def _input_stores(work: Work) -> dict[str, str]:
    """Return the names of other stores by URI: those that have one, then those of this batch, numbered."""
    names = {uri: name for name, uri in read_input_stores(work.release_store, release_folder(work.plan.name)).items()}
    for one in work.plan.inputs:
        if one.store != ".":
            names.setdefault(one.store, f"store-{len(names) + 1}")
    return names


def _named_inputs(work: Work) -> list[ReleaseInput]:
    """Return the inputs of the batch as release.json names them: without the URIs of others' stores."""
    names = _input_stores(work)
    return [replace(one, store=names.get(one.store, one.store)) for one in work.plan.inputs]


def _write_input_stores(work: Work) -> None:
    names = _input_stores(work)
    if names:
        stores = InputStores(format=FORMAT, stores={name: uri for uri, name in names.items()})
        work.release_store.put(work.release_path(STORES), to_json(stores))


def _write_hosts(work: Work, record: ReleaseRecord) -> str:
    """Add up the hosts of all files, and return the sha256 of hosts.parquet."""
    paths = [work.release_path(file.path) for file in record.files if file.kind is FileKind.HOSTS]
    with table_writer(work.release_store, work.release_path(HOSTS), HOSTS_SCHEMA) as writer:
        for counts in merge_hosts(work.release_store, paths):
            writer.write(mean_punsafe(counts))
    return writer.file.sha256
