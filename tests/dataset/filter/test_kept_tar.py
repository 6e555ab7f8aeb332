"""A part keeps the pictures of exactly the pairs that it keeps, or there is no tar."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dataset.filter.kept_tar import write_kept_tar
from dataset.formats.parts import KeptSample, ScoredPair, Verdict, write_part
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import ShardError, sample_key
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.store.store import Store, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def write_shard(store: Store, samples: int) -> None:
    with ShardWriter(store, "shard", job_id=7, subset="en") as shard:
        for at in range(samples):
            shard.add(
                LinkRow(
                    position=at,
                    pack=1,
                    pack_row=at,
                    attempt=1,
                    final=True,
                    language="en",
                    url=f"http://a/{at}",
                    caption=f"ü {at}",
                    outcome=Outcome.SUCCESS,
                    picture=Picture(f"picture {at}".encode(), "jpg", 3, 2, 3, 2, "0", "1"),
                )
            )
        shard.publish()


def write_kept_part(store: Store, kept: Sequence[int], samples: int) -> None:
    about = KeptSample(3, 2, "en", "en", 1, 1)
    pairs = [
        ScoredPair(sample_key(7, at), f"http://a/{at}", f"ü {at}", Verdict.KEPT, 0.3, about)
        if at in kept
        else ScoredPair(sample_key(7, at), f"http://a/{at}", f"ü {at}", Verdict.BELOW_THRESHOLD, 0.1)
        for at in range(samples)
    ]
    write_part(store, "part", pairs, shard="shard", metadata={})


def members(store: Store, path: str) -> dict[str, bytes]:
    with store.open_input(path) as file, tarfile.open(fileobj=file) as tar:
        found = {}
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


def test_the_tar_has_the_kept_samples_members_as_the_shard_has_them(store: Store) -> None:
    write_shard(store, 5)
    write_kept_part(store, [1, 3], 5)
    assert write_kept_tar(store, "shard", "part") == store.size("part.tar")
    whole, kept = members(store, "shard.tar"), members(store, "part.tar")
    keys = [sample_key(7, at) for at in (1, 3)]
    assert list(kept) == [f"{key}.{ending}" for key in keys for ending in ("jpg", "txt", "json")]
    assert all(whole[name] == content for name, content in kept.items())
    once = store.read("part.tar")
    write_kept_tar(store, "shard", "part")
    assert store.read("part.tar") == once


def test_a_kept_picture_that_is_not_there_leaves_no_tar(store: Store) -> None:
    write_shard(store, 2)
    write_kept_part(store, [1, 3], 5)
    with pytest.raises(ShardError, match=sample_key(7, 3)):
        write_kept_tar(store, "shard", "part")
    assert not store.exists("part.tar")


def test_a_shard_that_is_cut_off_or_missing_leaves_no_tar(store: Store) -> None:
    write_shard(store, 3)
    write_kept_part(store, [2], 3)
    whole = store.read("shard.tar")
    store.put("shard.tar", whole[:4000])
    with pytest.raises((ShardError, StoreError)):
        write_kept_tar(store, "shard", "part")
    assert not store.exists("part.tar")
    store.delete("shard.tar")
    with pytest.raises(StoreError):
        write_kept_tar(store, "shard", "part")
    assert not store.exists("part.tar")
