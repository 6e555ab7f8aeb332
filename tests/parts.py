"""Runs for tests and benchmarks: stores with parts of made-up pairs, and the manifest that lists them."""

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow as pa

from dataset.formats.parts import PART_SCHEMA, pair_hash, part_schema
from dataset.store.store import Store
from tests.manifests import TRACKER, put_manifest

WORDS = ("alpha", "bridge", "cloud", "dog", "ember", "forest", "granite", "harbour", "island", "jacket", "kite", "lamp")
MODELS = {
    role: {
        "model": f"model-{role}",
        "pretrained": "made",
        "threshold": 0.28,
        "sha256": "a" * 64,
        "config_sha256": "b" * 64,
    }
    for role in ("en", "other")
}
TAGS = {role: {"punsafe": {"head": "store:heads/p.safetensors", "sha256": "c" * 64}, "pwatermark": None,
               "aesthetic": None} for role in ("en", "other")}  # fmt: skip
FETCHED = datetime(2026, 10, 1, 12, 0, tzinfo=UTC)


def make_pair(seed: int, **changes: Any) -> dict[str, Any]:
    """Return a row of a part that depends on nothing but the seed; `changes` replace values, `hash` follows them."""
    draw = random.Random(seed)
    text = " ".join(draw.choices(WORDS, k=draw.randint(2, 9)))
    host = f"{draw.choice(WORDS)}{draw.randint(1, 40)}.example{draw.choice(['.com', '.co.uk', '.org'])}"
    row: dict[str, Any] = {
        "URL": f"https://www.{host}/{draw.choice(WORDS)}/{seed}.jpg",
        "TEXT": text,
        "WIDTH": draw.randint(64, 3000),
        "HEIGHT": draw.randint(64, 3000),
        "LANGUAGE": "en",
        "similarity": 0.28 + draw.random() / 5,
        "pwatermark": draw.random(),
        "punsafe": draw.random(),
        "aesthetic": None,
        "subset": "en",
        "sha256": hashlib.sha256(str(seed).encode()).hexdigest(),
        "md5": hashlib.md5(str(seed).encode()).hexdigest(),
        "sha1": None,
        "pdq": draw.randbytes(32),
        "dhash": draw.randint(-(2**63), 2**63 - 1),
        "final_host": f"cdn.{host}",
        "fetched": FETCHED,
        "pack": seed,
        "pack_row": 1,
    } | changes
    return {"hash": pair_hash(row["URL"], row["TEXT"])} | row


@dataclass
class MadeStore:
    """A store whose manifest grows with each run that is put into it."""

    store: Store
    tracker: UUID = TRACKER
    listed: list[dict[str, object]] = field(default_factory=list)

    def put_run(
        self,
        run: str,
        parts: Iterable[Sequence[Mapping[str, Any]]],
        *,
        models: Mapping[str, Any] = MODELS,
        tags: Mapping[str, Any] = TAGS,
        extra: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Write parts of rows, each with its keys, and the manifest; return the paths of the parts' files."""
        paths = []
        for pairs in parts:
            job = len(self.listed) + 1
            rows = [{"key": f"{job:010d}{at:05d}", "shard": f"{run}/shards/{job}"} | dict(pair)
                    for at, pair in enumerate(pairs)]  # fmt: skip
            schema = part_schema(extra or {}) if extra else PART_SCHEMA
            stem = f"{run}/parts/{job:010d}"
            metadata = {"shoal.recipe": "r", "shoal.models": json.dumps(models), "shoal.tags": json.dumps(tags)}
            self.store.write_table(f"{stem}.parquet", pa.Table.from_pylist(rows, schema=schema), metadata)
            self.listed.append({"kind": "part", "run": run, "path": stem, "job": job, "rows": len(rows)})
            paths.append(f"{stem}.parquet")
        put_manifest(self.store, self.listed, self.tracker)
        return paths


def in_parts(pairs: Sequence[Mapping[str, Any]], rows: int = 50) -> list[Sequence[Mapping[str, Any]]]:
    """Cut pairs into parts of `rows`."""
    return [pairs[at : at + rows] for at in range(0, len(pairs), rows)]
