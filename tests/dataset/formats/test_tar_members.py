"""The fast reader of tars gives what `tarfile` gives, also for tars that shards never are."""

import io
import tarfile
from contextlib import nullcontext as _nothing

import pytest

from dataset.formats.tar_members import READ_BYTES, Member, read_members

SIZES = (0, 1, 511, 512, 513, 70_000)


def tar_of(names: list[str], format_: int, *, sizes: tuple[int, ...] = SIZES) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format_) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = sizes[number % len(sizes)]
            tar.addfile(info, io.BytesIO(bytes([number % 251]) * info.size))
    return file.getvalue()


def as_tarfile_reads(data: bytes) -> list[Member]:
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            found.append((member.name, member.size, content.read() if content else b""))
    return found


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_tarfile(format_: int) -> None:
    plain = [f"{number:05d}.jpg" for number in range(60)]
    for names in (plain, [*plain, "a/" * 60 + "long.jpg", *plain], ["über.jpg", *plain]):
        data = tar_of(names, format_)
        assert list(read_members(io.BytesIO(data))) == as_tarfile_reads(data)


def test_a_member_larger_than_a_block_is_whole() -> None:
    data = tar_of(["a.jpg", "b.jpg", "c.jpg"], tarfile.USTAR_FORMAT, sizes=(5, 2 * READ_BYTES + 7, 600))
    assert list(read_members(io.BytesIO(data))) == as_tarfile_reads(data)


@pytest.mark.parametrize("end", [1536 - 512, 1536 + 40, 1536 + 512 + 100])
def test_a_tar_that_is_cut_off_gives_what_is_there(end: int) -> None:
    data = tar_of(["a.jpg", "b.jpg"], tarfile.USTAR_FORMAT, sizes=(700, 800))[:end]
    found = []
    with pytest.raises(tarfile.TarError) if 1536 < end < 2048 else _nothing():
        for member in read_members(io.BytesIO(data)):
            found.append(member)  # noqa: PERF402 - it may raise
    assert found[0] == ("a.jpg", 700, data[512 : 512 + 700])
    assert [(name, size) for name, size, _ in found] == [("a.jpg", 700), ("b.jpg", 800)][: 1 + (end > 2048)]


def test_a_damaged_header_ends_the_tar_with_an_error() -> None:
    data = bytearray(tar_of(["a.jpg", "b.jpg"], tarfile.USTAR_FORMAT, sizes=(1,)))
    data[1024] ^= 1
    members = read_members(io.BytesIO(bytes(data)))
    assert next(members)[0] == "a.jpg"
    with pytest.raises(tarfile.TarError):
        next(members)


def test_an_announced_size_takes_no_memory() -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size = 7 << 30
    with pytest.raises(tarfile.TarError):
        list(read_members(io.BytesIO(header.tobuf(tarfile.USTAR_FORMAT) + b"few")))


def test_a_file_that_is_not_a_tar_is_an_error() -> None:
    for data in (b"", b"no tar", bytes(range(256)) * 4):
        with pytest.raises(tarfile.TarError):
            list(read_members(io.BytesIO(data)))
