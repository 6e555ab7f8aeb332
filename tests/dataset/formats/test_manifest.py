"""Reading a manifest: as a stream, and with a clear error if it is old, lacks the run, or a listed file is missing."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.formats.manifest import (
    MANIFEST,
    MANIFEST_SCHEMA,
    ManifestError,
    ManifestHead,
    OutputKind,
    OutputMissing,
    open_output,
    outputs,
)
from dataset.store.store import Store, StoreError
from tests.manifests import TRACKER, put_manifest

LISTED: list[dict[str, object]] = [
    {"kind": "pack", "run": "a", "path": "a/packs/1"},
    {
        "kind": "shard",
        "run": "a",
        "path": "a/shards/2",
        "tar_bytes": 9,
        "tar_deleted_at": datetime(2026, 1, 1, tzinfo=UTC),
    },
    {"kind": "part", "run": "a", "path": "a/parts/3"},
    {"kind": "part", "run": "b", "path": "b/parts/4", "subset": None},
    {"kind": "embeddings", "run": "b", "path": "b/embeddings/m/5", "source": "b/parts/4"},
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def test_outputs_come_in_order_all_or_of_a_kind_or_run(store: Store) -> None:
    put_manifest(store, LISTED)
    assert [one.path for one in outputs(store)] == [row["path"] for row in LISTED]
    assert [one.path for one in outputs(store, kind=OutputKind.PART)] == ["a/parts/3", "b/parts/4"]
    assert [one.path for one in outputs(store, kind=OutputKind.PART, run="b")] == ["b/parts/4"]
    assert list(outputs(store, kind=OutputKind.PACK, run="b")) == []


def test_an_output_says_what_its_row_says(store: Store) -> None:
    put_manifest(store, LISTED)
    shard, embedded = (next(outputs(store, kind=kind)) for kind in (OutputKind.SHARD, OutputKind.EMBEDDINGS))
    assert (shard.output_id, shard.kind, shard.tar_bytes, shard.source) == (2, OutputKind.SHARD, 9, None)
    assert shard.tar_deleted_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert embedded.source == "b/parts/4"


def test_the_head_names_the_tracker_and_its_runs(store: Store) -> None:
    put_manifest(store, LISTED)
    assert ManifestHead.read(store) == ManifestHead(TRACKER, ("a", "b"))


def test_an_unknown_run_is_refused_at_once_with_the_known_ones(store: Store) -> None:
    put_manifest(store, LISTED)
    with pytest.raises(ManifestError, match=r"no run 'c', only a, b: check the name, or write the manifest again"):
        outputs(store, run="c")


def test_a_missing_manifest_says_how_it_is_written(store: Store) -> None:
    with pytest.raises(ManifestError, match=r"is missing .* tracker manifest"):
        outputs(store)


def test_a_manifest_of_an_older_version_is_refused(store: Store) -> None:
    before = MANIFEST_SCHEMA.remove(MANIFEST_SCHEMA.get_field_index("source"))
    store.write_table(MANIFEST, before.empty_table())
    with pytest.raises(ManifestError, match=r"another version .*source is missing.* again with tracker manifest"):
        outputs(store)
    store.write_table(MANIFEST, MANIFEST_SCHEMA.empty_table())
    with pytest.raises(ManifestError, match=r"does not say which tracker wrote it.* again with tracker manifest"):
        outputs(store)


def test_a_manifest_that_is_not_parquet_is_refused(store: Store) -> None:
    store.put(MANIFEST, b"PAR1 and then nothing")
    with pytest.raises(ManifestError, match="again with tracker manifest"):
        outputs(store)


def test_a_part_that_was_deleted_after_the_manifest_was_read_is_named_with_the_remedy(store: Store) -> None:
    put_manifest(store, LISTED)
    (part,) = outputs(store, kind=OutputKind.PART, run="a")
    store.write_table(f"{part.path}.parquet", pa.table({"hash": [1]}))
    with open_output(store, part) as file:
        assert pq.read_table(file)["hash"].to_pylist() == [1]
    store.delete(f"{part.path}.parquet")
    with pytest.raises(OutputMissing, match=r"a/parts/3\.parquet .*deleted after the manifest .*tracker manifest"):
        open_output(store, part)


def test_a_part_that_cannot_be_read_is_not_called_deleted(store: Store, tmp_path: Path) -> None:
    put_manifest(store, LISTED)
    (part,) = outputs(store, kind=OutputKind.PART, run="a")
    (tmp_path / f"{part.path}.parquet").mkdir(parents=True)
    with pytest.raises(StoreError, match="a/parts/3"):
        open_output(store, part)


def test_rewriting_a_manifest_while_it_is_read_does_not_change_the_rows(store: Store) -> None:
    put_manifest(store, LISTED)
    reading = outputs(store)
    assert next(reading).path == "a/packs/1"
    put_manifest(store, LISTED[:1])
    assert len(list(reading)) == len(LISTED) - 1
