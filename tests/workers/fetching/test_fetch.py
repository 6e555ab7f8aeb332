"""Every misbehaviour of a server has an outcome, and none raises an exception."""

import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
import trio
import trustme
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dataset.pictures.outcomes import Outcome
from tests.workers.fetching.odd_web import Handler, OddWeb, answer, odd_web, picture, response, run, serve_requests
from workers.fetching.fetch import Failure, Fetched, Fetcher
from workers.fetching.policy import FetchPolicy

PICTURE = picture()
HTML = b"<!doctype html><html><head><title>Not found</title></head><body>" + b"<p>sorry</p>" * 100


def policy(web: OddWeb, **changes: object) -> FetchPolicy:
    lenient = FetchPolicy(
        timeout_seconds=5.0,
        allow_networks=(ip_network("127.0.0.0/8"),),
        allow_ports=(web.port,),
        max_bytes=1_000_000,
        user_agent="shoal-test/1.0 (+https://shoal.example/bot)",
    )
    return replace(lenient, **changes)  # type: ignore[arg-type]


async def fetch(url: str, rules: FetchPolicy) -> Fetched | Failure:
    async with Fetcher(rules) as fetcher:
        with fetcher.share() as share:
            return await fetcher.fetch(url, share)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def outcome_of(raw: bytes, *, close: bool = True, **changes: object) -> Outcome:
    """Fetch from a server that answers every request with these bytes."""

    async def test() -> Outcome:
        async with odd_web({"*": answer(raw, close=close)}) as web:
            result = await fetch(web.url("/a.jpg"), policy(web, **changes))
        if isinstance(result, Failure):
            return result.outcome
        assert result.data == PICTURE
        return Outcome.SUCCESS

    return run(test)


def chunked(body: bytes, size: int = 1_000) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


ODD_BUT_FINE = {
    "an ordinary response": response(PICTURE),
    "the wrong content type": response(PICTURE, "Content-Type: text/html"),
    "no length, ended by closing": b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE,
    "HTTP/2.0 in the status line": b"HTTP/2.0 200\r\n\r\n" + PICTURE,
    "ICY": b"ICY 200 OK\r\n\r\n" + PICTURE,
    "lone line feeds": b"HTTP/1.1 200 OK\nServer: x\n\n" + PICTURE,
    "blank lines before the status": b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + PICTURE,
    "an interim response": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(PICTURE),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(PICTURE),
    "chunks and a length": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(PICTURE),
    "a line without a colon": response(PICTURE, "what is this"),
    "a blank before the colon": response(PICTURE, "Server : old"),
    "a header that is not UTF-8": response(PICTURE, "Content-Disposition: inline; filename=caf\xe9.jpg"),
    "control bytes in a header": response(PICTURE, "X-Odd: a\x01b\x00c"),
    "a name in brackets": response(PICTURE, "[X]: y"),
    "the length twice": response(PICTURE, f"Content-Length: {len(PICTURE)}"),
    "a length of -1": response(b"").replace(b": 0", b": -1") + PICTURE,
    "a folded header": response(PICTURE, "X-Long: a", " b"),
    "a head of 40 KB": response(PICTURE, *(f"X-{i}: {'x' * 1_000}" for i in range(40))),
    "gzip": response(gzip.compress(PICTURE), "Content-Encoding: gzip"),
    "gzip that is none": response(PICTURE, "Content-Encoding: gzip"),
    "deflate with its header": response(zlib.compress(PICTURE), "Content-Encoding: deflate"),
    "deflate without": response(zlib.compress(PICTURE)[2:-4], "Content-Encoding: deflate"),
    "utf-8 as a coding": response(PICTURE, "Content-Encoding: utf-8"),
    "more than was announced": response(PICTURE + b"and more", length=len(PICTURE)),
}


@pytest.mark.parametrize("raw", ODD_BUT_FINE.values(), ids=ODD_BUT_FINE.keys())
def test_a_picture_is_read_despite(raw: bytes) -> None:
    assert outcome_of(raw) is Outcome.SUCCESS


