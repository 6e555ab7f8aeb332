"""Takedowns of 1,000 rows by each kind of entry, from a release with embeddings and an index.

    python -m tests.benchmarks.bench_takedown [--rows 200000] [--each 1000] [--dimensions 64] [--folder …]

The crawl has a pack, a shard's table and a part with embeddings for every 1,200 rows. First one row is removed, by its
URL; then `each` rows by each kind. Of each apply: seconds, peak memory (PSS), bytes rewritten, and how many files are
the same files on the disk as before. Then `verify` has to be clean, and the links and pictures of all removed
rows have to be refused by the lists that workers load, and no others. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.embeddings import IMAGES, LAION_TO_CLIP_RETRIEVAL, METADATA, TEXTS, embeddings_folder
from dataset.formats.releases import FileKind, open_release
from dataset.formats.shards import SHARD_SCHEMA
from dataset.formats.takedowns import Entry
from dataset.publish.deny import DenyRules
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from dataset.takedown.requests import file_request
from dataset.takedown.scan import Companions, data_files, read_rows
from tests.benchmarks.bench_release import Measured, measure
from tests.benchmarks.release_parts import PART_ROWS, put_parts
from tests.embeddings import MODEL
from tests.manifests import put_manifest
from tracker.storage.deny_lists import read_deny_list
from tracker.storage.hash_lists import pack_numbers

NAME = "bench"
THREADS = 2
COLUMNS = {"url": "URL", "hash": "hash", "host": "final_host", "sha256": "sha256", "md5": "md5", "sha1": "sha1",
           "pdq": "pdq"}  # fmt: skip
Rows = Sequence[dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=1_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-takedown"))
    asked = parser.parse_args()
    folder = asked.folder / f"{asked.rows}-{asked.dimensions}"
    store = prepare(folder, asked.rows, asked.dimensions)
    drawn, hosts = draw(store, asked.each)
    found: dict[str, object] = {"rows": asked.rows, "each": asked.each, "dimensions": asked.dimensions}
    found["one"] = remove(store, "url", drawn["one"], [drawn["one"][0]["URL"]])
    for kind, column in COLUMNS.items():
        values = hosts if kind == "host" else {row[column] for row in drawn[kind]}
        found[kind] = remove(store, kind, drawn[kind], values)
    checked = dataset(store, "verify", NAME)
    print(f"verify   {checked.seconds:8.1f} s")
    found["verify_seconds"] = round(checked.seconds, 1)
    found["refused"] = refused(store, drawn)
    print(json.dumps(found))


def dataset(store: Store, verb: str, *arguments: str) -> Measured:
    """Run a command of takedowns and measure it; it has to end well."""
    return measure([sys.executable, "-m", "dataset.main", "takedown", verb, *arguments, "--workers", str(THREADS),
                    "--store", store.uri])  # fmt: skip


def prepare(folder: Path, rows: int, dimensions: int) -> Store:
    """Make the crawl, the release, its embeddings and an index; once. A release that lost rows is made anew."""
    store = put_parts(folder, rows, sha1=True)
    if store.exists("prepared"):
        store.delete("prepared")
        sys.exit(f"{folder} has a release that rows were removed from: delete it, or name another --folder")
    vectors = np.random.default_rng(1).normal(size=(4 * PART_ROWS, dimensions)).astype(np.float32)
    halves = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    listed: list[dict[str, object]] = []
    for path in sorted((folder / "crawl" / "parts").glob("*.parquet")):
        number, stem = int(path.stem), f"crawl/parts/{path.stem}"
        part = store.read_table(f"{stem}.parquet")
        _put_crawl_files(store, number, part)
        place, start = embeddings_folder(stem), number * 7 % (3 * PART_ROWS)
        for name in (IMAGES, TEXTS):
            with store.write(f"{place}/{name}") as file:
                np.save(file, halves[start : start + len(part)])
        about = part.select(["key", "hash", "URL", "TEXT"]).replace_schema_metadata(None)
        names = [LAION_TO_CLIP_RETRIEVAL.get(name, name) for name in about.column_names]
        store.write_table(f"{place}/{METADATA}", about.rename_columns(names), MODEL)
        base = {"run": "crawl", "rows": len(part)}
        listed.append(base | {"kind": "pack", "path": f"crawl/packs/{number}", "output_id": 1_000_000 + number})
        listed.append(base | {"kind": "shard", "path": f"crawl/shards/{number}", "job": number})
        listed.append(base | {"kind": "part", "path": stem, "job": 1_000_000 + number})
    put_manifest(store, [{"output_id": at} | one for at, one in enumerate(listed)])
    for command in (
        ["publish", NAME, "--input", "crawl", "--workers", "2"],
        ["embeddings", NAME, "--model", MODEL["shoal.model"]],
        ["index", "build", NAME, "--model", MODEL["shoal.model"]],
    ):
        made = measure([sys.executable, "-m", "dataset.main", *command, "--store", store.uri])
        made.report(command[0], rows)
    store.put("prepared", b"")
    return store


def _put_crawl_files(store: Store, number: int, part: pa.Table) -> None:
    """Write the pack and the shard's table of a part."""
    rows = len(part)
    pack = {"url": part["URL"], "text": part["TEXT"], "language": part["LANGUAGE"],
            "probability": pa.nulls(rows, pa.float32()), "subset": part["subset"],
            "page_url": pa.array(["https://page.example/"] * rows)}  # fmt: skip
    fields = [
        pa.field(name, column.type, nullable=name in ("language", "probability")) for name, column in pack.items()
    ]
    store.write_table(f"crawl/packs/{number}.parquet", pa.table(pack, schema=pa.schema(fields)))
    same = {"key": "key", "url": "URL", "caption": "TEXT", "sha256": "sha256", "md5": "md5", "sha1": "sha1",
            "subset": "subset"}  # fmt: skip
    shard = {name: part[column] for name, column in same.items()}
    shard |= {"status": pa.array(["success"] * rows), "outcome": pa.array(["success"] * rows),
              "pack": pa.array([1_000_000 + number] * rows), "pack_row": pa.array(range(rows), pa.int32())}  # fmt: skip
    columns = [shard.get(field.name, pa.nulls(rows, field.type)) for field in SHARD_SCHEMA]
    store.write_table(f"crawl/shards/{number}.parquet", pa.table(columns, schema=SHARD_SCHEMA))


