"""The exact audit finds links that occur twice, or are both alive and final, even if the sums are right, in bounded
memory.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tracker.filling import fill_pool, new_run
from tracker.accounts import link_keys
from tracker.accounts.audit import audit_exact
from tracker.accounts.link_keys import LinkKeys, read_rows
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.protocol.session import Session

Register = Callable[[str], Session]


def end_one_batch(admin: Connection, register: Register, store: Path) -> int:
    """Draw a batch of a pool of 2,000 and end it, all links final; how many these are."""
    fill_pool(admin, new_run(admin), 2000)
    admin.execute("UPDATE tracker.setting SET value = '200' WHERE name = 'batch_size'")
    worker = register("download")
    batch = worker.draw()
    assert batch is not None
    rows = [int(line.split("\t")[1]) for line in batch.payload.split("\n")]
    result = {"finished": {"gone": batch.n}, "again": [], "returned": [], "samples": 0, "bytes": 0}
    worker.complete(batch, result)
    shard = store / f"{batch.output}.parquet"
    shard.parent.mkdir(parents=True)
    columns = {"outcome": ["gone"] * batch.n, "final": [True] * batch.n, "subset": ["en"] * batch.n}
    pq.write_table(pa.table(columns | {"pack": [1] * batch.n, "pack_row": rows}), shard)
    return batch.n


def test_a_row_of_the_pool_that_became_a_final_link_is_named_although_the_sums_are_right(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    final = end_one_batch(admin, register, tmp_path)
    assert 0 < final < 2000
    assert audit_exact(admin, str(tmp_path)).holds
    (shard,) = tmp_path.rglob("*.parquet")
    row = pq.read_table(shard)["pack_row"][0].as_py()
    admin.execute(
        "UPDATE tracker.candidate SET pack_row = %s WHERE pack_row = (SELECT min(pack_row) FROM tracker.candidate)",
        (row,),
    )
    said = "run test: 1 links are in the pool, in batches or waiting again, although final"
    assert audit_exact(admin, str(tmp_path)).differences == [said]


def test_a_link_that_is_in_the_pool_and_in_a_batch_is_named(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    fill_pool(admin, new_run(admin), 2000)
    admin.execute("UPDATE tracker.setting SET value = '200' WHERE name = 'batch_size'")
    batch = register("download").draw()
    assert batch is not None
    row = int(batch.payload.split("\t")[1])
    admin.execute(
        "UPDATE tracker.candidate SET pack_row = %s WHERE pack_row = (SELECT min(pack_row) FROM tracker.candidate)",
        (row,),
    )
    said = "run test: 1 links are twice in the pool, in batches or waiting again"
    assert audit_exact(admin, str(tmp_path)).differences == [said]


def test_every_row_is_read_however_the_pieces_fall(admin: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = new_run(admin)
    fill_pool(admin, run_id, 1000)
    for at_once in (1, 7, 1000, 100_000):
        monkeypatch.setattr(link_keys, "ROWS_AT_ONCE", at_once)
        read = np.concatenate(list(read_rows(admin)))
        assert sorted(read["key"].tolist()) == [(1 << 32) + row for row in range(1000)]
        assert set(read["run"].tolist()) == {run_id}


def test_a_database_without_links_has_no_rows(admin: Connection) -> None:
    assert list(read_rows(admin)) == []


@pytest.mark.parametrize("buffered", [7, 1 << 20])
def test_spilled_or_not_the_same_links_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffered: int
) -> None:
    monkeypatch.setattr(link_keys, "BUFFERED", buffered)
    draw = np.random.default_rng(1)
    alive = (draw.integers(0, 40, 600) << 32) | draw.integers(0, 40, 600)
    final = (draw.integers(0, 2**31, 600) << 32) | draw.integers(0, 2**32, 600)
    final[:50] = alive[:50]
    keys = LinkKeys(tmp_path)
    for start in range(0, 600, 100):
        keys.add("alive", alive[start : start + 100])
        keys.add("final", final[start : start + 100])
    found = keys.repeated()
    counts = [Counter(one.tolist()) for one in (alive, final)]
    assert [found.alive_twice, found.final_twice] == [600 - len(one) for one in counts]
    assert found.alive_and_final == len(counts[0].keys() & counts[1].keys()) > 0
    assert any(tmp_path.iterdir()) == (buffered == 7)


def test_a_disk_without_room_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_keys, "BUFFERED", 1)
    with pytest.raises(TrackerError, match="8 bytes per link; set TMPDIR"):
        LinkKeys(tmp_path / "gone").add("alive", np.arange(3))
