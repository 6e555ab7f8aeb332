"""A second model's jobs: each is seeded once, all have the same model, and pictures stay until they are embedded."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.tracker.filling import new_run, scalar
from tests.tracker.talking import Console
from tracker.accounts.controls import set_limit
from tracker.database.database import Connection
from tracker.errors import LeaseLost, RecipeRefused, Refused, TrackerError
from tracker.protocol.session import Job, Session
from tracker.seeding.embed_jobs import Model, Seeded, embed_folder, embed_run
from tracker.storage.retention import Deleted, due, retain

MODEL = Model.checked("ViT-L-14", "openai", None)
FIRST, SECOND = "1" * 64, "2" * 64
Register = Callable[[str], Session]


@pytest.fixture
def console(
    database: str, admin: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    return Console(database, monkeypatch, capsys)


def filtered(admin: Connection, run_id: int, number: int, *, kept: int = 3, tar_bytes: int = 0) -> str:
    """A shard that has become a part, an hour ago; the shard's path. `tar_bytes` is of the part's own tar."""
    shard = f"test/shards/{number:010d}-{uuid4()}"
    for queue, kind, path in (("download", "shard", shard), ("filter", "part", shard.replace("shards", "parts"))):
        row = admin.execute(
            "INSERT INTO tracker.job (queue, run_id, state, finished_at, payload) "
            "VALUES (%s, %s, 'done', now(), jsonb_build_object('shard', %s::text)) RETURNING job_id",
            (queue, run_id, shard),
        ).fetchone()
        assert row is not None
        admin.execute(
            "INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, tar_bytes, "
            "filtered_at) VALUES (%s, %s, %s, %s, 'en', %s, %s, 5, %s, %s::timestamptz)",
            (
                kind, run_id, row["job_id"], uuid4(), path, kept, 700 if kind == "shard" else tar_bytes,
                "2020-01-01" if kind == "shard" else None,
            ),
        )  # fmt: skip
    return shard


def claimed(session: Session) -> Job:
    (job,) = session.claim()
    return job


def settled(session: Session) -> Job:
    job = claimed(session)
    session.settle_model(job, FIRST, FIRST)
    return job


def result(**changes: object) -> dict[str, object]:
    return {"embedded": 3, "lost": 0, "bytes": 9, "sha256": FIRST, "config_sha256": FIRST} | changes


def test_each_part_with_samples_is_seeded_once_and_later_ones_when_asked_again(admin: Connection) -> None:
    run_id = new_run(admin)
    filtered(admin, run_id, 1)
    filtered(admin, run_id, 2, kept=0)
    assert embed_run(admin, "test", MODEL) == Seeded("test", 1, 1)
    filtered(admin, run_id, 3)
    assert embed_run(admin, "test", MODEL) == Seeded("test", 2, 1)
    assert embed_run(admin, "test", Model.checked("hf-hub:a/b", None, None)) == Seeded("test", 2, 2)


def test_a_run_without_a_filter_is_embedded_by_its_shards(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    shard = filtered(admin, run_id, 1)
    admin.execute("DELETE FROM tracker.manifest WHERE kind = 'part'")
    admin.execute("UPDATE tracker.run SET recipe = '{\"filter\": false}'")
    assert embed_run(admin, "test", MODEL) == Seeded("test", 1, 1)
    job = claimed(register("embed"))
    assert (job.payload["kind"], job.payload["source"], job.payload["samples"]) == ("shard", shard, 5)


def test_pictures_stay_until_the_last_model_has_embedded_them(
    admin: Connection, register: Register, tmp_path: Path
) -> None:
    run_id = new_run(admin)
    shard = filtered(admin, run_id, 1)
    (tmp_path / shard).parent.mkdir(parents=True)
    (tmp_path / f"{shard}.parquet").touch()
    (tmp_path / f"{shard}.tar").write_bytes(bytes(700))
    embed_run(admin, "test", MODEL)
    embed_run(admin, "test", Model.checked("ViT-H-14", "x", None))
    session = register("embed")
    for _ in range(2):
        assert retain(admin, str(tmp_path)) == due(admin, "test", "24h") == Deleted()
        session.complete(settled(session), result())
    assert retain(admin, str(tmp_path)) == Deleted(1, 700)


def test_discarding_a_dead_job_lets_its_pictures_go(admin: Connection, console: Console) -> None:
    filtered(admin, new_run(admin), 1)
    embed_run(admin, "test", MODEL)
    admin.execute("UPDATE tracker.job SET state = 'dead', error = 'x', finished_at = now() WHERE queue = 'embed'")
    assert due(admin, "test", "24h") == Deleted()
    console.json("discard", "--queue", "embed", "--all", "--yes")
    assert due(admin, "test", "24h") == Deleted(1, 700)


def test_a_part_whose_pictures_are_deleted_is_counted_and_left_out(admin: Connection, console: Console) -> None:
    run_id = new_run(admin)
    filtered(admin, run_id, 1)
    filtered(admin, run_id, 2, tar_bytes=300)  # it has its pictures itself
    admin.execute("UPDATE tracker.manifest SET tar_deleting_at = now(), tar_deleted_at = now() WHERE kind = 'shard'")
    said = console("embed", "test", "--model", "ViT-L-14", "--pretrained", "openai", "--json")
    assert (said.data["sources"], said.data["new"], said.data["gone"]) == (2, 1, 1)
    assert "tracker keep-shards" in said.err
    assert scalar(admin, "SELECT payload ->> 'shard' FROM tracker.job WHERE queue = 'embed'") is None


def test_the_tars_of_a_folder_are_seeded_once(admin: Connection, register: Register, tmp_path: Path) -> None:
    for name in ("b.tar", "sub/a.tar.gz", "notes.txt"):
        (tmp_path / "my tars" / name).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tmp_path / "my tars" / name, "w"):
            pass
    folder = str(tmp_path / "my tars")
    assert embed_folder(admin, folder, MODEL, None) == Seeded("my-tars", 2, 2)
    assert embed_folder(admin, f"{folder}/", MODEL, None).new == 0
    job = claimed(register("embed"))
    assert (job.payload["folder"], job.payload["path"], job.payload["model"]) == (folder, "b.tar", "ViT-L-14")


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["none", "--model", "m", "--pretrained", "x"], "there is no run none"),
        (["--model", "m", "--pretrained", "x"], "name a run"),
        (["test", "--model", "m"], "needs --pretrained"),
        (["test", "--model", "hf-hub:a/b", "--pretrained", "x"], "includes its weights"),
        (["test", "--model", "m", "--pretrained", "x", "--name", "../up"], "give --name"),
        (["--folder", "/none/at/all", "--model", "m", "--pretrained", "x"], "give one with WebDataset tars"),
    ],
)
def test_what_cannot_be_embedded_is_refused_with_the_remedy(
    admin: Connection, console: Console, arguments: list[str], remedy: str
) -> None:
    new_run(admin)
    assert remedy in console.refusal("embed", *arguments)
    assert scalar(admin, "SELECT count(*) FROM tracker.embedding") == 0


def test_a_wrong_model_can_be_mended_until_a_worker_has_settled_it(admin: Connection, register: Register) -> None:
    filtered(admin, new_run(admin), 1)
    embed_run(admin, "test", Model.checked("ViT-L-14", "opneai", None))
    assert embed_run(admin, "test", MODEL).new == 0
    assert settled(register("embed")).payload["pretrained"] == "openai"
    with pytest.raises(TrackerError, match="another --name"):
        embed_run(admin, "test", Model.checked("ViT-L-14", "laion2b_s32b_b82k", None))


def test_a_second_worker_with_other_weights_is_refused_and_lists_nothing(admin: Connection, register: Register) -> None:
    run_id = new_run(admin)
    for number in range(2):
        filtered(admin, run_id, number)
    embed_run(admin, "test", MODEL)
    settled(register("embed"))
    other = register("embed")
    job = claimed(other)
    assert (job.payload["sha256"], job.payload["config_sha256"]) == (FIRST, FIRST)
    for weights, config in ((SECOND, FIRST), (FIRST, SECOND)):
        with pytest.raises(RecipeRefused, match="another --name"):
            other.settle_model(job, weights, config)
        with pytest.raises(RecipeRefused):
            other.complete(job, result(sha256=weights, config_sha256=config))
    assert scalar(admin, "SELECT count(*) FROM tracker.manifest WHERE kind = 'embeddings'") == 0


def test_every_sample_is_embedded_or_lost(admin: Connection, register: Register) -> None:
    filtered(admin, new_run(admin), 1)
    embed_run(admin, "test", MODEL)
    session = register("embed")
    job = settled(session)
    for wrong in (
        {"embedded": 2},
        {"embedded": 4, "lost": -1},
        {"lost": 1},
        {"embedded": None},
        {"embedded": 2, "lost": 1},
        {"embedded": 2, "lost": 1, "reasons": {"undecodable": 2, "unreadable": -1}},
        {"embedded": 2, "lost": 1, "reasons": {"undecodable": 2}},
    ):
        with pytest.raises(Refused, match="do not account"):
            session.complete(job, result(**wrong))
    for _ in range(2):  # the first reply was lost
        session.complete(job, result(embedded=2, lost=1, reasons={"unreadable": 1}))
    listed = admin.execute("SELECT path, rows, samples, subset::text FROM tracker.manifest WHERE kind = 'embeddings'")
    assert [tuple(row.values()) for row in listed] == [(job.output, 2, 3, "en")]
    assert job.output == f"test/embeddings/ViT-L-14/{job.job_id:010d}-{job.lease}"


def test_a_lease_that_was_taken_over_lists_nothing(
    admin: Connection, register: Register, expire: Callable[[Session], None]
) -> None:
    filtered(admin, new_run(admin), 1)
    embed_run(admin, "test", MODEL)
    late = register("embed")
    job = settled(late)
    expire(late)
    again = claimed(register("embed"))
    assert again.job_id == job.job_id
    with pytest.raises(LeaseLost):
        late.complete(job, result())
    with pytest.raises(LeaseLost):
        late.settle_model(job, FIRST, FIRST)


def test_the_queue_is_idle_by_itself_and_can_be_limited(
    admin: Connection, register: Register, console: Console
) -> None:
    filtered(admin, new_run(admin, wats=1), 1)
    session = register("embed")
    assert session.is_idle()  # although there is something to extract
    embed_run(admin, "test", MODEL)
    assert not session.is_idle()
    assert console.json("status")["queues"]["embed"]["ready"] == 1  # and nobody has given it a row yet
    assert set_limit(admin, "embed", 0) is None
    assert session.claim() == []
    console("pause", "embed")
    assert console.json("status")["queues"]["embed"]["paused"]
    set_limit(admin, "embed", None)
    console("resume", "embed")
    assert len(session.claim()) == 1
    assert not session.is_idle()
    assert not register("filter").is_idle()  # the extract job waits


def test_a_folder_in_an_unknown_home_is_refused(admin: Connection) -> None:
    with pytest.raises(TrackerError, match="cannot find the home in ~nobody-here/tars"):
        embed_folder(admin, "~nobody-here/tars", MODEL, None)