def draw(store: Store, each: int) -> tuple[dict[str, Rows], Sequence[str]]:
    """Draw rows for each kind of entry, none twice, and hosts that have about so many rows."""
    release = open_release(store, NAME)
    companions = Companions(release)
    tables = [rows.select(["id", *COLUMNS.values()]) for data in data_files(release)
              for rows in read_rows(release, companions, data, COLUMNS.values())]  # fmt: skip
    rows = pa.concat_tables(tables)
    hosts = rows["final_host"].combine_chunks().dictionary_encode()
    counts = np.bincount(hosts.indices.to_numpy())
    order = np.argsort(-counts)
    chosen = order[counts[order] <= max(1, each // 10)]
    chosen = chosen[np.cumsum(counts[chosen]) <= each]
    names = hosts.dictionary.take(pa.array(chosen)).to_pylist()
    by_host = np.flatnonzero(DenyRules(hosts=frozenset(names)).matches(rows))  # by the host of the URL, too
    others = np.random.default_rng(3).permutation(np.setdiff1d(np.arange(len(rows)), by_host))
    drawn = {"one": rows.take(others[:1]).to_pylist(), "host": rows.take(by_host).to_pylist()}
    for at, kind in enumerate(kind for kind in COLUMNS if kind != "host"):
        drawn[kind] = rows.take(others[1 + at * each : 1 + (at + 1) * each]).to_pylist()
    drawn["kept"] = rows.take(others[-10_000:]).to_pylist()
    return drawn, names


def remove(store: Store, kind: str, rows: Rows, values: Collection[Any]) -> dict[str, object]:
    """File a request for rows, apply it, and compare the files with those before."""
    entries = [Entry(kind=kind, value=one.hex() if isinstance(one, bytes) else str(one)) for one in values]
    file_request(store, entries, f"by {kind}")
    before, alive = places(store), sum(open_release(store, NAME).record.rows.values())
    took = dataset(store, "apply", NAME)
    after = places(store)
    changed = [path for path in before if after.get(path) != before[path]]
    removed = alive - sum(open_release(store, NAME).record.rows.values())
    if removed != len(rows):
        sys.exit(f"{removed} rows were removed by {kind} instead of {len(rows)}")
    size = sum(store.size(path) for path in changed if path in after)
    total = sum(store.size(path) for path in after)
    took.report(kind, len(rows))
    same = len(before) - len(changed)
    print(f"         {size / 2**20:,.0f} MiB of {len(changed):,} files rewritten, {same:,} files of "
          f"{(total - size) / 2**20:,.0f} MiB as they were", flush=True)  # fmt: skip
    return {
        "removed": removed, "seconds": round(took.seconds, 1), "peak_mib": round(took.peak / 2**20),
        "rewritten_mib": round(size / 2**20, 1), "rewritten_files": len(changed), "same_files": same,
    }  # fmt: skip


def places(store: Store) -> dict[str, tuple[int, int]]:
    """Return what tells of each file whether it was written again: its inode and its time."""
    found = {}
    for path in store.list():
        if not path.startswith(("takedowns/", "deny/")):
            told = (Path(store.uri) / path).stat()
            found[path] = (told.st_ino, told.st_mtime_ns)
    return found


def refused(store: Store, drawn: dict[str, Rows]) -> int:
    """Return how many removed rows are refused when they come again, by the lists that workers load."""
    for at, path in enumerate(list_deny_files(store)):
        store.put(f"hash_lists/{at}", pack_numbers(read_deny_list(store.uri, path).numbers)[0])
    lists = HashLists.load(store, store.list("hash_lists"))

    def is_refused(row: dict[str, Any]) -> bool:
        number = np.uint64(row["hash"] % 2**64)
        return (
            lists.names_link(row["URL"])
            or any(number in known for known in lists.pair)
            or lists.names_host(row["final_host"])
            or lists.matches(sha256=row["sha256"], md5=row["md5"].hex(), sha1=row["sha1"].hex(), pdq=row["pdq"].hex())
        )

    if any(is_refused(row) for row in drawn["kept"]):
        sys.exit("a row that nobody asked about is refused")
    came_again = [row for kind, rows in drawn.items() if kind != "kept" for row in rows]
    count = sum(map(is_refused, came_again))
    if count != len(came_again):
        sys.exit(f"only {count} of {len(came_again)} removed rows are refused")
    files = [file.path for file in open_release(store, NAME).files(FileKind.DATA)]
    assert all(pq.ParquetFile(Path(store.uri) / "releases" / NAME / path).metadata.num_rows for path in files)
    return count


if __name__ == "__main__":
    main()
