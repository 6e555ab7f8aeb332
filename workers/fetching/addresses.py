"""The addresses that a download worker may connect to: public ones, on web ports.

Invariant: at every hop, connections go only to addresses that passed `AddressRule.check`. A name with one refused
address is refused as a whole, because attackers mix public and private addresses.

Source: IANA's special-purpose address registries for IPv4 and IPv6. Rejected: `ipaddress.is_global`, which depends on
the Python version; 3.11 counts NAT64, 6to4 and multicast as global.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

Address = IPv4Address | IPv6Address

WEB_PORTS = frozenset({80, 443})

_REFUSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; clouds serve credentials there
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
        ),
    )
)

_GLOBAL_V6 = IPv6Network("2000::/3")
"""Global unicast. The rest is refused: ::1, mapped (::ffff:0:0/96) and NAT64 (64:ff9b::/96) IPv4, fc00::/7, …"""

_REFUSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarking
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: carries any IPv4 address inside
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)

_NUMERIC_LABEL = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)\Z")


def parse_address(host: str) -> Address | None:
    """Parse a host as an address; return None if it is a name.

    Raises: LinkFailed (refused_address) for spellings that only inet_aton accepts: decimal, octal, hexadecimal, or
    fewer than four numbers. By the URL standard a name cannot end in a number.
    """
    try:
        return ip_address(host)
    except ValueError as error:
        if _NUMERIC_LABEL.match(host.rpartition(".")[2]):
            raise LinkFailed(Outcome.REFUSED_ADDRESS, "an odd spelling of an address") from error
        return None


class AddressRule:
    """The rule for addresses and ports."""

    def __init__(
        self, allow_networks: Iterable[IPv4Network | IPv6Network] = (), allow_ports: Iterable[int] = ()
    ) -> None:
        self._allowed = tuple(allow_networks)
        self._ports = WEB_PORTS | frozenset(allow_ports)

    def check(self, addresses: Iterable[Address], port: int) -> None:
        """Check a port and all addresses of a name.

        Raises: LinkFailed (refused_address) when the port or one of the addresses is not allowed.
        """
        if port not in self._ports:
            raise LinkFailed(Outcome.REFUSED_ADDRESS, "not a web port")
        for address in addresses:
            if not (self._is_allowed(address) or is_public(address)):
                raise LinkFailed(Outcome.REFUSED_ADDRESS, "not a public address")

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed if network.version == address.version)


def is_public(address: Address) -> bool:
    """Return whether an address is public; an address with a zone is not."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if address.scope_id is not None or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)
