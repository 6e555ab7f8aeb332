"""Every policy object is valid."""

import pytest

from workers.fetching.policy import FetchPolicy, PolicyError, read_nameserver


@pytest.mark.parametrize(
    "settings",
    [
        {"user_agent": ""},
        {"user_agent": "a\r\nX-Injected: b"},
        {"user_agent": "schön/1.0"},
        {"concurrency": 0},
        {"per_host": 0},
        {"timeout_seconds": 0.0},
        {"timeout_seconds": float("nan")},
        {"max_redirects": -1},
        {"per_address": -1},
        {"rest_seconds": 0.0},
        {"allow_ports": (70_000,)},
        {"opt_out_words": frozenset({"no ai"})},
        {"opt_out_words": frozenset({"noai,noindex"})},
        {"nameservers": ("dns.example",)},
        {"nameservers": ("127.0.0.1:x",)},
    ],
)
def test_an_invalid_setting_is_refused_in_one_sentence(settings: dict[str, object]) -> None:
    with pytest.raises(PolicyError, match=r"^[^\n]+\.$"):
        FetchPolicy(**settings)  # type: ignore[arg-type]


def test_robots_rules_address_us_by_the_products_name() -> None:
    assert FetchPolicy(user_agent="Shoal/0.1 (+https://shoal.example)").agent_token == "shoal"


@pytest.mark.parametrize(
    ("place", "read"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_resolver_is_an_address_with_an_optional_port(place: str, read: tuple[str, int]) -> None:
    assert read_nameserver(place) == read
