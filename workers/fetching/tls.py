"""TLS: the chain is checked by OpenSSL, the certificate's name here, as browsers do.

Invariant: a handshake under a context that verifies succeeds only with a trusted chain and a certificate that names the
host.

Source: RFC 9525 (once RFC 6125) for names: only subjectAltName counts, `*` stands for one whole label on the left.
OpenSSL's own check refuses a label with an underscore under a wildcard (my_shop.example.com under *.example.com), which
browsers and curl take. Rejected: service-identity, which brings a second TLS library along.
"""

import ssl
from collections.abc import Iterable
from ipaddress import ip_address


def tls_context(*, verify: bool) -> ssl.SSLContext:
    """Make a client's context; without `verify` it takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False  # by OpenSSL
    if verify:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # set from Python 3.13 on; browsers do not go by it
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
    return bool(own) and above == parent and "." in parent  # no certificate is for *.com


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
