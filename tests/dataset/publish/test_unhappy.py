"""Publishes that are killed, run out of disk space, or get inputs that cannot be published."""

import json
import random
import re
import resource
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataset.errors import DatasetError
from dataset.formats.deny_lists import DENY_SCHEMA, write_deny_list
from dataset.formats.manifest import MANIFEST
from dataset.formats.releases import FileKind, ReleaseError, open_release, read_record
from dataset.publish import plan
from dataset.publish.inputs import InputName
from dataset.publish.plan import delete_work
from dataset.publish.planning import Request
from dataset.publish.predicates import parse_variant
from dataset.publish.publish import Phase, publish
from dataset.store.store import Store
from tests.dataset.publish.killing import kill_and_compare
from tests.killing import digests
from tests.parts import MODELS, MadeStore, in_parts, make_pair

BATCH = "2026-11-26"


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    return MadeStore(Store.open(str(tmp_path / "store")))


def publish_run(made: MadeStore, *runs: str, **asked: Any) -> None:
    how = {key: asked.pop(key) for key in ("restart", "on_progress", "scratch") if key in asked}
    inputs = [InputName.parse(run, made.store.uri) for run in runs or ("crawl",)]
    publish(made.store, Request(**{"name": "laion", "inputs": inputs, "batch": BATCH} | asked), **how)


def test_a_publish_that_is_killed_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, random.Random(11), kills=2)


def test_a_disk_that_fills_up_between_run_and_merge_is_reported_and_the_next_call_continues(
    made: MadeStore, tmp_path: Path
) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(2_000)], 500))
    publish_run(made)
    expected = digests(tmp_path / "store" / "releases")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(phase: Phase, *_: int) -> None:
        if phase is Phase.FILES:
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))

    again = MadeStore(Store.open(str(tmp_path / "full")))
    again.put_run("crawl", in_parts([make_pair(seed) for seed in range(2_000)], 500))
    try:
        with pytest.raises(DatasetError, match=r"free disk space.*call publish again"):
            publish_run(again, on_progress=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not again.store.exists("releases/laion/release.json")
    calls = list[tuple[Phase, int]]()
    publish_run(again, on_progress=lambda phase, done, _: calls.append((phase, done)))
    assert [done for phase, done in calls if phase is Phase.RUNS] == [1]  # it was done before
    assert digests(tmp_path / "full" / "releases") == expected


def test_what_a_killed_process_left_of_a_file_is_deleted_in_the_end(made: MadeStore, tmp_path: Path) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    left = tmp_path / "store" / "releases" / "laion" / "data" / "en" / BATCH / ".0123.partial"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"PAR1")
    publish_run(made)
    assert not left.exists()


def delete_part(made: MadeStore, path: str) -> None:
    made.store.delete(path)


def cut_part(made: MadeStore, path: str) -> None:
    made.store.put(path, made.store.read(path)[:-300])


def flip_bytes(made: MadeStore, path: str) -> None:
    data = bytearray(made.store.read(path))
    data[200:260] = bytes(60)
    made.store.put(path, bytes(data))


def shorten_part(made: MadeStore, path: str) -> None:
    made.store.write_table(path, made.store.read_table(path).slice(0, 10))


def drop_column(made: MadeStore, path: str) -> None:
    made.store.write_table(path, made.store.read_table(path).drop_columns(["dhash"]))


def other_models(made: MadeStore, path: str) -> None:
    table = made.store.read_table(path)
    other = {**table.schema.metadata, b"shoal.models": b'{"en": {"model": "another"}}'}
    made.store.write_table(path, table.replace_schema_metadata(other))


def other_subset(made: MadeStore, path: str) -> None:
    table = made.store.read_table(path)
    at = table.column_names.index("subset")
    made.store.write_table(path, table.set_column(at, "subset", pa.array(["fr"] * len(table))))


