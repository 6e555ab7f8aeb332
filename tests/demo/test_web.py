"""Each planted fault, seen from a plain socket: the web sends what was planted."""

import http.client
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.demo.crawl import Crawl
from tests.demo.planting import Link
from tests.demo.plants import Plant
from tests.demo.small_crawl import build_small_crawl, free_port

ROOT = Path(__file__).resolve().parents[2]
BRIEFLY = 0.4  # seconds; under it the web has sent all that it is going to send at once


def start_web(crawl: Crawl) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.demo.web", str(crawl.web), "--port", str(crawl.allow_ports[0])]
    web = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert web.stdout is not None
    assert web.stdout.readline().startswith("ready hosts=8 ")
    return web


def end_web(web: subprocess.Popen[str]) -> int:
    assert web.stdin is not None
    assert web.stdout is not None
    web.stdin.close()
    web.stdout.close()
    return web.wait(timeout=20)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Crawl:
    return build_small_crawl(tmp_path_factory.mktemp("crawl") / "it", port=free_port(), dead_port=free_port())


@pytest.fixture(scope="module")
def web(crawl: Crawl) -> Iterator[Crawl]:
    process = start_web(crawl)
    yield crawl
    assert end_web(process) == 0


def planted(crawl: Crawl, plant: Plant) -> Link:
    return next(link for link in crawl.links if link.plant is plant)


def connect(url: str) -> tuple[socket.socket, bytes]:
    """Connect to a URL's host and give the request that asks for it."""
    host, _, path = url.removeprefix("http://").partition("/")
    address, _, port = host.partition(":")
    connection = socket.create_connection((address, int(port)), timeout=10)
    return connection, f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def answer(url: str, max_bytes: int | None = 2**20) -> tuple[http.client.HTTPMessage, int, bytes]:
    """Fetch with the standard library's client: headers, status and at most `max_bytes` of the body."""
    host, _, path = url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request("GET", f"/{path}")
        response = connection.getresponse()
        with response:
            return response.headers, response.status, response.read(max_bytes)


@pytest.mark.parametrize(
    ("plant", "status"),
    [
        (Plant.MATCHED, 200),
        (Plant.NOT_FOUND, 404),
        (Plant.GONE, 410),
        (Plant.SERVER_ERROR, 500),
        (Plant.REDIRECT, 302),
    ],
)
def test_a_link_has_its_status(web: Crawl, plant: Plant, status: int) -> None:
    assert answer(planted(web, plant).url)[1] == status


def test_the_address_decides_and_not_the_host_header(web: Crawl) -> None:
    link = planted(web, Plant.MATCHED)
    other = next(host for host in web.hosts if host != link.host)
    assert answer(link.url.replace(link.host, other))[1] == 404


def test_a_redirect_leads_over_another_host_to_a_picture(web: Crawl) -> None:
    first = answer(planted(web, Plant.REDIRECT).url)[0]["Location"]
    headers, status, _ = answer(first)
    assert status == 302
    assert headers["Location"].startswith("/moved/")
    headers, status, _ = answer("/".join(first.split("/")[:3]) + headers["Location"])
    assert status == 200
    assert headers["Content-Type"].startswith("image/")


def test_a_redirect_loop_comes_back_to_its_start(web: Crawl) -> None:
    start = planted(web, Plant.REDIRECT_LOOP).url
    assert answer(answer(start)[0]["Location"])[0]["Location"] == start


def test_a_redirect_points_to_the_link_local_address(web: Crawl) -> None:
    assert answer(planted(web, Plant.REDIRECT_LINK_LOCAL).url)[0]["Location"].startswith("http://169.254.169.254/")


def test_no_server_listens_on_the_dead_port(web: Crawl) -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(planted(web, Plant.DEAD_PORT).url)


