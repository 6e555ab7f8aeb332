"""After a real run the store has no picture of a dropped pair."""

import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.report.report import write_report
from dataset.store.store import Store
from tests.swarm.swarm import Swarm
from tests.tracker.filling import scalar
from tracker.database.database import Connection
from tracker.duties.serve import tick
from tracker.storage.manifest import write_manifest

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


def pictures(store: Path) -> dict[str, list[str]]:
    """Return the keys of all pictures in the store by tar; a picture outside a tar fails the test."""
    assert not [path for path in store.rglob("*") if path.suffix in PICTURES]
    found = {}
    for path in store.rglob("*.tar"):
        with tarfile.open(path) as tar:
            names = [Path(name) for name in tar.getnames()]
        found[str(path.relative_to(store))] = [name.stem for name in names if name.suffix in PICTURES]
    return found


@pytest.mark.parametrize("done", ["download"])
def test_at_the_end_no_picture_of_a_dropped_pair_is_left_anywhere(swarm: Swarm, admin: Connection) -> None:
    admin.execute("UPDATE tracker.run SET keep_shards = 'kept'")
    swarm.finish("filter")
    before = swarm.results()
    dropped = set(before.keys) - _kept_keys(swarm)
    assert dropped
    tick(admin, swarm.store)
    still = "SELECT sum(samples) FROM tracker.manifest WHERE kind = 'shard' AND tar_deleted_at IS NULL"
    assert not scalar(admin, still)  # but for tars that never had a picture
    there = {tar: keys for tar, keys in pictures(Path(swarm.store)).items() if keys}
    assert all("/parts/" in tar for tar in there)
    assert sorted(key for keys in there.values() for key in keys) == sorted(_kept_keys(swarm))
    for file in Path(swarm.store).rglob("*.parquet"):  # nor is one in a column; a PDQ has 32 bytes
        assert not [field for field in pq.read_schema(file) if pa.types.is_binary(field.type)]
    found = swarm.audit()
    assert found.holds, found.differences
    assert swarm.results() == before
    report = swarm.folder / "report.html"
    write_manifest(admin, swarm.store)
    write_report(Store.open(swarm.store), report, "After retention")
    kept, dropped_page = report.read_text().split("<h2>Kept</h2>")[1].split("<h2>Dropped</h2>")
    assert "data:image/jpeg" in kept
    assert "data:image/jpeg" not in dropped_page


def _kept_keys(swarm: Swarm) -> set[str]:
    parts = [path for path in Path(swarm.store).rglob("parts/*.parquet") if "scores" not in path.name]
    return {key for path in parts for key in pq.read_table(path, columns=["key"])["key"].to_pylist()}
