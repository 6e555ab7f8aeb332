import gzip
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.object_store import CUT_DOWN, serving
from workers.errors import Stopped, WorkerError
from workers.extract.wat_source import open_wat
from workers.files import http_file
from workers.files.http_file import HttpFile, SourceError

BODY = bytes(range(256)) * 4000


@dataclass
class Shelf:
    """A server with one file: each request takes the next entry of `plan` (the bytes to send, or a status)."""

    plan: list[int] = field(default_factory=list)
    etags: list[str] = field(default_factory=list)
    body: bytes = BODY
    resumable: bool = True
    sized: bool = True
    retry_after: str = ""
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.headers["Range"], request.headers["If-Range"]))
        step = self.plan.pop(0) if self.plan else len(self.body)
        if 400 <= step < 600:
            request.send_response(step)
            if self.retry_after:
                request.send_header("Retry-After", self.retry_after)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = int(request.headers["Range"][6:-1]) if request.headers["Range"] and self.resumable else 0
        request.send_response(206 if start else 200)
        request.send_header("ETag", self.etags.pop(0) if self.etags else '"one"')
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.sized:
            request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        request.wfile.write(self.body[start : start + step])


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Shelf()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — http.server's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}/1.warc.wat.gz"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def fetch(shelf: Shelf, pauses: list[float]) -> Callable[[], bytes]:
    def read() -> bytes:
        with io.BufferedReader(HttpFile(shelf.url, pause=pauses.append)) as file:
            return file.read()

    return read


def test_a_file_is_read_unchanged_over_http(shelf: Shelf) -> None:
    shelf.body = gzip.compress(b"a record")
    with open_wat(shelf.url) as file:
        assert file.read() == shelf.body
    assert shelf.asked == [(None, None)]


def test_a_broken_connection_is_resumed_where_it_broke(
    shelf: Shelf, fetch: Callable[[], bytes], pauses: list[float]
) -> None:
    shelf.plan = [300_000, 400_000]
    assert fetch() == BODY
    assert shelf.asked == [(None, None), ("bytes=300000-", '"one"'), ("bytes=700000-", '"one"')]
    assert all(0.4 < pause < 1.6 for pause in pauses)  # progress between them: no pause grows


def test_the_pauses_for_a_busy_server_grow(shelf: Shelf, fetch: Callable[[], bytes], pauses: list[float]) -> None:
    shelf.plan = [503, 403, 500]
    assert fetch() == BODY
    assert len(pauses) == 3
    assert pauses[0] < 1.5 < pauses[2] < 6.0


def test_retry_after_is_respected(shelf: Shelf, fetch: Callable[[], bytes], pauses: list[float]) -> None:
    shelf.plan, shelf.retry_after = [503, 503], "30"
    assert fetch() == BODY
    assert all(30 < pause < 34 for pause in pauses)
    shelf.plan, shelf.retry_after = [403], format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert fetch() == BODY
    assert 55 < pauses[2] < 63
    shelf.plan, shelf.retry_after = [503], "soon"
    assert fetch() == BODY
    assert pauses[3] < 2


def test_a_retry_after_of_an_hour_fails_the_job(shelf: Shelf, pauses: list[float]) -> None:
    shelf.plan, shelf.retry_after = [503], "3600"
    with pytest.raises(SourceError, match=r"^Cannot download .*: try again after 3600 s\.$"):
        HttpFile(shelf.url, pause=pauses.append)
    assert pauses == []