FAULTS = {
    "no bytes at all": (b"", Outcome.BAD_RESPONSE),
    "something else than HTTP": (b"220 ftp.example ready\r\n\r\n", Outcome.BAD_RESPONSE),
    "a body without a head": (PICTURE, Outcome.BAD_RESPONSE),
    "half a head": (b"HTTP/1.1 200 OK\r\nServer: x", Outcome.BAD_RESPONSE),
    "a head of 80 KB": (response(PICTURE, *(f"X-{i}: {'x' * 1_000}" for i in range(80))), Outcome.BAD_RESPONSE),
    "two lengths": (response(PICTURE, "Content-Length: 9"), Outcome.BAD_RESPONSE),
    "interim responses for ever": (b"HTTP/1.1 100 Continue\r\n\r\n" * 50, Outcome.BAD_RESPONSE),
    "broken chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Outcome.BAD_RESPONSE),
    "chunks of one byte": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(PICTURE, 1),
        Outcome.BAD_RESPONSE,
    ),
    "a coding nobody asked for": (response(PICTURE, "Content-Encoding: br"), Outcome.BAD_RESPONSE),
    "gzip in gzip": (response(gzip.compress(PICTURE), "Content-Encoding: gzip, gzip"), Outcome.BAD_RESPONSE),
    "damaged gzip": (
        response(gzip.compress(PICTURE)[:50] + b"x" * 9_000, "Content-Encoding: gzip"),
        Outcome.BAD_RESPONSE,
    ),
    "gzip without an end": (response(gzip.compress(PICTURE)[:-9], "Content-Encoding: gzip"), Outcome.TRUNCATED),
    "gzip that inflates to 60 MB": (
        response(gzip.compress(PICTURE + bytes(60_000_000)), "Content-Encoding: gzip"),
        Outcome.TOO_LARGE,
    ),
    "a length that is too great": (response(PICTURE, length=len(PICTURE) + 1), Outcome.TRUNCATED),
    "chunks without an end": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(PICTURE)[:-5],
        Outcome.TRUNCATED,
    ),
    "an announcement over the limit": (response(b"", length=1_000_001), Outcome.TOO_LARGE),
    "a length of 30 digits": (response(b"", length=10**18), Outcome.TOO_LARGE),
    "a body over the limit without a length": (b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE * 25, Outcome.TOO_LARGE),
    "404": (response(HTML, status="404 Not Found"), Outcome.NOT_FOUND),
    "410": (response(HTML, status="410 Gone"), Outcome.GONE),
    "403": (response(HTML, status="403 Forbidden"), Outcome.FORBIDDEN),
    "451": (response(HTML, status="451 Legal"), Outcome.FORBIDDEN),
    "429": (response(HTML, status="429 Slow down"), Outcome.RATE_LIMITED),
    "400": (response(HTML, status="400 Bad"), Outcome.HTTP_ERROR),
    "206": (response(PICTURE, status="206 Partial"), Outcome.HTTP_ERROR),
    "304": (response(b"", status="304 Not Modified"), Outcome.HTTP_ERROR),
    "500": (response(HTML, status="500 Oops"), Outcome.SERVER_ERROR),
    "503": (response(HTML, status="503 Busy"), Outcome.SERVER_ERROR),
    "HTML under a picture's name": (response(HTML, "Content-Type: image/jpeg"), Outcome.NOT_AN_IMAGE),
    "noai": (response(PICTURE, "X-Robots-Tag: noai, noimageai"), Outcome.OPTED_OUT),
    "noindex for us by name": (response(PICTURE, "X-Robots-Tag: shoal-test: noindex"), Outcome.OPTED_OUT),
    "a reservation": (response(PICTURE, "TDM-Reservation: 1"), Outcome.OPTED_OUT),
    "a redirect without a Location": (response(b"", status="302 Found"), Outcome.BAD_REDIRECT),
    "a redirect to a file": (response(b"", "Location: file:///etc/passwd", status="302 F"), Outcome.BAD_REDIRECT),
    "a redirect to itself": (response(b"", "Location: /a.jpg", status="301 Moved"), Outcome.REDIRECT_LOOP),
    "a redirect to a link-local address": (
        response(b"", "Location: http://169.254.169.254/latest/meta-data/", status="302 F"),
        Outcome.REFUSED_ADDRESS,
    ),
    "a redirect to another port": (
        response(b"", "Location: http://127.0.0.1:22/", status="302 F"),
        Outcome.REFUSED_ADDRESS,
    ),
    "a redirect to a spelling of a private address": (
        response(b"", "Location: http://167772161/", status="302 F"),
        Outcome.REFUSED_ADDRESS,
    ),
}


@pytest.mark.parametrize(("raw", "outcome"), FAULTS.values(), ids=FAULTS.keys())
def test_the_outcome_is_the_fault_of_a_server_that_sends(raw: bytes, outcome: Outcome) -> None:
    assert outcome_of(raw) is outcome


async def _never(stream: trio.abc.Stream, head: bytes) -> None:
    await trio.sleep_forever()


async def _stalled(stream: trio.abc.Stream, head: bytes) -> None:
    await stream.send_all(response(PICTURE)[:2_000])
    await trio.sleep_forever()


async def _endless(stream: trio.abc.Stream, head: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + PICTURE)
    while True:
        await stream.send_all(bytes(65_536))


async def _endless_head(stream: trio.abc.Stream, head: bytes) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"X-More: and more\r\n" * 100)