def test_the_silent_host_accepts_and_does_not_answer(web: Crawl) -> None:
    connection, request = connect(planted(web, Plant.SILENT_HOST).url)
    with connection:
        connection.sendall(request)
        connection.settimeout(BRIEFLY)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_a_slow_body_drips(web: Crawl) -> None:
    connection, request = connect(planted(web, Plant.SLOW_BODY).url)
    received = b""
    with connection:
        connection.sendall(request)
        while received.count(b"\r\n\r\n") == 0 or len(received.partition(b"\r\n\r\n")[2]) < 3:
            received += connection.recv(2**16)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert len(body) < 100


def test_an_endless_body_continues_after_twenty_megabytes(web: Crawl) -> None:
    headers, _, body = answer(planted(web, Plant.ENDLESS_BODY).url, max_bytes=21_000_000)
    assert "Content-Length" not in headers
    assert len(body) == 21_000_000


def test_a_wrong_content_length_promises_more_than_comes(web: Crawl) -> None:
    with pytest.raises(http.client.IncompleteRead):
        answer(planted(web, Plant.WRONG_LENGTH).url, max_bytes=None)


def test_gzip_inflates_beyond_every_limit_from_few_bytes(web: Crawl) -> None:
    headers, _, body = answer(planted(web, Plant.ENDLESS_GZIP).url, max_bytes=100_000)
    assert headers["Content-Encoding"] == "gzip"
    inflated = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)
    assert inflated.startswith(b"\xff\xd8\xff")
    assert len(inflated) > 50_000_000


def test_the_gzip_that_is_sent_ends_before_a_cap_on_received_bytes_would(web: Crawl) -> None:
    assert len(answer(planted(web, Plant.ENDLESS_GZIP).url, max_bytes=20_000_000)[2]) < 10_000_000


def test_html_comes_under_a_jpeg_name(web: Crawl) -> None:
    body = answer(planted(web, Plant.HTML_AS_JPEG).url)[2]
    assert body.startswith(b"<!DOCTYPE html>")
    assert len(body) > 5_000


def test_the_bomb_is_small_and_claims_four_hundred_million_pixels(web: Crawl) -> None:
    body = answer(planted(web, Plant.DECOMPRESSION_BOMB).url)[2]
    assert 5_000 < len(body) < 200_000
    assert struct.unpack(">II", body[16:24]) == (20_000, 20_000)


def test_an_opt_out_is_said_in_the_header(web: Crawl) -> None:
    assert answer(planted(web, Plant.OPT_OUT).url)[0]["X-Robots-Tag"] == "noai, noimageai"


def test_a_connection_carries_several_requests(web: Crawl) -> None:
    link = planted(web, Plant.MATCHED)
    host, _, path = link.url.removeprefix("http://").partition("/")
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        for _ in range(2):
            connection.request("GET", f"/{path}")
            with connection.getresponse() as response:
                assert len(response.read()) > 5_000


def test_bytes_that_are_no_http_close_the_connection(web: Crawl) -> None:
    connection, _ = connect(planted(web, Plant.MATCHED).url)
    with connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert connection.recv(1) == b""


def test_the_web_ends_when_its_standard_input_closes_even_in_mid_answer(crawl: Crawl, tmp_path: Path) -> None:
    own = build_small_crawl(tmp_path / "own", port=free_port(), dead_port=free_port())
    process = start_web(own)
    connection, request = connect(planted(own, Plant.SILENT_HOST).url)
    with connection:
        connection.sendall(request)
        assert end_web(process) == 0


def test_the_web_ends_on_sigterm(tmp_path: Path) -> None:
    own = build_small_crawl(tmp_path / "own", port=free_port(), dead_port=free_port())
    process = start_web(own)
    process.send_signal(signal.SIGTERM)
    assert end_web(process) == 0


def test_a_port_that_is_taken_is_one_sentence(web: Crawl) -> None:
    command = [sys.executable, "-m", "tests.demo.web", str(web.web), "--port", str(web.allow_ports[0])]
    taken = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert taken.returncode == 1
    assert taken.stderr.startswith("the web cannot listen on port")
    assert "Traceback" not in taken.stderr