def test_a_machine_has_a_limited_number_of_connections_to_a_host(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOAL_WAT_CONNECTIONS", "2")
    monkeypatch.setenv("SHOAL_WAT_SLOTS", str(tmp_path / "slots"))
    first, second = open_wat(shelf.url), open_wat(shelf.url)

    def end_one(_: float) -> None:
        assert len(shelf.asked) == 2  # the third has not asked
        first.close()

    with open_wat(shelf.url, pause=end_one) as third:
        assert third.read() == BODY
    second.close()
    assert len(shelf.asked) == 3


def test_a_stop_ends_the_wait_for_a_connection(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHOAL_WAT_CONNECTIONS", "1")
    monkeypatch.setenv("SHOAL_WAT_SLOTS", str(tmp_path / "slots"))

    def stop(_: float) -> None:
        raise Stopped("asked to stop")

    with open_wat(shelf.url), pytest.raises(Stopped):
        open_wat(shelf.url, pause=stop)
    shelf.plan = [404]
    with pytest.raises(SourceError):
        open_wat(shelf.url)
    with open_wat(shelf.url, pause=stop) as file:  # a refusal has freed its slot
        assert file.read() == BODY


@pytest.mark.parametrize("most", ["0", "many"])
def test_an_invalid_limit_is_refused(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, most: str) -> None:
    monkeypatch.setenv("SHOAL_WAT_CONNECTIONS", most)
    with pytest.raises(WorkerError, match="set it to 1 or more"):
        open_wat(shelf.url)


@pytest.mark.parametrize("keys", [{}, {"AWS_ACCESS_KEY_ID": "KEYOFOURS", "AWS_SECRET_ACCESS_KEY": "secret"}])
def test_a_bucket_is_read_with_credentials_or_anonymously(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keys: dict[str, str]
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving() as s3:
        found = {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(tmp_path)}
        for name, value in {**found, "AWS_EC2_METADATA_DISABLED": "true", **keys}.items():
            monkeypatch.setenv(name, value)
        body = BODY * 20  # 20 MB: three requests
        s3.store("crawl-data/1.warc.wat.gz", body)
        s3.fail(CUT_DOWN, times=1, range="bytes=8388608-")
        with open_wat("s3://crawl/crawl-data/1.warc.wat.gz") as file:
            assert file.read() == body
        assert s3.keys == set(filter(None, [keys.get("AWS_ACCESS_KEY_ID")]))
        with pytest.raises(
            SourceError, match=r"^Cannot read the WAT file s3://crawl/none .*: check the address and your AWS"
        ):
            open_wat("s3://crawl/none")


def test_a_server_that_stays_busy_is_given_up_after_a_minute(
    shelf: Shelf, fetch: Callable[[], bytes], pauses: list[float]
) -> None:
    shelf.plan = [503] * 100
    with pytest.raises(SourceError, match=r"^Cannot download .* \(HTTP Error 503.*try again later"):
        fetch()
    assert len(shelf.asked) == http_file.MAX_RETRIES + 1
    assert 30 < sum(pauses) < 100


def test_a_server_that_breaks_off_again_and_again_is_given_up(
    shelf: Shelf, fetch: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_file, "MAX_RESUMES", 5)
    shelf.plan = [10] * 100
    with pytest.raises(SourceError, match="Cannot download all of"):
        fetch()
    assert len(shelf.asked) == 6


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_missing_file_fails_at_once(shelf: Shelf, pauses: list[float], status: int) -> None:
    shelf.plan = [status]
    with pytest.raises(SourceError, match=f"^Cannot download .*HTTP Error {status}"):
        HttpFile(shelf.url, pause=pauses.append)
    assert pauses == []


def test_a_file_that_changes_while_it_is_read_is_refused(shelf: Shelf, fetch: Callable[[], bytes]) -> None:
    shelf.plan = [300_000]
    shelf.etags = ['"one"', '"two"']
    with pytest.raises(SourceError, match="has changed while it was read"):
        fetch()


def test_a_server_that_cannot_resume_is_not_asked_for_the_whole_file_again(
    shelf: Shelf, fetch: Callable[[], bytes]
) -> None:
    shelf.plan = [300_000]
    shelf.resumable = False
    with pytest.raises(SourceError, match="cannot be resumed"):
        fetch()
    assert len(shelf.asked) == 2


def test_a_weak_etag_is_not_used(shelf: Shelf, fetch: Callable[[], bytes]) -> None:
    shelf.plan = [300_000]
    shelf.etags = ['W/"one"', 'W/"one"']
    assert fetch() == BODY
    assert shelf.asked[1] == ("bytes=300000-", None)


def test_a_body_without_a_size_ends_with_its_connection(shelf: Shelf, fetch: Callable[[], bytes]) -> None:
    shelf.sized = False
    assert fetch() == BODY


def test_a_host_without_a_server_is_given_up(shelf: Shelf, pauses: list[float]) -> None:
    with pytest.raises(SourceError, match="check the network"):
        HttpFile("http://127.0.0.1:1/1.warc.wat.gz", pause=pauses.append)
    assert len(pauses) == http_file.MAX_RETRIES


def test_a_local_file_is_named_by_path_or_uri(tmp_path: Path) -> None:
    path = tmp_path / "a b.warc.wat.gz"
    path.write_bytes(b"a record")
    for name in (str(path), f"file://{path}"):
        with open_wat(name) as file:
            assert file.read() == b"a record"


@pytest.mark.parametrize(
    "name", ["/nowhere/1.warc.wat.gz", "file:///nowhere/1.warc.wat.gz", "ftp://host/1.wat.gz", "/"]
)
def test_a_file_that_cannot_be_opened_is_an_error_of_one_sentence(name: str) -> None:
    with pytest.raises(SourceError, match=r"^Cannot read the WAT file .*: (check|use) [^.]+\.$"):
        open_wat(name)
