"""A certificate covers the hosts that browsers read from its names."""

import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from workers.fetching.tls import is_named, tls_context


@pytest.mark.parametrize(
    ("name", "host", "is_for"),
    [
        ("example.com", "example.com", True),
        ("EXAMPLE.com", "example.com", True),
        ("example.com", "img.example.com", False),
        ("*.example.com", "img.example.com", True),
        ("*.example.com", "my_shop.example.com", True),
        ("*.example.com", "-lead.example.com", True),
        ("*.example.com", "xn--i-7iq.example.com", True),
        ("my_shop.example.com", "my_shop.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.b.example.com", "a_b.b.example.com", True),
        ("*.example.com", ".example.com", False),
        ("*.com", "example.com", False),
        ("*", "localhost", False),
        ("*", "example.com", False),
        ("*.*.example.com", "a.b.example.com", False),
        ("a.*.example.com", "a.b.example.com", False),
        ("im*.example.com", "img.example.com", False),
        ("*g.example.com", "img.example.com", False),
        ("example.com\0.evil.example", "example.com", False),
        ("", "example.com", False),
        ("93.184.216.34", "93.184.216.34", False),  # an address as a DNS name
        ("*.184.216.34", "93.184.216.34", False),
    ],
)
def test_a_certificate_name_covers_a_host(name: str, host: str, is_for: bool) -> None:
    assert is_named(host, [("email", "me@example.com"), ("DNS", "other.example"), ("DNS", name)]) is is_for


@pytest.mark.parametrize(
    ("address", "host", "is_for"),
    [
        ("93.184.216.34", "93.184.216.34", True),
        ("93.184.216.35", "93.184.216.34", False),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1", True),
        ("93.184.216.34", "example.com", False),
    ],
)
def test_an_address_in_a_certificate_covers_only_that_address(address: str, host: str, is_for: bool) -> None:
    assert is_named(host, [("IP Address", address)]) is is_for


@pytest.mark.parametrize(
    ("host", "is_trusted", "error"),
    [
        ("plain.img.example", True, None),
        ("my_shop.img.example", True, None),
        ("img.example", True, "not for img.example"),
        ("my_shop.elsewhere.example", True, "not for my_shop"),
        ("plain.img.example", False, "self-signed|issuer"),
    ],
)
@pytest.mark.parametrize("over_memory", [False, True], ids=["socket", "memory"])
def test_a_handshake_ends_with_a_trusted_certificate_for_the_host_or_an_error(
    host: str, is_trusted: bool, error: str | None, over_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("*.img.example").configure_cert(server)
    shake = _shake_over_memory if over_memory else _shake_over_sockets
    if error is None:
        shake(tls_context(verify=True), server, host)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match=error):
            shake(tls_context(verify=True), server, host)
    shake(tls_context(verify=False), server, host)


def _shake_over_sockets(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        client.wrap_socket(ours, server_hostname=host).close()
    finally:
        ours.close()
        serving.join()


def _shake_over_memory(client: ssl.SSLContext, server: ssl.SSLContext, host: str) -> None:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(down, up, server_hostname=host)
    theirs = server.wrap_bio(up, down, server_side=True)
    waiting = [ours, theirs]
    while waiting:
        for one in list(waiting):
            try:
                one.do_handshake()
                waiting.remove(one)
            except ssl.SSLWantReadError:
                pass
