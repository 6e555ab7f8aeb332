"""A file on a web server, as seed reads it: in parts, repeated if a part is cut off, and never incomplete."""

import io
import os
from collections.abc import Iterator

import pytest

from tests.file_server import FileServer, serving_files
from tracker.seeding.http_file import FIRST_BYTES, TRIES, HttpFile

DATA = os.urandom(FIRST_BYTES * 3)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving_files(data=DATA, empty=b"") as served:
        yield served


def open_data(web: FileServer, waited: list[float] | None = None, name: str = "data") -> HttpFile:
    return HttpFile(f"{web.url}/{name}", pause=([] if waited is None else waited).append)


def test_the_end_of_a_file_costs_no_download_of_it(web: FileServer) -> None:
    file = open_data(web)
    file.seek(-8, os.SEEK_END)
    assert (file.size, file.read(), file.read(), file.tell()) == (len(DATA), DATA[-8:], b"", len(DATA))
    file.seek(10)
    assert file.read(5) == DATA[10:15]
    assert [part for _, part in web.asked] == ["bytes=0-65535", f"bytes={len(DATA) - 8}-{len(DATA) - 1}"]


def test_a_file_is_read_whole_by_its_parts(web: FileServer) -> None:
    with io.BufferedReader(open_data(web), 1 << 16) as file:
        assert file.read() == DATA
    assert open_data(web, name="empty").read() == b""


def test_a_part_that_broke_off_or_was_refused_is_asked_for_again(web: FileServer) -> None:
    waited: list[float] = []
    file = open_data(web, waited)
    file.seek(FIRST_BYTES)
    web.plan = [10, 503, 500]
    assert file.read(FIRST_BYTES) == DATA[FIRST_BYTES : 2 * FIRST_BYTES]
    assert waited == [1.0, 2.0, 4.0]
    web.plan = [503] * 100
    with pytest.raises(OSError, match="503"):
        file.read(10)
    assert len(web.plan) == 100 - TRIES


def test_a_file_that_changes_while_it_is_read_is_refused(web: FileServer) -> None:
    file = open_data(web)
    file.seek(FIRST_BYTES)
    web.etags = ['"two"'] * TRIES
    with pytest.raises(OSError, match="the file has changed since its first part was read"):
        file.read(10)


def test_a_server_without_parts_is_read_from_the_beginning_only(web: FileServer) -> None:
    web.gives_parts = False
    file = open_data(web)
    assert (file.read(10), file.gives_parts) == (DATA[:10], False)
    file.seek(5)
    with pytest.raises(OSError, match="does not support ranges: download it"):
        file.read(5)
    file.close()
    web.plan = [1_000]
    with io.BufferedReader(open_data(web)) as cut, pytest.raises(OSError, match="cut off at byte 1000"):
        cut.read()


def test_a_body_without_a_size_ends_with_its_connection(web: FileServer) -> None:
    web.gives_parts = web.says_size = False
    with io.BufferedReader(open_data(web)) as file:
        assert file.read() == DATA
    with pytest.raises(OSError, match="does not give its size"):
        open_data(web).seek(0)


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_missing_file_fails_at_once(web: FileServer, status: int) -> None:
    waited: list[float] = []
    web.plan = [status]
    with pytest.raises(OSError, match=str(status)):
        open_data(web, waited)
    assert waited == []
