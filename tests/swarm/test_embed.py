"""A second model embeds the kept samples, while its workers are killed."""

import signal

import pytest

from dataset.formats.embeddings import read_embeddings
from dataset.store.store import Store
from tests.swarm.conftest import MODEL
from tests.swarm.swarm import DEADLINE_SECONDS, Swarm
from tests.swarm.test_nothing_lost import held_before
from tests.swarm.test_retention import _kept_keys
from tests.tracker.filling import scalar
from tracker.database.database import Connection
from tracker.duties.serve import tick
from tracker.seeding.embed_jobs import Model, embed_run
from tracker.storage.manifest import outputs


@pytest.mark.parametrize("done", ["filter"])
def test_every_kept_sample_is_embedded_once_although_a_worker_is_killed_and_pictures_are_deleted(
    swarm: Swarm, admin: Connection
) -> None:
    admin.execute("UPDATE tracker.run SET keep_shards = '0s'")
    seeded = embed_run(admin, "small", Model.checked("demo", str(MODEL), "second"))
    assert seeded.new == seeded.sources >= 2
    held = "SELECT sum(embeds) FROM tracker.manifest WHERE tar_deleting_at IS NULL"
    tick(admin, swarm.store)
    assert scalar(admin, held) == seeded.new  # retention leaves what is still to be embedded
    with held_before(swarm, "complete_embed") as proxy:
        worker = swarm.start("embed", "--until-idle", "--device", "cpu", database=proxy.url)
        assert proxy.held.wait(DEADLINE_SECONDS), swarm.logs()
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    swarm.expire_all(admin)
    swarm.finish("embed")
    assert scalar(admin, "SELECT count(*) FROM tracker.lease WHERE ending = 'taken_over'") in (1, 2, 3)
    listed = [row["path"] for row in outputs(admin).to_pylist() if row["kind"] == "embeddings"]
    assert len(listed) == seeded.new
    tables = [read_embeddings(Store.open(swarm.store), path)[2] for path in listed]
    embedded = [key for table in tables for key in table["image_path"].to_pylist()]
    assert sorted(embedded) == sorted(_kept_keys(swarm))  # each once
    tick(admin, swarm.store)
    still = "SELECT sum(samples) FROM tracker.manifest WHERE kind = 'shard' AND tar_deleted_at IS NULL"
    assert not scalar(admin, still)  # but for tars that never had a picture
    found = swarm.audit()
    assert found.holds, found.differences
