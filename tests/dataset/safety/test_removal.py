"""Removing samples from a shard: nothing of them stays, nothing else is removed, and a crash on the way is repaired."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from dataset.formats.parts import Verdict
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import LostSample, Sample, read_samples, sample_key
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules
from dataset.safety.removal import RemovalError, read_removed, remove_samples
from dataset.store.store import Store, StoreError
from tests.demo.pictures import Colour, Position, Scene, Shape, Texture, render

SHARD = "shards/7-lease"
EXTRA = {"mirrors": "list<string>", "text_de": "string", "width": "int32", "clip": "double"}
BAD, GOOD = sample_key(7, 1), sample_key(7, 0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(str(tmp_path))
    sent = io.BytesIO()
    render(Scene(Shape.STAR, Colour.RED, 1, Position.CENTRE, Texture.PLAIN), (300, 300)).save(sent, "JPEG")
    picture = prepare(sent.getvalue(), ImageRules())
    assert isinstance(picture, Picture)
    picture = replace(picture, pdq="0123456789abcdef" * 4)
    with ShardWriter(store, SHARD, job_id=7, subset="en", extra=EXTRA) as writer:
        for position in range(4):
            writer.add(
                LinkRow(
                    position=position,
                    pack=3,
                    pack_row=position,
                    attempt=1,
                    final=True,
                    language="en",
                    url=f"http://secret-{position}.example/",
                    caption=f"caption number {position}",
                    outcome=Outcome.SUCCESS,
                    http_status=200,
                    content_type="image/jpeg",
                    extra=json.dumps({"mirrors": [f"http://secret-{position}.example/2"], "text_de": "ein Stern"}),
                    final_url=f"http://secret-{position}.example/there",
                    picture=picture,
                )
            )
        writer.publish()
    return store


def members(store: Store) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(store.read(f"{SHARD}.tar"))) as tar:
        return tar.getnames()


def test_nothing_of_a_removed_sample_stays_in_the_store(store: Store) -> None:
    remove_samples(store, SHARD, {BAD: Verdict.UNSAFE_MINOR})
    held = b"".join(store.read(path) for path in store.list() if path.endswith((".tar", ".json")))
    rows = store.read_table(f"{SHARD}.parquet").to_pylist()
    assert b"secret-1" not in held
    assert b"caption number 1" not in held
    assert "secret-1" not in json.dumps(rows)
    assert "caption number 1" not in json.dumps(rows)
    assert {name: value for name, value in rows[1].items() if value} == {
        "key": BAD,
        "status": "success",
        "outcome": "success",
        "final": True,
        "attempt": 1,
        "subset": "en",
        "pack": 3,
        "pack_row": 1,
    }


def test_a_shard_that_was_blanked_in_part_is_blanked_whole(store: Store) -> None:
    whole = store.read_table(f"{SHARD}.parquet")
    remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    blank = store.read_table(f"{SHARD}.parquet")
    for name in ("md5", "pdq", "mirrors", "http_status"):
        index = blank.schema.get_field_index(name)
        store.write_table(f"{SHARD}.parquet", blank.set_column(index, blank.schema.field(index), whole[name]))
        remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
        assert store.read_table(f"{SHARD}.parquet").slice(1, 1).equals(blank.slice(1, 1))


def test_the_others_stay_byte_for_byte(store: Store) -> None:
    before = [sample for sample in read_samples(store, SHARD) if sample.key != BAD]
    table = store.read_table(f"{SHARD}.parquet")
    remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    after = list(read_samples(store, SHARD))
    assert [sample for sample in after if isinstance(sample, Sample)] == before
    assert [sample.key for sample in after if isinstance(sample, LostSample)] == [BAD]
    assert len(members(store)) == 9
    assert store.read_table(f"{SHARD}.parquet").schema.equals(table.schema)
    assert store.read_table(f"{SHARD}.parquet").drop_columns(["url"]).slice(2) == table.drop_columns(["url"]).slice(2)


@pytest.mark.parametrize("dies_at", [".removed.json", ".tar", ".parquet"])
def test_a_crash_at_any_step_is_made_up_for(store: Store, monkeypatch: pytest.MonkeyPatch, dies_at: str) -> None:
    publish = Store._publish

    def dying(self: Store, aside: Path, place: str, *, durable: bool = True) -> None:
        if place.endswith(dies_at):
            raise StoreError("the machine is gone")
        publish(self, aside, place, durable=durable)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_publish", dying)
        with pytest.raises(StoreError):
            remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    settled = read_removed(store, SHARD)
    assert settled == ({} if dies_at == ".removed.json" else {BAD: Verdict.RESTRICTED})
    remove_samples(store, SHARD, settled or {BAD: Verdict.RESTRICTED})
    assert not any(name.startswith(BAD) for name in members(store))
    assert store.read_table(f"{SHARD}.parquet")["url"].to_pylist()[1] == ""


def test_doing_it_again_writes_nothing(store: Store, tmp_path: Path) -> None:
    remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    before = {path: (tmp_path / path).stat().st_ino for path in store.list()}
    remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    remove_samples(store, SHARD, {})
    assert {path: (tmp_path / path).stat().st_ino for path in store.list()} == before


def test_a_second_find_joins_the_first(store: Store) -> None:
    remove_samples(store, SHARD, {BAD: Verdict.RESTRICTED})
    remove_samples(store, SHARD, {GOOD: Verdict.UNSAFE_ANIMAL})
    assert read_removed(store, SHARD) == {BAD: Verdict.RESTRICTED, GOOD: Verdict.UNSAFE_ANIMAL}
    assert len(members(store)) == 6


def test_a_tar_that_breaks_off_still_loses_the_sample(store: Store) -> None:
    whole = store.read(f"{SHARD}.tar")
    store.put(f"{SHARD}.tar", whole[: len(whole) // 2])
    remove_samples(store, SHARD, {GOOD: Verdict.RESTRICTED})
    assert b"secret-0" not in store.read(f"{SHARD}.tar")
    assert members(store)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"1": "kept"}', b'{"1": "lovely"}'])
def test_a_damaged_mark_is_an_error_and_no_empty_list(store: Store, damage: bytes) -> None:
    store.put(f"{SHARD}.removed.json", damage)
    with pytest.raises(RemovalError):
        read_removed(store, SHARD)
