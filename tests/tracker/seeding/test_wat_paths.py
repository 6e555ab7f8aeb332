import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.tracker.talking import Console
from tracker.seeding import wat_paths
from tracker.seeding.wat_paths import SourceError, list_wats, sample

PATHS = [f"crawl-data/CC-MAIN-2024-22/segments/1/wat/{n}.warc.wat.gz" for n in (1, 2)]
LINES = "\n\n".join(PATHS) + "\n"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server whose every list is LINES, but for those under /missing."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/missing"):
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(gzip.compress(LINES.encode()))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — http.server's name
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_wat_file_is_a_list_of_itself_with_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b.warc.wat.gz").touch()
    monkeypatch.chdir(tmp_path)
    assert list_wats("a b.warc.wat.gz") == [f"{tmp_path}/a b.warc.wat.gz"]
    assert list_wats(f"file://{tmp_path}/a b.warc.wat.gz") == [f"{tmp_path}/a b.warc.wat.gz"]


@pytest.mark.parametrize("uri", ["https://data.commoncrawl.org/1.warc.wat.gz", "s3://commoncrawl/1.warc.wat.gz"])
def test_a_remote_wat_file_is_taken_at_its_word(uri: str) -> None:
    assert list_wats(uri) == [uri]


def test_the_lines_of_a_served_list_are_files_of_its_host(host: str) -> None:
    assert list_wats(f"{host}/crawl-data/CC-MAIN-2024-22/wat.paths.gz") == [f"{host}/{path}" for path in PATHS]


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["zipped", "plain"])
def test_the_lines_of_a_local_list_are_its_neighbours_or_common_crawls(tmp_path: Path, pack: Any) -> None:
    listing = tmp_path / ("wat.paths.gz" if pack is gzip.compress else "wat.paths")
    listing.write_bytes(pack(f"{LINES}near.warc.wat.gz\n/else/where.wat.gz\ns3://bucket/3.wat.gz\n".encode()))
    (tmp_path / "near.warc.wat.gz").touch()
    assert list_wats(str(listing)) == [
        *(f"https://data.commoncrawl.org/{path}" for path in PATHS),
        f"{tmp_path}/near.warc.wat.gz",
        "/else/where.wat.gz",
        "s3://bucket/3.wat.gz",
    ]


def test_every_member_of_a_gzip_file_is_read(tmp_path: Path) -> None:
    members = [gzip.compress(f"/{n}.wat.gz\n".encode()) for n in range(3)]
    (tmp_path / "wat.paths.gz").write_bytes(b"".join(members) + bytes(512))  # zeros fill a tape's last block
    assert list_wats(str(tmp_path / "wat.paths.gz")) == ["/0.wat.gz", "/1.wat.gz", "/2.wat.gz"]


def test_a_file_that_is_listed_twice_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "wat.paths").write_text(f"{PATHS[0]}\r\n{PATHS[1]}\r\n{PATHS[0]}\r\n")
    assert list_wats(str(tmp_path / "wat.paths")) == [f"https://data.commoncrawl.org/{path}" for path in PATHS]


def test_what_is_missing_is_said_in_one_sentence(tmp_path: Path, host: str) -> None:
    sources = ["none.warc.wat.gz", str(tmp_path), f"{tmp_path}/wat.paths.gz", f"{host}/missing/wat.paths.gz"]
    for source in [*sources, "http://127.0.0.1:1/wat.paths.gz", "ftp://host/wat.paths"]:
        with pytest.raises(SourceError, match=r"^(There is|The list|A list) .*: (check|name) [^.]+(s3://)?\.$"):
            list_wats(source)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(b"\n \n"), "names no WAT file"),
        (b"<html>503</html>", "not a list of paths"),
        (gzip.compress(b"\xff\xfe"), "not a list of paths"),
        (gzip.compress(LINES.encode()) + b"<html>", "not a list of paths"),
        (gzip.compress(LINES.encode())[:-12], "ends early"),
        (gzip.compress(LINES.encode() * 100), "has over 1000 bytes"),
        (gzip.compress(LINES.encode()) * 10, "has over 1000 bytes"),
        (b"", "names no WAT file"),
    ],
    ids=["empty lines", "html", "no text", "no second member", "cut", "too long", "too long in ten members", "empty"],
)
def test_an_invalid_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, why: str) -> None:
    monkeypatch.setattr(wat_paths, "MAX_LIST_BYTES", 1000)
    (tmp_path / "wat.paths.gz").write_bytes(content)
    with pytest.raises(SourceError, match=why):
        list_wats(str(tmp_path / "wat.paths.gz"))


def test_a_sample_is_drawn_alike_each_time_and_a_larger_one_holds_it() -> None:
    wats = [f"https://host/{n:05d}.wat.gz" for n in range(10_000)]
    small, large = sample(wats, 100, 7), sample(wats, 1_000, 7)
    assert small == sample(wats, 100, 7) == sorted(small)
    assert set(small) < set(large)
    assert len(set(large)) == 1_000
    assert sample(wats, 100, 8) != small
    quarters = [len(set(large) & set(wats[start : start + 2_500])) for start in range(0, 10_000, 2_500)]
    assert all(200 < n < 300 for n in quarters)  # 250, and 13.7 is the standard deviation


def test_a_sample_of_more_than_there_is_is_refused() -> None:
    with pytest.raises(SourceError, match=r"^There are 2 WAT files, fewer than --sample 3: choose a smaller number\.$"):
        sample(["a", "b"], 3, 0)


def test_a_sampled_run_says_of_what_and_with_which_seed(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(database, monkeypatch, capsys)
    (tmp_path / "wat.paths").write_text("".join(f"crawl-data/{n}.warc.wat.gz\n" for n in range(50)))
    listing = str(tmp_path / "wat.paths")
    small = console.json("seed", listing, "--sample", 5, "--random-seed", 3)
    assert small == {"run": "crawl", "wats": 5, "new": 5, "sample": 5, "of": 50, "random_seed": 3}
    assert "drawn from 50 with random seed 3" in console("seed", listing, "--sample", 5, "--random-seed", 3).out
    assert console.json("seed", listing, "--sample", 8, "--random-seed", 3)["new"] == 3
    assert console.json("log")["changes"][0]["after"]["sample"] == 8
    assert "fewer than --sample 51" in console.refusal("seed", listing, "--sample", 51)
