"""The guarded fetcher as a process: no URL can reach a private address, and time and memory are bounded."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio

from dataset.search.encoder import Encoder, EncoderOptions
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient
from dataset.search.fetcher_wire import REQUEST
from dataset.search.metrics import Metrics
from tests.dataset.search.tiny import Client, served, tiny_engine
from tests.workers.fetching.odd_web import Handler, OddWeb, answer, odd_web, picture, response, run
from tests.workers.fetching.test_fetch import FAULTS
from tests.workers.fetching.test_resolve import name_server
from workers.errors import CannotWork
from workers.fetcher import listen, serve_fetcher
from workers.fetching.policy import FetchPolicy

PICTURE = picture()

PRIVATE = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.2", "169.254.169.254", "172.16.0.1", "192.0.0.8", "192.168.1.1",
    "198.18.0.1", "224.0.0.1", "255.255.255.255", "[::]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:8.8.8.8]",
    "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001::1]", "[fc00::1]", "[fe80::1]", "[fec0::1]", "[ff02::1]",
    "2130706434", "0x7f000002", "0x7f.0.0.2", "0177.0.0.2", "127.2", "127.0.2", "127.0.0.2.", "%31%32%37.0.0.2",
    "①②⑦.0.0.2", "127。0。0。2",
]  # fmt: skip
"""Private, in every spelling; 127.0.0.1 alone is allowed here, at one port."""

NOT_THE_WEB = [
    "file:///etc/passwd", "gopher://127.0.0.1:6379/_FLUSHALL", "ftp://a.test/", "data:image/png;base64,AAAA", "",
    "unix:///run/docker.sock", "http://", "//a.test/", "javascript:alert(1)", "http://user:secret@a.test/a.jpg",
    "jar:http://a.test!/b", "\x00", "http://a.test:22:80/",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Running:
    web: OddWeb
    path: Path

    async def status(self, url: str) -> int:
        """Return 200 for a picture, otherwise the status of the error."""

        def ask() -> int:
            try:
                return 200 if asyncio.run(FetcherClient(self.path).fetch(url)) == PICTURE else 0
            except SearchError as error:
                return error.status

        return await trio.to_thread.run_sync(ask)


@asynccontextmanager
async def fetcher(
    folder: Path, handlers: Mapping[str, Handler], zone: dict[tuple[str, str], list[str]] | None = None, **more: object
) -> AsyncIterator[Running]:
    async with odd_web(handlers) as web, name_server(zone or {}) as names, trio.open_nursery() as nursery:
        policy = FetchPolicy(
            allow_networks=(ip_network("127.0.0.1/32"),),
            allow_ports=(web.port,),
            nameservers=(names.place,),
            timeout_seconds=5.0,
            opt_out_words=frozenset(),
            **{"max_bytes": 1_000_000, **more},  # type: ignore[arg-type]
        )
        path = folder / "fetcher.sock"
        nursery.start_soon(serve_fetcher, listen(path), policy)
        yield Running(web, path)
        nursery.cancel_scope.cancel()


def test_no_spelling_of_a_private_address_and_no_other_scheme_is_fetched(tmp_path: Path) -> None:
    async def test() -> dict[str, int]:
        async with fetcher(tmp_path, {"*": answer(response(PICTURE))}) as running:
            assert await running.status(running.web.url("/a.jpg")) == 200
            asked = [f"http://{host}:{running.web.port}/a.jpg" for host in PRIVATE]
            asked += ["http://127.0.0.1:22/", "http://127.0.0.1:6379/", *NOT_THE_WEB]
            found = {url: await running.status(url) for url in asked}
            assert len(running.web.requests) == 1
            return found

    assert {url: status for url, status in run(test).items() if status != 400} == {}


def test_the_search_server_refuses_the_same_urls_in_image_url(tmp_path: Path) -> None:
    async def start(metrics: Metrics) -> Encoder:
        encoder = Encoder(EncoderOptions("hashing", None, None), metrics, "tests.dataset.search.hashing_encoder")
        await encoder.start()
        return encoder

    def ask(client: Client, url: str) -> int:
        query = {"image_url": url, "modality": "image", "num_images": 1, "indice_name": None}
        return client.ask("/knn-service", query).status

    async def test() -> dict[str, int]:
        async with fetcher(tmp_path, {"*": answer(response(PICTURE))}) as running:
            with served(tiny_engine(), start=start, fetcher=running.path) as client:
                asked = [f"http://{host}:{running.web.port}/a.jpg" for host in PRIVATE] + NOT_THE_WEB
                found = {url: await trio.to_thread.run_sync(ask, client, url) for url in asked}
                assert await trio.to_thread.run_sync(ask, client, running.web.url("/a.jpg")) == 200
            assert len(running.web.requests) == 1
            return found

    assert {url: status for url, status in run(test).items() if status != 400} == {}


def test_no_name_and_no_redirect_leads_to_a_private_address(tmp_path: Path) -> None:
    zone = {
        ("private.test.", "A"): ["10.0.0.1"],
        ("mixed.test.", "A"): ["127.0.0.1", "192.168.0.1"],
        ("six.test.", "AAAA"): ["::1"],
        ("alias.test.", "CNAME"): ["private.test."],
        ("good.test.", "A"): ["127.0.0.1"],
    }

    async def test() -> list[int]:
        handlers = {"/good.jpg": answer(response(PICTURE))}
        for number, place in enumerate([*PRIVATE[:24], "private.test", "mixed.test", "six.test", "alias.test"]):
            to = f"Location: http://{place}/a.jpg"
            handlers[f"/{number}"] = answer(response(b"", to, status="302 Found"))
        async with fetcher(tmp_path, handlers, zone) as running:
            port = running.web.port
            assert await running.status(f"http://good.test:{port}/good.jpg") == 200
            names = ["private.test", "mixed.test", "six.test", "alias.test"]
            found = [await running.status(f"http://{name}:{port}/good.jpg") for name in names]
            return found + [await running.status(running.web.url(f"/{n}")) for n in range(len(handlers) - 1)]

    assert set(run(test)) == {400}


def test_every_fault_of_a_server_has_an_honest_status(tmp_path: Path) -> None:
    async def test() -> dict[str, int]:
        found = {}
        for number, (name, (raw, _)) in enumerate(FAULTS.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            async with fetcher(folder, {"*": answer(raw, close=True)}) as running:
                found[name] = await running.status(running.web.url("/a.jpg"))
        return found

    found = run(test)
    reserved = {"noai", "noindex for us by name", "a reservation"}  # of datasets, not of a search by picture
    assert {name for name, status in found.items() if status == 200} == reserved
    assert set(found.values()) <= {200, 400, 422, 502, 504}


def _png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0" * 600


def test_bytes_and_pixels_are_bounded_before_anything_is_decoded(tmp_path: Path) -> None:
    bodies = {
        "/huge": answer(response(_png(60_000, 60_000))),
        "/none": answer(response(_png(0, 10))),
        "/long": answer(b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE + bytes(2_000_000), close=True),
        "/tiff": answer(response(b"II*\0" + bytes(600))),
    }

    async def test() -> dict[str, int]:
        async with fetcher(tmp_path, bodies) as running:
            return {path: await running.status(running.web.url(path)) for path in bodies}

    assert run(test) == dict.fromkeys(bodies, 422)


def test_a_client_that_hangs_up_cancels_its_request(tmp_path: Path) -> None:
    async def test() -> None:
        asked, ended = trio.Event(), trio.Event()

        async def silent(stream: trio.abc.Stream, _: bytes) -> None:
            asked.set()
            await stream.receive_some()  # returns when the fetcher closes its connection
            ended.set()

        async with fetcher(tmp_path, {"*": silent}) as running:
            stream = await trio.open_unix_socket(running.path)
            request = b'{"url": "%b"}' % running.web.url("/a.jpg").encode()
            await stream.send_all(REQUEST.pack(len(request)) + request)
            await asked.wait()
            await stream.aclose()
            await ended.wait()

    run(test)


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", REQUEST.pack(9) + b"[1, 2, 3]", REQUEST.pack(3) + b"{}x"]
)
def test_a_client_that_sends_nonsense_gets_no_answer_and_affects_no_other(tmp_path: Path, said: bytes) -> None:
    async def test() -> None:
        async with fetcher(tmp_path, {"*": answer(response(PICTURE))}) as running:
            async with await trio.open_unix_socket(running.path) as stream:
                await stream.send_all(said)
                await stream.send_eof()
                with suppress(trio.BrokenResourceError):  # a reset, if it hung up before it had read everything
                    assert await stream.receive_some() == b""
            assert await running.status(running.web.url("/a.jpg")) == 200

    run(test)


def test_without_a_fetcher_pictures_by_url_are_not_implemented() -> None:
    with pytest.raises(SearchError) as refused:
        asyncio.run(FetcherClient(None).fetch("https://example.org/a.jpg"))
    assert refused.value.status == 501


def test_a_fetcher_that_is_down_is_an_unavailable_service(tmp_path: Path) -> None:
    with pytest.raises(SearchError) as refused:
        asyncio.run(FetcherClient(tmp_path / "none.sock").fetch("https://example.org/a.jpg"))
    assert refused.value.status == 503


def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "fetcher.sock"
    listen(path).close()
    with listen(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(CannotWork, match="another fetcher"):
            listen(path)
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(CannotWork, match="not a socket"):
        listen(tmp_path / "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"


def test_the_command_listens_until_it_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "fetcher.sock"
    command = [sys.executable, "-c", "from workers.main import main; main()", "fetcher", "--socket", str(path)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        assert b"fetcher.listening" in process.stderr.readline()
        with pytest.raises(SearchError) as refused:
            asyncio.run(FetcherClient(path).fetch("http://127.0.0.1/a.jpg"))
        assert refused.value.status == 400
        with socket.socket(socket.AF_UNIX) as idle:
            idle.connect(str(path))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert not path.exists()
