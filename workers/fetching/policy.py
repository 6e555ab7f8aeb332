"""What the operator allows a download worker to do on the network.

Invariant: a `FetchPolicy` that exists is valid; nothing below reads a setting from anywhere else.
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
    """How a worker treats hosts unless it is told otherwise."""

    FAST = "fast"
    POLITE = "polite"


PROFILES: dict[Profile, dict[str, float]] = {
    Profile.FAST: {"per_host": 4, "host_spacing_seconds": 0.0, "robots": False},
    # One request at a time, one in 2 s at most: 300 of one host in a batch of ten minutes, where few have that many.
    # 16 to one address and 20 a second: hosting firms put thousands of hosts behind one, of a few machines.
    Profile.POLITE: {
        "per_host": 1,
        "host_spacing_seconds": 2.0,
        "per_address": 16,
        "address_spacing_seconds": 0.05,
        "robots": True,
    },
}


class PolicyError(WorkerError):
    """A setting cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Bounds on connections, time, bytes and addresses, and who we say we are."""

    user_agent: str = "shoal/0.1 (image-text dataset builder; operator left no contact)"
    """Sent with every request: product/version and, in production, a URL where a site's owner finds a person."""
    concurrency: int = 256
    """Links under way at once."""
    per_host: int = 4
    """Requests under way at once to one host; browsers take 6."""
    host_spacing_seconds: float = 0.0
    """At least, between the beginnings of two requests to one host."""
    per_address: int = 0
    """Requests under way at once to one address, whatever hosts share it; 0 for any number."""
    address_spacing_seconds: float = 0.0
    """At least, between the beginnings of two requests to one address."""
    host_failures: int = 8
    """In a row, after which a host is given up for the batch; its other links are tried in a later one."""
    max_rest_seconds: float = 30.0
    """A host that rests for longer, by its own wish (Retry-After) or the fleet's, is given up for the batch."""
    rest_seconds: float = 60.0
    """How long a host that has refused us is left alone until the tracker has said how long."""
    robots: bool = False
    """Ask each host for its robots.txt first, and keep off what it disallows."""
    timeout_seconds: float = 20.0
    """For the whole link: DNS, connecting, every redirect, the body."""
    connect_seconds: float = 8.0
    """For DNS and the connection, TLS included, of one hop."""
    first_byte_seconds: float = 10.0
    """From the request until the response's head is complete."""
    min_bytes_per_second: int = 2_000
    """A body that is slower, once 5 seconds have passed, is given up: it holds a slot that a hundred others need."""
    max_bytes: int = 20_000_000
    """Of a body, on the wire and after decompression."""
    max_redirects: int = 5
    allow_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Let in although they are not public, e.g. 127.0.0.0/8 for the demo."""
    allow_ports: tuple[int, ...] = ()
    """Let in beside 80 and 443."""
    verify_tls: bool = True
    opt_out_words: frozenset[str] = WORDS
    """What a response's head says to reserve its picture; empty to honour nothing."""
    nameservers: tuple[str, ...] = ()
    """Resolvers as ADDRESS or ADDRESS:PORT ([ADDRESS]:PORT for IPv6); empty for those of /etc/resolv.conf."""
    dns_seconds: float = 5.0
    """For one name, over all resolvers and tries."""
    memory_bytes: int = 128 << 20
    """For all bodies that are held at once."""
    stop_grace_seconds: float = 8.0
    """After a stop, for what is under way; what is not done then is given back."""

    def __post_init__(self) -> None:
        if not self.user_agent.isascii() or not self.user_agent.isprintable() or not self.user_agent.strip():
            raise PolicyError("The User-Agent must be one line of printable ASCII: name/version (+URL of a contact).")
        for name in ("concurrency", "per_host", "host_failures", "max_bytes"):
            if getattr(self, name) < 1:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: give 1 or more.")
        for name in ("rest_seconds", "timeout_seconds", "connect_seconds", "first_byte_seconds", "dns_seconds"):
            if not getattr(self, name) > 0:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: give more than 0 seconds.")
        for name in ("host_spacing_seconds", "address_spacing_seconds", "max_redirects", "per_address"):
            if not getattr(self, name) >= 0:
                raise PolicyError(f"The setting {name} is {getattr(self, name)}: give 0 or more.")
        self._check_lists()

    def _check_lists(self) -> None:
        if not all(0 < port < 65_536 for port in self.allow_ports):
            raise PolicyError(f"The allowed ports are {self.allow_ports}: give numbers from 1 to 65535.")
        for word in self.opt_out_words:
            if not _WORD.match(word):
                raise PolicyError(f"The opt-out word {word!r} is not a directive: give one such as noai or train-ai=n.")
        for place in self.nameservers:
            read_nameserver(place)

    @property
    def agent_token(self) -> str:
        """Return the product's name in lower case, by which robots rules address us."""
        return self.user_agent.split("/")[0].split()[0].lower()


def read_nameserver(place: str) -> tuple[str, int]:
    """Read ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT.

    Raises: PolicyError when it is none of them.
    """
    if place.startswith("["):
        address, _, port = place[1:].partition("]")
        port = port.removeprefix(":")
    else:
        address, _, port = place.partition(":") if place.count(":") == 1 else (place, "", "")
    try:
        return str(ip_address(address)), int(port or DNS_PORT)
    except ValueError as error:
        raise PolicyError(f"The resolver {place!r} is no address: give 192.0.2.1 or 192.0.2.1:53.") from error
