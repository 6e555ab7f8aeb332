"""The limits that the operator sets for a download worker on the network.

Invariant: every `FetchPolicy` object is valid, and this package reads no setting from anywhere else.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address

from workers.errors import WorkerError
from workers.fetching.opt_out import WORDS

DNS_PORT = 53

_WORD = re.compile(r"[a-z0-9_*-]+(=[a-z0-9]+)?\Z")


class Profile(StrEnum):
    """The default limits per host and address."""

    FAST = "fast"
    POLITE = "polite"


PROFILES: dict[Profile, dict[str, float]] = {
    Profile.FAST: {"per_host": 4, "host_spacing_seconds": 0.0, "robots": False},
    # At most one request every 2 s: 300 per host in a batch of ten minutes; few hosts have so many links. At most 16 at
    # a time and 20 a second per address, behind which hosting firms put thousands of hosts.
    Profile.POLITE: {
        "per_host": 1,
        "host_spacing_seconds": 2.0,
        "per_address": 16,
        "address_spacing_seconds": 0.05,
        "robots": True,
    },
}


class PolicyError(WorkerError):
    """A setting is invalid; the message names it."""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Limits on connections, time, bytes and addresses, and the User-Agent."""

    user_agent: str = "shoal/0.1 (image-text dataset builder; operator left no contact)"
    """Sent with every request: product/version and, in production, a URL with a contact."""
    concurrency: int = 256
    """Links that are fetched at the same time."""
    per_host: int = 4
    """Concurrent requests per host; browsers use 6."""
    host_spacing_seconds: float = 0.0
    """Minimum time between the starts of two requests to a host."""
    per_address: int = 0
    """Concurrent requests per IP address, whatever hosts share it; 0 means no limit."""
    address_spacing_seconds: float = 0.0
    """Minimum time between the starts of two requests to an address."""
    host_failures: int = 8
    """Consecutive failures after which a host's other links are postponed to a later batch."""
    max_rest_seconds: float = 30.0
    """A host that rests for longer, because of its Retry-After or the tracker, is given up for the batch."""
    rest_seconds: float = 60.0
    """How long a refusing host rests until the tracker has set the duration."""
    robots: bool = False
    """Fetch the robots.txt of each origin first, and skip what it disallows."""
    timeout_seconds: float = 20.0
    """Limit for the whole link: DNS, connection, all redirects, body."""
    connect_seconds: float = 8.0
    """Limit for the connection of one hop, including DNS and TLS."""
    first_byte_seconds: float = 10.0
    """Limit from the request until the response's head is complete."""
    min_bytes_per_second: int = 2_000
    """A body that is slower after 5 seconds is given up, because it occupies one of `concurrency` places."""
    max_bytes: int = 20_000_000
    """Limit per body, as received and after decompression."""
    max_redirects: int = 5
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Private networks that are allowed, e.g. 127.0.0.0/8 for the demo."""
    allow_ports: tuple[int, ...] = ()
    """Ports that are allowed besides 80 and 443."""
    verify_tls: bool = True
    opt_out_words: frozenset[str] = WORDS
    """Words in response headers that reserve a picture; empty ignores all opt-outs."""
    nameservers: tuple[str, ...] = ()
    """DNS resolvers as ADDRESS or ADDRESS:PORT ([ADDRESS]:PORT for IPv6); empty means those of /etc/resolv.conf."""
    dns_seconds: float = 5.0
    """Limit per name, for all resolvers and attempts together."""
    memory_bytes: int = 128 << 20
    """Limit for all bodies in memory together."""
    stop_grace_seconds: float = 8.0
    """After a stop, links in progress get this long; the others are returned."""

    def __post_init__(self) -> None:
        if not self.user_agent.isascii() or not self.user_agent.isprintable() or not self.user_agent.strip():
            raise PolicyError("The User-Agent must be one line of printable ASCII: name/version (+URL of a contact).")
        for name in ("concurrency", "per_host", "host_failures", "max_bytes"):
            if getattr(self, name) < 1:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: use 1 or more.")
        for name in ("rest_seconds", "timeout_seconds", "connect_seconds", "first_byte_seconds", "dns_seconds"):
            if not getattr(self, name) > 0:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: use more than 0 seconds.")
        for name in ("host_spacing_seconds", "address_spacing_seconds", "max_redirects", "per_address"):
            if not getattr(self, name) >= 0:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: use 0 or more.")
        self._check_lists()

    def _check_lists(self) -> None:
        if not all(0 < port < 65_536 for port in self.allow_ports):
            raise PolicyError(f"The allowed ports are {self.allow_ports}: use numbers from 1 to 65535.")
        for word in self.opt_out_words:
            if not _WORD.match(word):
                raise PolicyError(f"The opt-out word {word!r} is not a directive: use noai or train-ai=n, for example.")
        for place in self.nameservers:
            read_nameserver(place)

    @property
    def agent_token(self) -> str:
        """The product name in lower case, which selects the group in robots.txt."""
        return self.user_agent.split("/")[0].split()[0].lower()


def read_nameserver(place: str) -> tuple[str, int]:
    """Parse ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT.

    Raises: PolicyError for anything else.
    """
    if place.startswith("["):
        address, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        address, _, port = place.partition(":") if place.count(":") == 1 else (place, "", "")
    try:
        return str(ip_address(address)), int(port or DNS_PORT)
    except ValueError as error:
        raise PolicyError(f"The resolver {place!r} is not an address: use 192.0.2.1 or 192.0.2.1:53.") from error