async def _reset(stream: trio.abc.Stream, head: bytes) -> None:
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await stream.aclose()


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (_never, Outcome.TIMEOUT),
        (_stalled, Outcome.TIMEOUT),
        (_endless, Outcome.TOO_LARGE),
        (_endless_head, Outcome.BAD_RESPONSE),
        (_reset, Outcome.CONNECT_ERROR),
    ],
)
def test_a_silent_or_closing_server_is_given_up(handler: Handler, outcome: Outcome) -> None:
    async def test() -> None:
        async with odd_web({"*": handler}) as web:
            seconds = 0.5 if outcome is Outcome.TIMEOUT else 60
            result = await fetch(web.url("/a.jpg"), policy(web, timeout_seconds=seconds))
        assert isinstance(result, Failure)
        assert result.outcome is outcome
        assert result.seconds < 30

    run(test)


def test_a_missing_head_times_out_before_the_whole_link() -> None:
    async def test() -> None:
        async with odd_web({"*": _never}) as web:
            result = await fetch(web.url("/"), policy(web, first_byte_seconds=0.2, timeout_seconds=20))
        assert isinstance(result, Failure)
        assert (result.outcome, result.reason) == (Outcome.TIMEOUT, "no response in time")

    run(test)


def test_a_dead_port_is_a_connect_error() -> None:
    async def test() -> None:
        async with odd_web({}) as web:
            rules = policy(web)
        result = await fetch(web.url("/"), rules)
        assert isinstance(result, Failure)
        assert (result.outcome, result.http_status) == (Outcome.CONNECT_ERROR, None)

    run(test)


def test_a_failure_has_the_last_url_and_its_status() -> None:
    async def test() -> None:
        handlers = {
            "/a": answer(response(b"", "Location: /b", status="302 Found")),
            "/b": answer(response(b"x" * 10, "Content-Type: image/png", length=99), close=True),
        }
        async with odd_web(handlers) as web:
            result = await fetch(web.url("/a"), policy(web))
            assert isinstance(result, Failure)
            assert result.outcome is Outcome.TRUNCATED
            assert (result.http_status, result.content_type, result.final_url) == (200, "image/png", web.url("/b"))
            assert not result.transient

    run(test)


def test_a_redirect_reuses_the_connection_and_the_final_url_is_kept() -> None:
    async def test() -> None:
        handlers = {"/a": answer(response(b"", "Location: b#x", status="302 Found")), "/b": answer(response(PICTURE))}
        async with odd_web(handlers) as web:
            result = await fetch(web.url("/a"), policy(web))
            assert isinstance(result, Fetched)
            assert result.final_url == web.url("/b")
            assert web.connections == 1

    run(test)


def test_redirects_end_after_the_allowed_number() -> None:
    async def step(stream: trio.abc.Stream, head: bytes) -> None:
        number = int(head.split(b" ")[1].strip(b"/"))
        await stream.send_all(response(b"", f"Location: /{number + 1}", status="302 Found"))

    async def test() -> None:
        async with odd_web({"*": step}) as web:
            result = await fetch(web.url("/0"), policy(web, max_redirects=3))
            assert isinstance(result, Failure)
            assert result.outcome is Outcome.REDIRECT_LOOP
            assert len(web.requests) == 4

    run(test)


@pytest.mark.parametrize(
    "path",
    [
        "/render?url=https%3A%2F%2Fx.example%2F%7Ejane%2Fa.png&sig=1",
        "/%41.jpg",
        "/%u00e9.jpg",
        "/a%zz.jpg",
        "/a%2Db.jpg",
        "/100%.jpg?50%25&x=%",
        "/a;b,c!$'()*+@:[]|.jpg?{}|\\^`",
    ],
)
def test_the_path_of_a_link_is_sent_unchanged(path: str) -> None:
    async def test() -> None:
        async with odd_web({"*": answer(response(PICTURE))}) as web:
            await fetch(web.url(path), policy(web))
        assert web.requests[0].split(b" ")[1].decode() == path

    run(test)


def test_a_request_has_our_user_agent_and_accepts_only_what_we_can_decode() -> None:
    async def test() -> None:
        async with odd_web({"*": answer(response(PICTURE))}) as web:
            await fetch(web.url("/%7Ea b?q=ü#part"), policy(web))
        head = web.requests[0].decode().lower()
        assert head.startswith("get /%7ea%20b?q=%c3%bc http/1.1\r\n")
        assert f"host: 127.0.0.1:{web.port}\r\n" in head
        assert "user-agent: shoal-test/1.0 (+https://shoal.example/bot)\r\n" in head
        assert "accept-encoding: identity\r\n" in head
        assert "content-length" not in head
        assert "cookie" not in head

    run(test)


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_the_host_header_of_an_ipv6_address_has_brackets() -> None:
    async def test() -> None:
        async with odd_web({"*": answer(response(PICTURE))}, host="::1") as web:
            rules = policy(web, allow_networks=(ip_network("::1/128"),))
            assert isinstance(await fetch(f"http://[::1]:{web.port}/", rules), Fetched)
        assert f"host: [::1]:{web.port}\r\n" in web.requests[0].decode().lower()

    run(test)


