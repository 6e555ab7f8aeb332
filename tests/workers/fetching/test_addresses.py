"""Only public addresses on web ports are allowed, in any spelling and behind any name."""

from ipaddress import ip_address, ip_network

import pytest

from dataset.pictures.outcomes import Outcome
from workers.fetching.addresses import AddressRule, is_public, parse_address
from workers.fetching.failure import LinkFailed


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:8.8.8.8",
        "::ffff:127.0.0.1",
        "::8.8.8.8",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "2a00::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_a_private_address_or_another_port_is_refused(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1"]
)
def test_a_public_address_is_allowed(address: str) -> None:
    AddressRule().check([ip_address(address)], 443)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.1", "127.0.1", "1.2.3.4.5", "a.0x1", "8.8.8.08"],
)
def test_a_spelling_that_only_inet_aton_accepts_is_refused(host: str) -> None:
    with pytest.raises(LinkFailed) as failed:
        parse_address(host)
    assert failed.value.outcome is Outcome.REFUSED_ADDRESS


@pytest.mark.parametrize("host", ["example.com", "1.example", "0x7f.example", "a-1", "xn--bcher-kva.example"])
def test_a_name_is_not_an_address(host: str) -> None:
    assert parse_address(host) is None


def test_a_name_with_one_private_address_is_refused() -> None:
    with pytest.raises(LinkFailed):
        AddressRule().check([ip_address("8.8.8.8"), ip_address("10.0.0.1")], 80)


def test_only_the_allowed_network_and_port_are_added() -> None:
    rule = AddressRule([ip_network("127.0.0.0/8")], [8_080])
    rule.check([ip_address("127.1.2.3")], 8_080)
    rule.check([ip_address("8.8.8.8")], 80)
    for address, port in (("127.0.0.1", 22), ("169.254.169.254", 80), ("::ffff:127.0.0.1", 80), ("::1", 80)):
        with pytest.raises(LinkFailed):
            rule.check([ip_address(address)], port)
