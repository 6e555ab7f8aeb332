"""Registrable domains, compared with the package that ships the list."""

from importlib.resources import files

import publicsuffixlist
import pytest

from dataset.stats.suffixes import suffix_rules


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.example.com", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("alice.github.io", "alice.github.io"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("a.b.unknown-suffix", "b.unknown-suffix"),
        ("x.www.ck", "www.ck"),
        ("a.b.other.ck", "b.other.ck"),
        ("a.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "[2001:db8::1]"),
    ],
)
def test_the_registrable_domain_is_what_stands_below_the_longest_suffix(host: str, domain: str) -> None:
    assert suffix_rules().domain(host) == domain


def test_every_rule_of_the_list_gives_what_the_package_itself_gives() -> None:
    theirs, ours = publicsuffixlist.PublicSuffixList(), suffix_rules()
    text = (files("publicsuffixlist") / "public_suffix_list.dat").read_text(encoding="utf-8")
    rules = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("//")]
    for rule in rules:
        name = rule.removeprefix("!").replace("*", "wild")
        for host in (name, f"a.{name}", f"b.a.{name}"):
            assert ours.domain(host) == (theirs.privatesuffix(host) or host)
