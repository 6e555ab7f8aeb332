"""How a link ended: a closed set of outcomes, one for every link of a batch.

Invariant: a link that a download worker has taken ends in exactly one of these, whatever the server, the network or the
picture did. The labels are part of the data (a shard's `outcome` column) and of the tracker's schema, which lists the
same ones. A label is never renamed; new ones may be added.

Rejected: free text from exceptions, as img2dataset writes it: it cannot be counted, and it leaks what a server said.
"""

from enum import StrEnum


class Outcome(StrEnum):
    """How a link ended, in the order in which a fetch can meet it."""

    SUCCESS = "success"
    """The picture is in the shard."""

    # before any connection
    BAD_URL = "bad_url"
    """Not an http or https URL that can be requested, or one with credentials."""
    BLOCKED = "blocked"
    """The operator has blocked the host, the URL prefix or the picture."""
    REFUSED_ADDRESS = "refused_address"
    """The host is, or resolves to, an address or port that is not public web, at any hop."""
    DNS_ERROR = "dns_error"
    """The name does not exist, has no address, or no resolver answered for it."""

    # during the transfer
    CONNECT_ERROR = "connect_error"
    """No connection was made, or it broke before a response began."""
    TLS_ERROR = "tls_error"
    """The handshake failed or the certificate is not the host's."""
    TIMEOUT = "timeout"
    """Connecting, the first byte or the whole request took too long, or the bytes arrived too slowly."""
    BAD_RESPONSE = "bad_response"
    """The response is not HTTP, or its framing or coding is broken."""
    TRUNCATED = "truncated"
    """The body ended before its announced end."""
    TOO_LARGE = "too_large"
    """The body is over the byte limit, on the wire or after decompression."""

    # what the server said
    NOT_FOUND = "not_found"
    """404."""
    GONE = "gone"
    """410."""
    FORBIDDEN = "forbidden"
    """401, 402, 403, 407 or 451."""
    RATE_LIMITED = "rate_limited"
    """429."""
    SERVER_ERROR = "server_error"
    """Any 5xx."""
    HTTP_ERROR = "http_error"
    """Any other status but 200 and 203."""
    BAD_REDIRECT = "bad_redirect"
    """A redirect without a usable http or https target."""
    REDIRECT_LOOP = "redirect_loop"
    """A redirect to a URL already visited, or one redirect too many."""
    OPTED_OUT = "opted_out"
    """The server reserves the picture from use for machine learning or indexing."""

    # the picture
    NOT_AN_IMAGE = "not_an_image"
    """The body is something else: mostly HTML under a picture's name."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """An image in another format than JPEG, PNG, WebP, GIF and AVIF."""
    TOO_MANY_PIXELS = "too_many_pixels"
    """The picture has more pixels than the rules allow; nothing was decoded."""
    TOO_SMALL = "too_small"
    """It has fewer bytes than the rules require."""
    UNDECODABLE = "undecodable"
    """The codec failed: the file is damaged or cut off."""
    SIDE_TOO_SHORT = "side_too_short"
    """The shorter side has fewer pixels than the rules require."""
    ASPECT_TOO_LARGE = "aspect_too_large"
    """The longer side is more times the shorter one than the rules allow."""

    CHANGED = "changed"
    """The picture does not have the sha256 that the link list gives."""


# Temporary reasons: the link gets another attempt later. A refused connection is not among them, because dead servers
# refuse connections permanently.
TRANSIENT = frozenset({Outcome.TIMEOUT, Outcome.SERVER_ERROR, Outcome.RATE_LIMITED, Outcome.DNS_ERROR})

# The link may be alive, but this crawl's rules excluded it or its picture.
NOT_WANTED = frozenset(
    {
        Outcome.BLOCKED,
        Outcome.OPTED_OUT,
        Outcome.TOO_LARGE,
        Outcome.TOO_MANY_PIXELS,
        Outcome.TOO_SMALL,
        Outcome.SIDE_TOO_SHORT,
        Outcome.ASPECT_TOO_LARGE,
    }
)

# Failures after the body was received: img2dataset's `failed_to_resize`. All others are its `failed_to_download`.
PICTURE_FAULTS = frozenset(
    {
        Outcome.NOT_AN_IMAGE,
        Outcome.UNSUPPORTED_FORMAT,
        Outcome.TOO_MANY_PIXELS,
        Outcome.TOO_SMALL,
        Outcome.UNDECODABLE,
        Outcome.SIDE_TOO_SHORT,
        Outcome.ASPECT_TOO_LARGE,
    }
)
