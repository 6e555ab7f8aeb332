"""Manifests for tests, as `tracker manifest` writes them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa

from dataset.formats.manifest import MANIFEST, MANIFEST_SCHEMA, RUNS_KEY, TRACKER_KEY
from dataset.store.store import Store

TRACKER = UUID("5e0a1f9e-6f0b-4d57-9d3c-0d1f6a3f2b11")


def put_manifest(store: Store, listed: Sequence[Mapping[str, object]], tracker: UUID = TRACKER) -> None:
    """Write a manifest that lists outputs, of which only what matters is given: `kind`, `run` and `path` at least."""
    store.write_table(MANIFEST, manifest_table(listed, tracker))


def manifest_table(listed: Sequence[Mapping[str, object]], tracker: UUID = TRACKER) -> pa.Table:
    """Make the table of a manifest, as `put_manifest` writes it."""
    usual = {"job": 1, "lease": str(TRACKER), "subset": "en", "rows": 1, "samples": 1, "bytes": 1, "tar_bytes": 0}
    usual["created_at"] = datetime(2026, 11, 26, tzinfo=UTC)
    rows = [usual | {"output_id": at} | dict(row) for at, row in enumerate(listed, 1)]
    runs = json.dumps(list(dict.fromkeys(str(row["run"]) for row in listed)))
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    return table.replace_schema_metadata({TRACKER_KEY: str(tracker), RUNS_KEY: runs})
