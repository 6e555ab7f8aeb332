"""Checks of the crawls that a release was made of: no output has the key, the row or the vector of a removed row."""

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.embeddings import IMAGES, METADATA, TEXTS, embeddings_folder
from dataset.formats.manifest import Output, outputs
from dataset.formats.npy import open_rows
from dataset.formats.releases import Release
from dataset.formats.shards import ANONYMOUS_COLUMNS, blank_value
from dataset.publish.deny import DenyRules
from dataset.store.store import Store
from dataset.takedown.checks import Check, FileCheck
from dataset.takedown.crawl_files import CrawlFile, CrawlUnit, plan_units
from dataset.takedown.crawl_rows import denied_rows, table_of


def crawl_checks(
    release: Release, targets: pa.Table, rules: Mapping[str, DenyRules], *, everything: bool
) -> Iterator[FileCheck]:
    """Yield the checks of the outputs that removed rows came from; of all outputs against the rules if `everything`."""
    stores: dict[str, Store] = {}

    def opened(uri: str) -> Store:
        return stores.setdefault(uri, release.input_store(uri))

    for unit in plan_units(release, targets):
        store = opened(unit.store)
        yield from _unit_checks(store, unit)
    if not everything:
        return
    for uri, run in dict.fromkeys((one.store, one.run) for one in release.record.inputs):
        store = opened(uri)
        if store.exists("manifest.parquet"):
            for output in outputs(store, run=run):
                yield from _output_checks(store, output, rules)


def _unit_checks(store: Store, unit: CrawlUnit) -> Iterator[FileCheck]:
    """Yield the checks of an output for keys, of those of its files that are there."""
    keys, stem = unit.keys, unit.stem

    def job(path: str, check: Check) -> Iterator[FileCheck]:
        if store.exists(path):
            yield FileCheck(store, path, check)

    match unit.kind:
        case CrawlFile.SHARD:
            yield from job(f"{stem}.tar", partial(_check_tar, store, f"{stem}.tar", keys))
            yield from job(f"{stem}.parquet", partial(_check_shard, store, f"{stem}.parquet", keys))
        case CrawlFile.PART:
            yield from job(f"{stem}.tar", partial(_check_tar, store, f"{stem}.tar", keys))
            for ending in (".parquet", ".scores.parquet"):
                path = f"{stem}{ending}"
                yield from job(path, partial(_check_keys, store, path, "key", keys))
            yield from _embeddings_checks(store, stem, keys)
        case CrawlFile.EMBEDDINGS:
            yield from _embeddings_checks(store, stem, keys)
        case CrawlFile.PACK:
            yield from job(f"{stem}.parquet", partial(_check_pack, store, f"{stem}.parquet", unit.rows))


def _embeddings_checks(store: Store, stem: str, keys: Sequence[str]) -> Iterator[FileCheck]:
    folder = embeddings_folder(stem)
    about = f"{folder}/{METADATA}"
    if not store.exists(about):
        return
    yield FileCheck(store, about, partial(_check_keys, store, about, "image_path", keys))
    for name in (IMAGES, TEXTS):
        path = f"{folder}/{name}"
        yield FileCheck(store, path, partial(_check_length, store, path, about))


def _check_tar(store: Store, path: str, keys: Sequence[str]) -> Iterator[str]:
    wanted = set(keys)
    with store.open_input(path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
        found = 0
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
            found += member.name.rpartition("/")[2].partition(".")[0] in wanted
    if found:
        yield f"{path} still has {found} members of removed samples."


def _check_shard(store: Store, path: str, keys: Sequence[str]) -> Iterator[str]:
    table = store.read_table(path)
    rows = table.filter(pc.is_in(table["key"], pa.array(keys, pa.string())))
    for name in rows.column_names:
        if name not in ANONYMOUS_COLUMNS:
            blank = blank_value(name)
            said = [value for value in rows[name].to_pylist() if value is not None and value != blank]
            if said:
                yield f"{path} still has the {name} of {len(said)} removed samples."


def _check_keys(store: Store, path: str, column: str, keys: Sequence[str]) -> Iterator[str]:
    found = pc.sum(pc.is_in(store.read_table(path, [column])[column], pa.array(keys, pa.string()))).as_py() or 0
    if found:
        yield f"{path} still has {found} removed rows."


def _check_length(store: Store, path: str, about: str) -> Iterator[str]:
    found, rows = open_rows(store, path).rows, store.read_table(about, ["image_path"]).num_rows
    if found != rows:
        yield f"{path} has {found} rows, its metadata {rows}."


def _check_pack(store: Store, path: str, rows: Sequence[int]) -> Iterator[str]:
    table = store.read_table(path)
    found = table.take(pa.array(rows, pa.int64()))
    for field_ in found.schema:
        said = [value for value in found[field_.name].to_pylist() if value not in (None, "")]
        if said and field_.name != "subset":
            yield f"{path} still has the {field_.name} of {len(said)} removed links."


def _output_checks(store: Store, output: Output, rules: Mapping[str, DenyRules]) -> Iterator[FileCheck]:
    """Yield the checks of an output of a crawl against the deny lists."""
    path = table_of(output)
    if path is not None and store.exists(path) and rules:
        yield FileCheck(store, path, partial(_check_output, store, path, rules))


def _check_output(store: Store, path: str, rules: Mapping[str, DenyRules]) -> Iterator[str]:
    """Compare the rows of a part, shard, pack or metadata with the rules that their columns allow."""
    count = sum(1 for _ in denied_rows(store, path, rules))
    if count:
        yield f"{path} has {count} rows that a deny list names: apply with --again --everything."
