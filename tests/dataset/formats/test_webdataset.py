"""Everything in a tar of any origin is a sample, a lost sample or another member; a truncated tar is an error."""

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from dataset.formats import webdataset
from dataset.formats.shards import Sample, ShardError
from dataset.formats.webdataset import read_webdataset
from dataset.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def tar_bytes(members: Sequence[tuple[str, bytes]] | Mapping[str, bytes], **options: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def read(store: Store, data: bytes) -> list[tuple[str, ...]]:
    """Put a tar into the store and list what is in it: samples, ('lost', key, reason), ('other', name)."""
    store.put("a.tar", data)
    found: list[tuple[str, ...]] = []
    for item in read_webdataset(store, "a.tar", lambda name: found.append(("other", name))):
        if isinstance(item, Sample):
            found.append((item.key, item.image.decode(), item.caption, item.url))
        else:
            found.append(("lost", item.key, item.reason))
    return found


def test_samples_of_a_tar_are_recognised_by_their_names(store: Store) -> None:
    members = {
        "x/1.JPG": b"one",
        "x/1.txt": "é".encode(),
        "x/1.json": b'{"caption": "not this", "url": "http://a.example/1"}',
        "x/1.cls": b"7",
        "x/2.txt": b"no picture",
        "x/3.seg.png": b"not told by its last ending",
        "x/4.json": json.dumps({"caption": "from json"}).encode(),
        "x/4.webp": b"four",
        "y/4.png": b"another folder",
    }
    assert read(store, tar_bytes(members)) == [
        ("x/1", "one", "é", "http://a.example/1"),
        ("lost", "x/2", "it has no picture"),
        ("other", "x/3.seg.png"),
        ("x/4", "four", "from json", ""),
        ("y/4", "another folder", "", ""),
    ]


def test_files_that_a_mac_adds_for_each_member_belong_to_no_sample(store: Store) -> None:
    members = {"._a.jpg": b"x", "a.jpg": b"one", "._a.txt": b"x", "a.txt": b"a dog", ".DS_Store": b"x", "b": b"x"}
    found = read(store, tar_bytes(members))
    assert [item for item in found if item[0] != "other"] == [("a", "one", "a dog", "")]
    assert [item[1] for item in found if item[0] == "other"] == ["._a.jpg", "._a.txt", ".DS_Store", "b"]


@pytest.mark.parametrize(
    "odd", [b"no json", b"", b"[]", b"[" * 100_000, b"\xff\xfe\xff", b"1" * 10_000, b'{"url": "a"', b"null"]
)
def test_one_json_that_cannot_be_read_costs_its_own_sample(store: Store, odd: bytes) -> None:
    members = {"1.jpg": b"one", "1.json": odd, "2.jpg": b"two", "2.json": b'{"url": "http://a.example/2"}'}
    assert read(store, tar_bytes(members)) == [
        ("lost", "1", "its json cannot be read"),
        ("2", "two", "", "http://a.example/2"),
    ]


def test_a_value_that_is_not_a_text_is_empty_and_a_lone_surrogate_is_replaced(store: Store) -> None:
    members = {"1.jpg": b"one", "1.json": b'{"url": ["a"], "caption": "\\ud800!"}', "2.jpg": b"two", "2.txt": b"\xff"}
    assert read(store, tar_bytes(members)) == [("1", "one", "?!", ""), ("2", "two", "\ufffd", "")]


def test_a_name_that_is_not_utf_8_is_kept_with_a_mark(store: Store) -> None:
    data = tar_bytes({"\udcff.jpg": b"one"}, format=tarfile.USTAR_FORMAT, encoding="utf-8")
    assert read(store, data) == [("\ufffd", "one", "", "")]


def test_two_samples_of_one_name_are_two(store: Store) -> None:
    members = [("1.jpg", b"one"), ("1.txt", b"first"), ("1.jpg", b"two"), ("1.txt", b"second")]
    assert read(store, tar_bytes(members)) == [("1", "one", "first", ""), ("1", "two", "second", "")]


def test_a_member_that_is_too_large_costs_its_own_sample(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_MEMBER_BYTES", 3)
    found = read(store, tar_bytes({"1.jpg": b"four", "2.jpg": b"two", "3.jpg": b"", "4.jpg": b"ok"}))
    assert [item[:2] for item in found] == [("lost", "1"), ("2", "two"), ("lost", "3"), ("4", "ok")]


def test_a_link_in_a_tar_is_another_member(store: Store, tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(b"one")
    (tmp_path / "2.jpg").hardlink_to(tmp_path / "1.jpg")
    (tmp_path / "3.jpg").symlink_to("1.jpg")
    (tmp_path / "folder.jpg").mkdir()
    subprocess.run(["tar", "-cf", "b.tar", "1.jpg", "2.jpg", "3.jpg", "folder.jpg"], cwd=tmp_path, check=True)
    found = read(store, (tmp_path / "b.tar").read_bytes())
    assert sorted(found) == [("1", "one", "", ""), ("other", "2.jpg"), ("other", "3.jpg")]


def test_a_gzip_of_several_members_is_read_to_its_end(store: Store) -> None:
    whole = tar_bytes({f"{n}.jpg": str(n).encode() * 2_000 for n in range(9)})
    pieces = [gzip.compress(whole[place : place + 5_000]) for place in range(0, len(whole), 5_000)]
    assert [item[0] for item in read(store, b"".join(pieces))] == [str(n) for n in range(9)]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_tar_that_breaks_off_anywhere_is_an_error(store: Store, compress: type[bytes]) -> None:
    whole = tar_bytes({f"{n}.jpg": bytes(700) for n in range(3)})
    end = 3 * (512 + 1_024)
    for place in (1, 511, 512, 700, 1_536, 1_600, end - 1, end):
        with pytest.raises(ShardError, match="fetch it again"):
            read(store, compress(whole[:place]))


def test_a_damaged_header_is_not_taken_for_the_end(store: Store) -> None:
    whole = bytearray(tar_bytes({f"{n}.jpg": bytes(700) for n in range(3)}))
    whole[1_536] ^= 1
    with pytest.raises(ShardError, match="no header at byte 1536"):
        read(store, bytes(whole))


@pytest.mark.parametrize("place", [0, 300, 1_000])
def test_a_gzip_that_is_damaged_is_an_error(store: Store, place: int) -> None:
    data = bytearray(gzip.compress(tar_bytes({f"{n}.jpg": str(n * 7919).encode() * 300 for n in range(99)})))
    data[place + 10 : place + 20] = bytes(10)
    with pytest.raises(ShardError, match="fetch it again"):
        read(store, bytes(data))


@pytest.mark.parametrize(
    "names", [("1.jpg", "2.jpg", "1.txt", "2.txt"), ("1.json", "2.json", "1.png", "2.png"), ("1.txt", "2.jpg", "1.jpg")]
)
def test_a_tar_whose_pictures_stand_apart_from_their_captions_is_an_error(store: Store, names: Sequence[str]) -> None:
    with pytest.raises(ShardError, match="the members of sample 1 are not adjacent: pack it with `tar --sort"):
        read(store, tar_bytes([(name, b"{}") for name in names]))


def test_a_key_that_comes_twice_is_two_samples(store: Store) -> None:
    members = [("1.jpg", b"a"), ("1.txt", b"A"), ("2.jpg", b"b"), ("1.jpg", b"c"), ("1.txt", b"C"), ("2.jpg", b"d")]
    found = read(store, tar_bytes(members))
    assert [sample[1:3] for sample in found] == [("a", "A"), ("b", ""), ("c", "C"), ("d", "")]
