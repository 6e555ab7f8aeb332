"""Rows of crawls that were never published, or lost their pair to another sample: compared with deny lists, too.

A shard has a row for every link that was asked for, so the keys of denied rows lead to other outputs; a pack has the
links that were not. Parts and embeddings are compared by themselves, too, for rows whose shard says nothing any more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.candidates.urls import host_of
from dataset.formats.embeddings import METADATA, embeddings_folder
from dataset.formats.manifest import Output, OutputKind, outputs
from dataset.formats.parts import pair_hash
from dataset.formats.releases import Release
from dataset.formats.takedowns import TARGETS_SCHEMA, TakedownError
from dataset.publish.deny import COLUMNS, DenyRules
from dataset.publish.digests import digest_bytes
from dataset.store.store import Store
from dataset.takedown.plan import Work
from dataset.takedown.provenance import trace_rows
from dataset.takedown.scan import denied

OUTPUTS_AT_ONCE = 200
"""Outputs of a unit."""
_NAMES = {"url": "URL", "caption": "TEXT", "text": "TEXT", "image_path": "key"}


@dataclass(frozen=True, slots=True)
class CrawlScan:
    """Unit `at`: some outputs of an input."""

    at: int
    input: int
    found: tuple[Output, ...]


def crawl_scans(release: Release) -> Iterator[CrawlScan]:
    """Yield the units of all crawls of a release whose manifests are there.

    Raises: ManifestError when one cannot be read.
    """
    inputs = release.record.inputs
    at = 0
    for number, one in enumerate(inputs):
        store = release.input_store(one.store)
        if (one.store, one.run) in {(other.store, other.run) for other in inputs[:number]}:
            continue
        if not store.exists("manifest.parquet"):
            continue
        listed = (output for output in outputs(store, run=one.run) if table_of(output) is not None)
        while some := tuple(islice(listed, OUTPUTS_AT_ONCE)):
            yield CrawlScan(at, number, some)
            at += 1


def scan_crawl(work: Work, rules: Mapping[str, DenyRules], unit: CrawlScan) -> None:
    """Write which rows of a unit are denied, as targets without an id.

    Raises: TakedownError when an output cannot be read; StoreError.
    """
    path = work.path(f"crawl_found/{unit.at:06d}.parquet")
    if work.store.exists(path):
        return
    described = work.release.record.inputs[unit.input]
    store = work.release.input_store(described.store)
    traced: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for output in unit.found:
        table = table_of(output)
        for row, reason in denied_rows(store, table, rules) if table and store.exists(table) else ():
            target = {"input": unit.input, "reason": reason}
            match output.kind:
                case OutputKind.SHARD:
                    traced.append(target | {"key": int(row["key"])})
                case OutputKind.PART:
                    others.append(target | {"key": int(row["key"]), "part": output.path})
                case OutputKind.EMBEDDINGS:
                    others.append(target | {"key": int(row["key"]), "embeddings": [output.path]})
                case _:
                    others.append(target | {"pack": output.path, "pack_row": row["at"]})
    if traced:
        trace_rows(store, described, traced)
    work.store.write_table(path, pa.Table.from_pylist([*traced, *others], schema=TARGETS_SCHEMA))


def table_of(output: Output) -> str | None:
    """Return the path of the table with an output's rows; None for an output that has no copies of rows."""
    match output.kind:
        case OutputKind.SHARD | OutputKind.PART | OutputKind.PACK:
            return f"{output.path}.parquet"
        case OutputKind.EMBEDDINGS:
            return f"{embeddings_folder(output.path)}/{METADATA}"
        case _:
            return None


def denied_rows(store: Store, path: str, rules: Mapping[str, DenyRules]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the denied rows of a shard, part, pack or metadata, by place `at` and `key`, each with the reason.

    Raises: TakedownError when it cannot be read.
    """
    start = 0
    try:
        with store.open_input(path) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                rows = parquet.read_row_group(group, use_threads=False)
                places = pa.array(range(start, start + len(rows)))
                start += len(rows)
                rows = comparable(rows.append_column("at", places))
                kinds = [kind for kind, columns in COLUMNS.items() if set(columns) <= set(rows.column_names)]
                reasons = denied(rows, {reason: one.only(kinds) for reason, one in rules.items()})
                hit = rows.filter(reasons.is_valid())
                names = [name for name in ("at", "key") if name in hit.column_names]
                yield from zip(hit.select(names).to_pylist(), reasons.drop_null().to_pylist(), strict=True)
    except (OSError, pa.ArrowException) as error:
        said = " ".join(str(error).split())
        raise TakedownError(f"{path} cannot be read ({said}): restore it from a copy.") from error


def comparable(rows: pa.Table) -> pa.Table:
    """Return rows of a crawl's table under the names and types that deny rules compare; blank rows are left out."""
    rows = rows.rename_columns([_NAMES.get(name, name) for name in rows.column_names])
    rows = rows.filter(pc.not_equal(pc.fill_null(rows["URL"], ""), ""))
    if "hash" not in rows.column_names and "TEXT" in rows.column_names:
        pairs = zip(rows["URL"].to_pylist(), rows["TEXT"].to_pylist(), strict=True)
        rows = rows.append_column("hash", pa.array([pair_hash(url, text or "") for url, text in pairs], pa.int64()))
    if "final_host" not in rows.column_names:
        urls = rows["final_url"] if "final_url" in rows.column_names else rows["URL"]
        rows = rows.append_column("final_host", pa.array([host_of(url or "") for url in urls.to_pylist()], pa.string()))
    if "pdq" in rows.column_names and pa.types.is_string(rows["pdq"].type):
        rows = rows.set_column(rows.column_names.index("pdq"), "pdq", digest_bytes(rows["pdq"], 32))
    return rows