def damaged_digest(made: MadeStore, path: str) -> None:
    table = made.store.read_table(path)
    at = table.column_names.index("md5")
    made.store.write_table(path, table.set_column(at, "md5", pa.array(["00"] * len(table))))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (delete_part, "{path} cannot be opened although the manifest lists it.*tracker manifest.*--restart"),
        (cut_part, "{path} is damaged.*tracker manifest"),
        (flip_bytes, "{path} is damaged.*filter its shard again"),
        (shorten_part, "{path} is damaged.*it has 10 rows, but the manifest says 50"),
        (drop_column, "{path} has no column dhash.*filter its shards again"),
        (other_models, "{path} was made with other models.*filter its shard again"),
        (other_subset, "subset 'fr'.*filter its shard again"),
        (damaged_digest, "md5 in the parts of crawl.*filter the shards again"),
    ],
)
def test_a_part_that_cannot_be_published_is_named_and_nothing_is_visible(
    made: MadeStore, spoil: Callable[[MadeStore, str], None], said: str
) -> None:
    paths = made.put_run("crawl", in_parts([make_pair(seed) for seed in range(400)]))
    spoil(made, paths[-1])
    with pytest.raises(DatasetError, match=said.format(path=re.escape(paths[-1]))) as failed:
        publish_run(made)
    assert "\n" not in str(failed.value)
    assert [path for path in made.store.list("releases") if path.endswith("release.json")] == []
    made.put_run("crawl", [])  # the manifest, as it was; with the part restored the same call goes on
    made.store.write_table(
        paths[-1],
        pa.Table.from_pylist(
            [{"key": f"{8:010d}{at:05d}", "shard": "crawl/shards/8"} | make_pair(seed)
             for at, seed in enumerate(range(350, 400))],
            schema=made.store.read_table(paths[0]).schema,
        ),
    )  # fmt: skip
    publish_run(made)
    assert sum(open_release(made.store, "laion").record.rows.values()) == 400


def test_an_unknown_run_is_said_with_those_there_are(made: MadeStore) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    with pytest.raises(DatasetError, match=r"no run 'other', only crawl"):
        publish_run(made, "other")


def test_an_old_manifest_is_said(made: MadeStore) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    made.store.write_table(MANIFEST, made.store.read_table(MANIFEST).replace_schema_metadata(None))
    with pytest.raises(DatasetError, match="tracker manifest"):
        publish_run(made)


def test_a_run_whose_parts_are_empty_has_nothing_to_publish(made: MadeStore) -> None:
    made.put_run("crawl", [[], []])
    with pytest.raises(DatasetError, match=r"crawl.*nothing to publish"):
        publish_run(made)


def test_a_batch_without_a_new_row_is_refused_and_leaves_the_release_as_it_was(made: MadeStore, tmp_path: Path) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    publish_run(made)
    before = digests(tmp_path / "store" / "releases")
    with pytest.raises(DatasetError, match=r"No row is left .*published_before: 100\): give other inputs\."):
        publish_run(made, batch="2026-12-01")
    assert digests(tmp_path / "store" / "releases") == before
    assert made.store.list("publishing") == []
    assert not (tmp_path / "store" / "publishing").exists()


def test_a_subset_without_rows_has_no_files(made: MadeStore) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    publish_run(made)
    assert {file.subset for file in open_release(made.store, "laion").record.files} == {"en"}


def fail_in_files(phase: Phase, *_: int) -> None:
    if phase is Phase.FILES:
        raise KeyboardInterrupt


@pytest.fixture
def unfinished(made: MadeStore) -> MadeStore:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    made.put_run("other", in_parts([make_pair(seed) for seed in range(50, 150)]))
    with pytest.raises(KeyboardInterrupt):
        publish_run(made, on_progress=fail_in_files)
    return made


def test_an_unfinished_publish_is_not_finished_with_other_inputs_or_options(unfinished: MadeStore) -> None:
    for asked in ({"runs": ["other"]}, {"drop_contacts": True}, {"variants": {"safe": "punsafe < 0.4"}}):
        runs = asked.pop("runs", ["crawl"])
        assert isinstance(runs, list)
        with pytest.raises(DatasetError, match=r"unfinished publish of laion.*--restart"):
            publish_run(unfinished, *runs, **asked)
    publish_run(unfinished, "other", restart=True)
    assert open_release(unfinished.store, "laion").record.inputs[0].run == "other"