def test_a_dead_idle_connection_is_replaced_silently() -> None:
    async def test() -> None:
        async def once(stream: trio.abc.Stream, head: bytes) -> None:
            await stream.send_all(response(PICTURE))
            await stream.receive_some()
            await stream.aclose()  # without an answer to the second request

        async with odd_web({"*": once}) as web, Fetcher(policy(web)) as fetcher:
            for _ in range(3):
                with fetcher.share() as share:
                    assert isinstance(await fetcher.fetch(web.url("/"), share), Fetched)

    run(test)


def test_surplus_bytes_never_become_the_picture_of_another_link() -> None:
    async def test() -> None:
        smuggled = response(PICTURE) + response(picture(seed=1))
        handlers = {"/first": answer(smuggled), "*": answer(response(HTML, status="404 Not Found"))}
        async with odd_web(handlers) as web, Fetcher(policy(web)) as fetcher:
            with fetcher.share() as share:
                assert isinstance(await fetcher.fetch(web.url("/first"), share), Fetched)
            with fetcher.share() as share:
                second = await fetcher.fetch(web.url("/second"), share)
            assert isinstance(second, Failure)
            assert second.outcome is Outcome.NOT_FOUND

    run(test)


def test_the_first_nonempty_location_counts() -> None:
    async def test() -> None:
        moved = response(b"", "Location: ", "Location: /picture", "Location: /nowhere", status="302 Found")
        missing = response(b"", status="404 Not Found")
        async with odd_web({"/": answer(moved), "/picture": answer(response(PICTURE)), "*": answer(missing)}) as web:
            result = await fetch(web.url("/"), policy(web))
            assert isinstance(result, Fetched)
            assert result.final_url == web.url("/picture")

    run(test)


@asynccontextmanager
async def _tls_web(handlers: Mapping[str, Handler], certificate: trustme.LeafCert) -> AsyncIterator[OddWeb]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        web = OddWeb(listeners[0].socket.getsockname()[1])

        async def serve(stream: trio.SocketStream) -> None:
            secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await serve_requests(secured, handlers, web)

        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield web
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("name", "is_trusted", "verify", "outcome"),
    [
        ("127.0.0.1", True, True, Outcome.SUCCESS),
        ("127.0.0.1", False, True, Outcome.TLS_ERROR),
        ("elsewhere.example", True, True, Outcome.TLS_ERROR),
        ("elsewhere.example", False, False, Outcome.SUCCESS),
    ],
)
def test_a_certificate_is_checked_against_the_host(
    name: str, is_trusted: bool, verify: bool, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    trusted = authority if is_trusted else trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def test() -> None:
        async with _tls_web({"*": answer(response(PICTURE))}, authority.issue_cert(name)) as web:
            url = web.url("/").replace("http:", "https:")
            async with Fetcher(policy(web, verify_tls=verify)) as fetcher:
                for _ in range(2):
                    with fetcher.share() as share:
                        result = await fetcher.fetch(url, share)
                    assert (Outcome.SUCCESS if isinstance(result, Fetched) else result.outcome) is outcome

    run(test)


def test_https_to_a_server_without_tls_is_a_tls_error() -> None:
    async def test() -> None:
        async with odd_web({"*": answer(response(PICTURE))}) as web:
            listener_answers = web.url("/").replace("http:", "https:")
            result = await fetch(listener_answers, policy(web, timeout_seconds=0.5))
        assert isinstance(result, Failure)
        assert result.outcome in (Outcome.TLS_ERROR, Outcome.TIMEOUT)

    run(test)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        st.text(),
        st.text().map("http://".__add__),
        st.text(alphabet="htp:/.[]@%#?\\0x1f\ud800 ").map("http://".__add__),
    )
)
@example("http://[fe80::1%25eth0]/")
@example("http://0x7f.1/")
@example("https://:80:80/")
def test_any_string_as_a_url_has_one_outcome(url: str) -> None:
    async def test() -> None:
        rules = FetchPolicy(timeout_seconds=0.02, nameservers=("127.0.0.1:1",))
        result = await fetch(url, rules)
        assert isinstance(result, Failure)

    run(test)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_as_a_response_have_one_outcome(raw: bytes, as_headers: bool) -> None:
    full = b"HTTP/1.1 200 OK\r\n" + raw + b"\r\n\r\n" if as_headers else raw

    async def test() -> None:
        async with odd_web({"*": answer(full, close=True)}) as web:
            assert isinstance(await fetch(web.url("/"), policy(web, timeout_seconds=2)), Fetched | Failure)

    run(test)
