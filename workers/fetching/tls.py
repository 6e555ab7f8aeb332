"""TLS: OpenSSL checks the certificate chain; the name is checked here, as browsers check it.

Invariant: with a verifying context, a handshake succeeds only with a trusted chain and a certificate for the host.

Source: RFC 9525 (formerly 6125): only subjectAltName counts, and `*` stands for one whole label on the left. OpenSSL's
check refuses a label with an underscore under a wildcard (my_shop.example.com under *.example.com), which browsers and
curl accept. Rejected: service-identity, which needs a second TLS library.
"""

import ssl
from collections.abc import Iterable
from ipaddress import ip_address


def tls_context(*, verify: bool) -> ssl.SSLContext:
    """Return a client context; without `verify` it accepts any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False  # OpenSSL's check; ours replaces it
    if verify:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # set since Python 3.13, but browsers do not use it
        context.sslobject_class = _NamedObject
        context.sslsocket_class = _NamedSocket
    else:
        context.verify_mode = ssl.CERT_NONE
    return context


def is_named(host: str, names: Iterable[tuple[str, str]]) -> bool:
    """Return whether a host is among the names of a certificate, as `getpeercert` gives its subjectAltName."""
    try:
        address = ip_address(host)
    except ValueError:
        return any(kind == "DNS" and _covers(name.lower(), host) for kind, name in names)
    return any(kind == "IP Address" and ip_address(name.strip()) == address for kind, name in names)


def _covers(name: str, host: str) -> bool:
    label, _, parent = name.partition(".")
    if label != "*":
        return name == host
    own, _, above = host.partition(".")
    return bool(own) and above == parent and "." in parent  # *.com is not a valid name


class _NamedObject(ssl.SSLObject):
    def do_handshake(self) -> None:
        super().do_handshake()
        _check_name(self)


class _NamedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_name(self)


def _check_name(peer: ssl.SSLObject | ssl.SSLSocket) -> None:
    names = (peer.getpeercert() or {}).get("subjectAltName", ())
    if peer.server_hostname is None or not is_named(peer.server_hostname.lower(), names):  # type: ignore[arg-type]
        raise ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, f"the certificate is not for {peer.server_hostname}")