def test_another_pyarrow_does_not_finish_what_one_began(unfinished: MadeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(plan, "writer_name", lambda: "pyarrow 1.0")
        with pytest.raises(DatasetError, match=r"begun with pyarrow .* this is pyarrow 1.0.*--restart"):
            publish_run(unfinished)
    publish_run(unfinished)


def test_a_batch_by_another_pyarrow_is_recorded_with_it(made: MadeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    publish_run(made)
    made.put_run("other", in_parts([make_pair(seed) for seed in range(50, 150)]))
    for module in ("plan", "planning"):
        monkeypatch.setattr(f"dataset.publish.{module}.writer_name", lambda: "pyarrow 1.0")
    publish_run(made, "other", batch="2026-12-01")
    first, second = (batch.writer for batch in open_release(made.store, "laion").record.batches)
    assert first != second == "pyarrow 1.0"


def test_crawls_of_different_models_are_published_together_only_when_mixed(made: MadeStore) -> None:
    made.put_run("first", in_parts([make_pair(seed) for seed in range(60)]))
    made.put_run(
        "second", in_parts([make_pair(seed) for seed in range(60, 90)]), models={**MODELS, "en": {"model": "x"}}
    )
    with pytest.raises(DatasetError, match=r"first and second have different models.*--mixed"):
        publish_run(made, "first", "second")
    publish_run(made, "first", "second", mixed=True)
    assert open_release(made.store, "laion").record.options.mixed


def test_columns_of_a_list_that_one_crawl_lacks_are_null_in_its_rows(made: MadeStore) -> None:
    made.put_run("first", in_parts([make_pair(seed) for seed in range(30)]))
    made.put_run(
        "second", [[make_pair(50 + seed, licence=f"cc-{seed}") for seed in range(9)]], extra={"licence": "string"}
    )
    with pytest.raises(DatasetError, match=r"different columns.*--mixed"):
        publish_run(made, "first", "second")
    publish_run(made, "first", "second", mixed=True)
    release = open_release(made.store, "laion")
    rows = made.store.read_table(release.path(f"extended/en/{BATCH}/train-00000-of-00001.parquet")).to_pylist()
    assert sorted(row["licence"] or "" for row in rows) == [""] * 30 + [f"cc-{seed}" for seed in range(9)]


@pytest.mark.parametrize(
    "predicate", ["", "punsafe", "punsafe < x", "md5 = 3", "punsafe < 0.4 OR WIDTH > 3", "punsafe < 0.4; DROP TABLE x"]
)
def test_a_predicate_is_one_comparison_or_several_joined_by_and(made: MadeStore, predicate: str) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    with pytest.raises(DatasetError, match="cannot be used: compare one of"):
        publish_run(made, variants={"odd": predicate})


def test_a_name_that_cannot_be_a_folder_is_refused(made: MadeStore) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    for name in ("", "../x", "a/b", ".hidden"):
        with pytest.raises(DatasetError, match="cannot name a release"):
            publish_run(made, name=name)


def test_a_release_is_published_by_one_call_at_a_time_wherever_its_work_lies(made: MadeStore, tmp_path: Path) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    made.put_run("other", in_parts([make_pair(seed) for seed in range(100, 150)]))
    places = [None, *(Store.open(str(tmp_path / name)) for name in ("scratch", "another"))]
    for first in places:
        with pytest.raises(KeyboardInterrupt):
            publish_run(made, on_progress=fail_in_files, scratch=first)
        for second in places:
            if second is not first:
                with pytest.raises(DatasetError, match=r"unfinished publish of laion .*--restart"):
                    publish_run(made, "other", scratch=second)
        publish_run(made, "other", scratch=places[-1], restart=True)
        if first is not None:
            delete_work(made.store, first, "laion")
        assert open_release(made.store, "laion").record.inputs[0].run == "other"
        assert made.store.list("publishing") == []
        made.store.delete("releases/laion/release.json")


def test_a_publish_does_not_replace_a_version_that_came_between(made: MadeStore, tmp_path: Path) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    made.put_run("other", in_parts([make_pair(seed) for seed in range(100, 150)]))

    first, second = (Store.open(str(tmp_path / name)) for name in ("first", "second"))

    def publish_another(phase: Phase, done: int, total: int) -> None:
        if phase is Phase.FILES and done == total:
            publish_run(made, "other", batch="2026-12-01", restart=True, scratch=second)

    with pytest.raises(DatasetError, match=r"laion is now version 1\.0\.0.*began with none.*--restart"):
        publish_run(made, on_progress=publish_another, scratch=first)
    assert [batch.name for batch in open_release(made.store, "laion").record.batches] == ["2026-12-01"]


def test_a_deny_list_that_is_added_during_a_publish_is_noticed(unfinished: MadeStore) -> None:
    denied = make_pair(3)["hash"]
    entry = {"kind": "pair", "value": str(denied), "reason": "asked", "time": datetime.now(UTC)}
    path = write_deny_list(unfinished.store, pa.Table.from_pylist([entry], schema=DENY_SCHEMA))
    with pytest.raises(DatasetError, match=rf"{path}.*--restart"):
        publish_run(unfinished)
    publish_run(unfinished, restart=True)
    file = next(open_release(unfinished.store, "laion").files(FileKind.DATA))
    assert denied not in unfinished.store.read_table(f"releases/laion/{file.path}")["hash"].to_pylist()


@pytest.mark.parametrize("name", ["hash", "key", "URL", "TEXT", "WIDTH", "HEIGHT"])
def test_a_part_without_a_value_that_every_pair_has_is_refused(made: MadeStore, name: str) -> None:
    made.put_run("crawl", [[make_pair(1) | {name: None}, make_pair(2)]])
    with pytest.raises(DatasetError, match=rf"A {name} in the parts of crawl.*filter the shards again"):
        publish_run(made)


@pytest.mark.parametrize("batch", [".hidden", "..", "a/b", "x" * 300])
def test_a_batch_that_readers_of_the_release_would_not_find_is_refused(made: MadeStore, batch: str) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    with pytest.raises(DatasetError, match=r"cannot be added.*--batch"):
        publish_run(made, batch=batch)


@pytest.mark.parametrize("variant", ["extended", "x" * 300])
def test_a_variant_that_would_have_the_name_of_another_configuration_is_refused(variant: str) -> None:
    with pytest.raises(DatasetError, match=r"variant"):
        parse_variant(f"{variant}=punsafe < 0.45")


def test_a_store_with_a_password_in_its_uri_is_refused_because_the_release_would_publish_it() -> None:
    with pytest.raises(DatasetError, match=r"credentials") as refused:
        InputName.parse("s3://key:secret@bucket/store#crawl", ".")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda record: record.update(version="1.x.0"), r"version is '1\.x\.0'"),
        (lambda record: record.update(version="1.0"), r"version is '1\.0'"),
        (lambda record: record.update(version="../../x"), "version is"),
        (lambda record: record.update(next_id=2**60), "next_id is"),
        (lambda record: record.update(next_id=-1), "next_id is"),
        (lambda record: record.update(inputs=[]), r"batches\[0\].inputs is"),
        (lambda record: record["files"][0].update(path="../../secret"), "path is"),
        (lambda record: record["files"][0].update(path="/etc/passwd"), "path is"),
        (lambda record: record["files"][0].update(rows=-5), "rows is"),
        (lambda record: record["files"][0].update(subset="xx"), "subset is"),
        (lambda record: record["card"].update(title="\ud800"), "UTF-8"),
        (lambda record: record["inputs"][0].update(models={"en": 3}), "models"),
        (lambda record: record["inputs"][0].update(tags={"en": 3}), "tags"),
    ],
)
def test_a_record_that_says_what_no_release_can_is_refused(
    made: MadeStore, spoil: Callable[[dict[str, Any]], None], said: str
) -> None:
    made.put_run("crawl", [[make_pair(1)]])
    publish_run(made)
    record = json.loads(made.store.read("releases/laion/release.json"))
    spoil(record)
    with pytest.raises(ReleaseError, match=said):
        read_record(json.dumps(record).encode())


@pytest.mark.parametrize("data", [b"[" * 200_000, b"{}" * 2, b"", b"\xff\xfe", b"null", b"[1]"])
def test_a_record_that_is_damaged_is_said(data: bytes) -> None:
    with pytest.raises(ReleaseError, match=r"release\.json cannot be read .*history/"):
        read_record(data)
