"""Check that no link was lost or counted twice.

The plain audit sums the ledger. The exact audit compares the ledger with what exists: the rows of the pool, of `again`
and of the batches, counted in one snapshot (REPEATABLE READ), and the final outcomes in the parquet files of all shards
that the manifest lists. A shard whose pictures were deleted keeps its parquet. The links of a discarded batch are in no
shard; they are counted in the batch, which stays.

The list of outputs is written to a local file in that snapshot, because shards are read for hours after it. Memory is
bounded by one row group, even with 15 million outputs.

Counts alone would not notice a row of the pool that replaced another, so the links' keys are compared, too.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from tracker.accounts.balance import BloomCost, bloom_cost
from tracker.accounts.ledger import Accounts, accounts, total
from tracker.accounts.link_keys import Keys, KeysOfRuns, LinkKeys, opened_keys
from tracker.database.database import Connection, query, translated
from tracker.storage.manifest import ListedOutputs, list_outputs
from tracker.storage.open import open_store

DISCARDED = "discarded"  # the outcome of the links of a discarded batch; no worker can report it
TARS_AT_ONCE = 1000
TABLES = {"embeddings": ".embeddings/metadata/metadata_0.parquet"}
"""The ending of the file with an output's rows, for kinds where it is not .parquet."""
BUILT = frozenset({"index", "dedup", "tag"})
"""Kinds of outputs that the audit skips: their own records list and check the files, which takedowns and later versions
change.
"""
REMOVED_KEY = b"shoal.removed"
"""In the metadata of such a file: rows that takedowns have removed since the manifest counted them."""
STILL_THERE = "SELECT path FROM tracker.manifest WHERE path = ANY (%s) AND tar_deleting_at IS NULL ORDER BY path"


@dataclass(slots=True)
class Audit:
    """The result; `differences` are sentences, one for each number that is wrong."""

    accounts: Accounts
    bloom: BloomCost
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.differences

    def to_json(self) -> dict[str, object]:
        whole = total(self.accounts)
        return {
            "holds": self.holds,
            "in": whole.came_in,
            "pool": whole.pool,
            "again": whole.again,
            "leased": whole.leased,
            "finished": dict(sorted(whole.finished.items())),
            "bloom": asdict(self.bloom) | {"expected_rate": self.bloom.expected_rate},
            "differences": self.differences,
            "runs": [
                {"run": run, "subset": subset} | asdict(of) | {"missing": of.missing}
                for (run, subset), of in sorted(self.accounts.items())
            ],
        }


def audit(connection: Connection) -> Audit:
    """Check the sums of the ledger."""
    found = Audit(accounts(connection), bloom_cost(connection))
    for (run, subset), of in sorted(found.accounts.items()):
        if of.missing:
            lost = "lost" if of.missing > 0 else "there twice"
            found.differences.append(f"run {run}, {subset}: {abs(of.missing)} links are {lost} by the ledger")
        if min(of.pool, of.again, of.leased) < 0:
            found.differences.append(f"run {run}, {subset}: the ledger is below zero: {of}")
    return found


def audit_exact(connection: Connection, store: str) -> Audit:
    """Check the sums of the ledger, the rows of the database, and the shards in the store."""
    with opened_keys() as keys, tempfile.TemporaryDirectory(prefix="shoal-audit-") as folder:
        return _audit_exact(connection, store, keys, Path(folder))


