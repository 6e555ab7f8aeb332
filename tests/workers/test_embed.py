"""The embed worker: parts with their shards' pictures or their own, shards, and foreign tars."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import trio

from dataset.filter.kept_tar import write_kept_tar
from dataset.formats.embeddings import METADATA, read_embeddings
from dataset.models.clip import ClipModel, load_model
from dataset.models.pipeline import Pipeline
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store
from tests.dataset.embed.test_embed import pictures, write_tar
from tests.tracker.filling import scalar
from tests.workers.test_filter import DEMO, shards, work
from tracker.database.database import Connection
from tracker.protocol.session import Session
from tracker.seeding.embed_jobs import Model, embed_folder, embed_run
from workers.embed import Embed
from workers.errors import CannotWork
from workers.runtime import model_cache
from workers.runtime.context import WorkContext
from workers.runtime.loop import StopWhen, run
from workers.runtime.model_cache import ModelCache

MODEL = Model.checked("demo", str(DEMO), "second")
Register = Callable[[str], Session]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def embed(session: Session, store: Store, stop_when: StopWhen = StopWhen(until_idle=True)) -> None:  # noqa: B008
    with Pipeline() as pipeline:
        trio.run(run, Embed(pipeline, ModelCache("cpu")), WorkContext(session, store), stop_when)


def listed(admin: Connection, kind: str) -> list[str]:
    rows = admin.execute("SELECT path FROM tracker.manifest WHERE kind::text = %s ORDER BY output_id", (kind,))
    return [str(row["path"]) for row in rows]


def keys_embedded(admin: Connection, store: Store) -> list[str]:
    """Return the sorted keys of all embeddings in the manifest."""
    tables = [read_embeddings(store, path)[2] for path in listed(admin, "embeddings")]
    return sorted(key for table in tables for key in table["image_path"].to_pylist())


def keys_kept(admin: Connection, store: Store) -> list[str]:
    tables = [store.read_table(f"{path}.parquet", ["key"]) for path in listed(admin, "part")]
    return sorted(pa.concat_tables(tables)["key"].to_pylist())


def filtered(admin: Connection, register: Register, store: Store, count: int) -> None:
    """Make shards that have become parts, each listed with its tar."""
    shards(admin, store, count)
    admin.execute(
        "INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, tar_bytes) "
        "SELECT 'shard', run_id, job_id, gen_random_uuid(), 'en', payload ->> 'shard', 4, 4, 700 FROM tracker.job"
    )
    work(WorkContext(register("filter"), store))
    assert len(listed(admin, "part")) == count


def test_parts_are_embedded_from_their_shards_or_from_their_own_pictures(
    admin: Connection, register: Register, store: Store
) -> None:
    filtered(admin, register, store, 3)
    own = scalar(
        admin,
        "SELECT path FROM tracker.manifest JOIN tracker.job USING (job_id) "
        "WHERE kind = 'part' AND payload ->> 'shard' = 'shards/0'",
    )
    assert isinstance(own, str)
    admin.execute(
        "UPDATE tracker.manifest SET tar_bytes = %s WHERE path = %s", (write_kept_tar(store, "shards/0", own), own)
    )
    store.delete("shards/0.tar")
    assert embed_run(admin, "test", MODEL).new == 3
    embed(register("embed"), store)
    assert keys_embedded(admin, store) == keys_kept(admin, store)
    images, texts, _ = read_embeddings(store, listed(admin, "embeddings")[0])
    assert images.shape == texts.shape
    told = store.read_table(f"{listed(admin, 'embeddings')[0]}.embeddings/{METADATA}").schema.metadata
    settled = scalar(admin, "SELECT sha256 FROM tracker.embedding")
    assert told[b"shoal.sha256"].decode() == settled == scalar(admin, "SELECT result ->> 'sha256' FROM tracker.job "
                                                                      "WHERE queue = 'embed' LIMIT 1")  # fmt: skip
    assert scalar(admin, "SELECT sum(embeds) FROM tracker.manifest") == 0


def test_a_shard_whose_tar_is_missing_fails_alone(admin: Connection, register: Register, store: Store) -> None:
    filtered(admin, register, store, 2)
    embed_run(admin, "test", MODEL)
    store.delete("shards/0.tar")
    admin.execute("UPDATE tracker.setting SET value = '1' WHERE name = 'max_attempts'")
    embed(register("embed"), store)
    assert len(listed(admin, "embeddings")) == 1
    assert "keep the shards of such runs longer" in str(
        scalar(admin, "SELECT error FROM tracker.job WHERE state = 'dead'")
    )


def test_foreign_tars_are_embedded_and_other_files_are_counted(
    admin: Connection, register: Register, store: Store, tmp_path: Path
) -> None:
    folder = Store.open(str(tmp_path / "tars"))
    for name in ("a", "sub/b"):
        images = {f"{name[-1]}{i}.jpg": image for i, image in enumerate(pictures(2))}
        write_tar(folder, f"{name}.tar", images | {f"{name[-1]}x.jpg": b"no picture"})
    assert embed_folder(admin, folder.uri, MODEL, "theirs").new == 2
    embed(register("embed"), store)
    assert keys_embedded(admin, store) == [f"{name}{i}" for name in "ab" for i in range(4)]
    assert scalar(admin, "SELECT sum(samples - rows)::int FROM tracker.manifest WHERE kind = 'embeddings'") == 2


def test_a_worker_with_other_weights_gives_its_job_back_and_ends(
    admin: Connection, register: Register, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Store.open(str(tmp_path / "tars"))
    for name in "ab":
        write_tar(folder, f"{name}.tar", {"0.jpg": pictures(1)[0]})
    embed_folder(admin, folder.uri, MODEL, "theirs")
    embed(register("embed"), store, StopWhen(once=True))

    def other(*_arguments: object) -> ClipModel:
        model = load_model(ModelRecipe("demo", str(DEMO), 0.0), device="cpu")
        return replace(model, checksums=replace(model.checksums, config="0" * 64))

    monkeypatch.setattr(model_cache, "load_model", other)
    with pytest.raises(CannotWork, match="not the one that this worker has loaded"):
        embed(register("embed"), store)
    assert len(listed(admin, "embeddings")) == 1
    states = admin.execute("SELECT state::text, attempt FROM tracker.job ORDER BY job_id").fetchall()
    assert [tuple(row.values()) for row in states] == [("done", 1), ("ready", 0)]