def _audit_exact(connection: Connection, store: str, keys: KeysOfRuns, folder: Path) -> Audit:
    with translated(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        found = audit(connection)
        rows = connection.execute(query("counted")).fetchall()
        piled = connection.execute(query("piled")).fetchall()
        listed = list_outputs(connection, folder / "outputs.parquet")
        runs = {row["name"]: row["run_id"] for row in connection.execute("SELECT name, run_id FROM tracker.run")}
        keys.add_alive(connection)
    counted = {(row["run"], row["subset"], row["account"]): int(row["n"]) for row in rows}
    for run, subset in sorted(set(found.accounts) | {(run, subset) for run, subset, _ in counted}):
        of = found.accounts.get((run, subset))
        for place in ("pool", "again", "leased"):
            booked, there = getattr(of, place, 0), counted.get((run, subset, place), 0)
            if booked != there:
                found.differences.append(f"run {run}, {subset}: {place} holds {there} rows, the ledger says {booked}")
        booked, there = of.finished.get(DISCARDED, 0) if of else 0, counted.get((run, subset, DISCARDED), 0)
        if booked != there:
            found.differences.append(
                f"run {run}, {subset}: discarded batches hold {there} links, the ledger says {booked}"
            )
    found.differences += [
        f"run {row['run']}: there are {row['there']} {row['what']}, the ledger says {row['booked']}" for row in piled
    ]
    found.differences += _compare_shards(found.accounts, listed, store, {run: keys.of(of) for run, of in runs.items()})
    found.differences += _missing_tars(connection, listed, store)
    return found


def _compare_shards(booked: Accounts, listed: ListedOutputs, store: str, keys: Mapping[str, LinkKeys]) -> list[str]:
    filesystem = open_store(store)
    differences: list[str] = []
    finals: Counter[tuple[str, str, str]] = Counter()
    for output in listed:
        if output["kind"] in BUILT:
            continue
        path = f"{output['path']}{TABLES.get(output['kind'], '.parquet')}"
        try:
            if output["kind"] == "shard":
                table = pq.read_table(
                    path, filesystem=filesystem, columns=["outcome", "final", "subset", "pack", "pack_row"]
                )
                n = table.num_rows
                final = table.filter(pc.field("final"))
                keys[output["run"]].add("final", _keys(final))
                for count in final.group_by(["subset", "outcome"]).aggregate([([], "count_all")]).to_pylist():
                    finals[output["run"], count["subset"], count["outcome"]] += count["count_all"]
            else:
                metadata = pq.read_metadata(path, filesystem=filesystem)
                n = metadata.num_rows + int((metadata.metadata or {}).get(REMOVED_KEY, 0))
        except (OSError, pa.ArrowInvalid) as error:
            differences.append(f"{path} is in the manifest, but cannot be read: {error}")
            continue
        if n != output["rows"]:
            differences.append(f"{path} has {n} rows, the manifest says {output['rows']}")
    for run, subset in sorted(booked.keys() | {(run, subset) for run, subset, _ in finals}):
        outcomes = dict(booked[run, subset].finished) if (run, subset) in booked else {}
        outcomes.pop(DISCARDED, None)
        there = {outcome: n for (a, b, outcome), n in finals.items() if (a, b) == (run, subset)}
        differences += [
            f"run {run}, {subset}: the shards hold {there.get(outcome, 0)} final links with outcome {outcome}, "
            f"the ledger says {outcomes.get(outcome, 0)}"
            for outcome in sorted(outcomes.keys() | there.keys())
            if outcomes.get(outcome, 0) != there.get(outcome, 0)
        ]
    return differences + [sentence for run, of in sorted(keys.items()) for sentence in _compare_keys(run, of)]


def _compare_keys(run: str, keys: LinkKeys) -> Iterator[str]:
    found = keys.repeated()
    if found.final_twice:
        yield f"run {run}: {found.final_twice} links are final twice in the shards"
    if found.alive_twice:
        yield f"run {run}: {found.alive_twice} links are twice in the pool, in batches or waiting again"
    if found.alive_and_final:
        yield f"run {run}: {found.alive_and_final} links are in the pool, in batches or waiting again, although final"


def _missing_tars(connection: Connection, listed: ListedOutputs, store: str) -> list[str]:
    """Find listed tars that are missing. The manifest is asked again, because a tar may be deleted meanwhile."""
    filesystem = open_store(store)
    there = (row["path"] for row in listed if row["tar_bytes"] > 0 and row["tar_deleted_at"] is None)
    missing: list[str] = []
    while some := list(islice(there, TARS_AT_ONCE)):
        found = filesystem.get_file_info([f"{path}.tar" for path in some])
        missing += [path for path, info in zip(some, found, strict=True) if info.type != pafs.FileType.File]
    with translated():
        still = connection.execute(STILL_THERE, (missing,)).fetchall()
    return [f"{row['path']}.tar is in the manifest, but is missing" for row in still]


def _keys(final: pa.Table) -> Keys:
    """Return the key of each link, made from its pack and row: (N,) int64; a pack has fewer than 2^32 rows."""
    keys: Keys = (final["pack"].to_numpy() << 32) | final["pack_row"].to_numpy().astype(np.int64)
    return keys
