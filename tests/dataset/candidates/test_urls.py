import unicodedata
from ipaddress import IPv6Address
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dataset.candidates.urls import (
    MAX_URL_CHARACTERS,
    Unresolved,
    WebUrl,
    _as_it_stands,
    _resolved_at_length,
    host_of,
    page_base,
    parse_url,
    resolve,
)

PAGE = "https://www.example.com/shop/list.html?page=2"

# As browsers resolve <img src> on PAGE.
RESOLVED = {
    # absolute
    "https://cdn.example.com/a.jpg": "https://cdn.example.com/a.jpg",
    "http://cdn.example.com/a.jpg?w=300&h=200": "http://cdn.example.com/a.jpg?w=300&h=200",
    "HTTPS://CDN.Example.COM/A.jpg": "https://cdn.example.com/A.jpg",
    "https://cdn.example.com": "https://cdn.example.com/",
    "https://cdn.example.com?a": "https://cdn.example.com/?a",
    "https:\\\\cdn.example.com\\a.jpg": "https://cdn.example.com/a.jpg",
    "https:///cdn.example.com/a.jpg": "https://cdn.example.com/a.jpg",
    "http:cdn.example.com/a.jpg": "http://cdn.example.com/a.jpg",
    "https://cdn.example.com/x/../a/./b.jpg": "https://cdn.example.com/a/b.jpg",
    "https://cdn.example.com/x/%2E%2e/%2e/a.jpg": "https://cdn.example.com/a.jpg",
    "https://cdn.example.com//a//b.jpg": "https://cdn.example.com//a//b.jpg",
    # relative
    "a.jpg": "https://www.example.com/shop/a.jpg",
    "img/a.jpg": "https://www.example.com/shop/img/a.jpg",
    "./a.jpg": "https://www.example.com/shop/a.jpg",
    "../a.jpg": "https://www.example.com/a.jpg",
    "../../../a.jpg": "https://www.example.com/a.jpg",
    "..": "https://www.example.com/",
    "img/..": "https://www.example.com/shop/",
    "img\\a.jpg": "https://www.example.com/shop/img/a.jpg",
    "/a.jpg": "https://www.example.com/a.jpg",
    "/a/../b.jpg": "https://www.example.com/b.jpg",
    "?id=7": "https://www.example.com/shop/list.html?id=7",
    "a.php?u=../b\\c": "https://www.example.com/shop/a.php?u=../b\\c",
    "//cdn.example.com/a.jpg": "https://cdn.example.com/a.jpg",
    "\\\\cdn.example.com\\a.jpg": "https://cdn.example.com/a.jpg",
    "https:a.jpg": "https://www.example.com/shop/a.jpg",
    "https:/a.jpg": "https://www.example.com/a.jpg",
    "www.example.org/a.jpg": "https://www.example.com/shop/www.example.org/a.jpg",
    "1:1.jpg": "https://www.example.com/shop/1:1.jpg",
    # white space, fragments, references
    "\n\t  /img/logo.png\t\t": "https://www.example.com/img/logo.png",
    "/im\ng/lo\tgo.png": "https://www.example.com/img/logo.png",
    "ht\ntps://cdn.example.com/a.jpg": "https://cdn.example.com/a.jpg",
    "/a b.jpg": "https://www.example.com/a%20b.jpg",
    "/a.jpg#top": "https://www.example.com/a.jpg",
    "https://cdn.example.com/a.jpg#x?y": "https://cdn.example.com/a.jpg",
    "/a.jpg?w=300&amp;h=200": "https://www.example.com/a.jpg?w=300&h=200",
    "/a.jpg?a=1&copy=2": "https://www.example.com/a.jpg?a=1&copy=2",
    "&#x2F;a.jpg": "https://www.example.com/a.jpg",
    # what is encoded
    "/größe/красный.jpg": "https://www.example.com/gr%C3%B6%C3%9Fe/%D0%BA%D1%80%D0%B0%D1%81%D0%BD%D1%8B%D0%B9.jpg",
    "/a.jpg?q=ö'\"": "https://www.example.com/a.jpg?q=%C3%B6%27%22",
    "/it's_<b>`{x}^|.jpg": "https://www.example.com/it's_%3Cb%3E%60%7Bx%7D%5E|.jpg",
    "/100%.jpg?50%25": "https://www.example.com/100%.jpg?50%25",
    "/nul\x00.jpg": "https://www.example.com/nul%00.jpg",
    # hosts and ports
    "http://cdn.example.com:80/a.jpg": "http://cdn.example.com/a.jpg",
    "https://cdn.example.com:443/a.jpg": "https://cdn.example.com/a.jpg",
    "http://cdn.example.com:443/a.jpg": "http://cdn.example.com:443/a.jpg",
    "https://cdn.example.com:08080/a.jpg": "https://cdn.example.com:8080/a.jpg",
    "https://cdn.example.com:/a.jpg": "https://cdn.example.com/a.jpg",
    "https://münchen.example/a.jpg": "https://xn--mnchen-3ya.example/a.jpg",
    "https://under_score.example/a.jpg": "https://under_score.example/a.jpg",
    "https://[2001:DB8::1]/a.jpg": "https://[2001:db8::1]/a.jpg",
    "https://[2001:db8::1]:8080/a.jpg": "https://[2001:db8::1]:8080/a.jpg",
    "http://127.0.0.1:8000/a.jpg": "http://127.0.0.1:8000/a.jpg",
    "http://0x7f.1/a.jpg": "http://127.0.0.1/a.jpg",
    "http://2130706433/a.jpg": "http://127.0.0.1/a.jpg",
    "http://127.0.0.1./a.jpg": "http://127.0.0.1/a.jpg",
    "http://93.184.0300.34/a.jpg": "http://93.184.192.34/a.jpg",
    "https://[0:0::FFFF:93.184.216.34]/a.jpg": "https://[::ffff:5db8:d822]/a.jpg",
    "https://%65xample.com/a.jpg": "https://example.com/a.jpg",
    "https://-lead.example.com/a.jpg": "https://-lead.example.com/a.jpg",
    "https://r3---sn-5hne6n7s.example.com/a.jpg": "https://r3---sn-5hne6n7s.example.com/a.jpg",
    "https://@example.com/a.jpg": "https://example.com/a.jpg",
    # percent escapes stay
    "/render?url=https%3A%2F%2Fx.example%2F%7Ejane%2Fa.png&sig=1": (
        "https://www.example.com/render?url=https%3A%2F%2Fx.example%2F%7Ejane%2Fa.png&sig=1"
    ),
    "/%41.jpg": "https://www.example.com/%41.jpg",
    "/a%2Db.jpg": "https://www.example.com/a%2Db.jpg",
    "/%u00e9%zz%.jpg": "https://www.example.com/%u00e9%zz%.jpg",
    "/lone\ud800.jpg": "https://www.example.com/lone%EF%BF%BD.jpg",
}

# As the URL standard (UTS 46, non-transitional, hyphens not checked) and browsers have them.
HOSTS = {
    "EXAMPLE.com": "example.com",
    "example.com.": "example.com",
    "faß.de": "xn--fa-hia.de",
    "straße.example": "xn--strae-oqa.example",
    "βόλος.com": "xn--nxasmm1c.com",
    "ΒΌΛΟΣ.com": "xn--nxasmq6b.com",
    "i❤.ws": "xn--i-7iq.ws",
    "☃.net": "xn--n3h.net",
    "☃。net": "xn--n3h.net",
    "XN--N3H.net": "xn--n3h.net",
    "bücher.example": "xn--bcher-kva.example",
    "bu\u0308cher.example": "xn--bcher-kva.example",
    "BÜCHER.example.": "xn--bcher-kva.example",
    "ｅｘａｍｐｌｅ．ｃｏｍ": "example.com",
    "exam\u00adple.com": "example.com",
    "ex%61mple.com": "example.com",
    "日本語.jp": "xn--wgv71a119e.jp",
    "under_score.example": "under_score.example",
    "-lead.example.com": "-lead.example.com",
    "ab--cd.example": "ab--cd.example",
    "localhost": "localhost",
    "[2001:DB8::1]": "2001:db8::1",
    "[2001:db8:0:0:0:0:0:1]": "2001:db8::1",
    "[2001:0db8::0001]": "2001:db8::1",
    "[::ffff:1.2.3.4]": "::ffff:102:304",
    "1.2.3.4": "1.2.3.4",
    "0x1.2.3.4": "1.2.3.4",
    "16909060": "1.2.3.4",
}

UNRESOLVED = {
    "data:image/png;base64,iVBORw0KGgo=": Unresolved.NOT_HTTP,
    " DATA:image/gif;base64,R0lGOD": Unresolved.NOT_HTTP,
    "file:///etc/passwd": Unresolved.NOT_HTTP,
    "javascript:void(0)": Unresolved.NOT_HTTP,
    "blob:https://www.example.com/1": Unresolved.NOT_HTTP,
    "ftp://example.com/a.jpg": Unresolved.NOT_HTTP,
    "C:\\Users\\me\\a.jpg": Unresolved.NOT_HTTP,
    "": Unresolved.BAD_URL,
    " \n": Unresolved.BAD_URL,
    "#": Unresolved.BAD_URL,
    "https://": Unresolved.BAD_URL,
    "https:// /a.jpg": Unresolved.BAD_URL,
    "https://user:password@example.com/a.jpg": Unresolved.BAD_URL,
    "https://exam ple.com/a.jpg": Unresolved.BAD_URL,
    "https://example..com/a.jpg": Unresolved.BAD_URL,
    "https://%65%2Fxample.com/a.jpg": Unresolved.BAD_URL,
    "https://exam%20ple.com/a.jpg": Unresolved.BAD_URL,
    "https://[fe80::1%25eth0]/a.jpg": Unresolved.BAD_URL,
    "https://1.2.3.4.5/a.jpg": Unresolved.BAD_URL,
    "https://256.1.1.1/a.jpg": Unresolved.BAD_URL,
    "https://example.08/a.jpg": Unresolved.BAD_URL,
    "https://\u200d.com/a.jpg": Unresolved.BAD_URL,
    "https://a_b:c@example.com/": Unresolved.BAD_URL,
    "https://@example.com:0/": Unresolved.BAD_URL,
    "https://[::1/a.jpg": Unresolved.BAD_URL,
    "https://example.com:port/a.jpg": Unresolved.BAD_URL,
    "https://example.com:0/a.jpg": Unresolved.BAD_URL,
    "https://example.com:65536/a.jpg": Unresolved.BAD_URL,
    "https://example.com:9000000080/a.jpg": Unresolved.BAD_URL,
    "https://example.com:８０/a.jpg": Unresolved.BAD_URL,
    "https://" + "a." * 127 + "com/a.jpg": Unresolved.BAD_URL,
    "https://" + "ö" * 64 + ".com/a.jpg": Unresolved.BAD_URL,
    "/" + "a" * MAX_URL_CHARACTERS: Unresolved.URL_TOO_LONG,
    "https://example.com/" + "ö" * 400: Unresolved.URL_TOO_LONG,
}


@pytest.mark.parametrize(("src", "url"), RESOLVED.items())
def test_an_address_is_resolved_as_browsers_do(src: str, url: str) -> None:
    assert resolve(src, PAGE) == url


@pytest.mark.parametrize(("src", "reason"), UNRESOLVED.items())
def test_an_invalid_url_has_its_reason(src: str, reason: Unresolved) -> None:
    assert resolve(src, PAGE) is reason


@pytest.mark.parametrize(("spelling", "host"), HOSTS.items())
def test_a_host_has_one_normal_form_however_a_url_spells_it(spelling: str, host: str) -> None:
    authority = f"[{host}]" if ":" in host else host
    for url in (
        f"https://{spelling}/a.jpg",
        f" HTTP://{spelling}:81/a.jpg",
        f"https:\\\\{spelling}",
        f"https://{authority}/",
        f"https://{authority}:443/a.jpg?b#c",
    ):
        assert host_of(url) == host
    parts = parse_url(f"https://{spelling}:443/a.jpg")
    assert parts == WebUrl("https", host, 443, "/a.jpg")
    assert (parts.authority, parts.url) == (authority, f"https://{authority}/a.jpg")


labels = st.text(
    st.sampled_from("abzAZ019-_ßöÖςΣσ❤☃日ａ²é\u0301\u00adİKſﬁ") | st.characters(codec="utf-8", categories=["L", "N"]),
    min_size=1,
    max_size=8,
)


@settings(max_examples=400)
@given(name=st.lists(labels, min_size=1, max_size=4).map(".".join))
def test_the_normal_form_of_a_host_is_its_own_and_that_of_its_other_spellings(name: str) -> None:
    host = host_of(f"http://{name}/")
    assume(host)
    assume(all(host_of(f"http://x{label}x/") != "xx" for label in name.split(".")))  # a soft hyphen is no character
    assert host_of(f"http://{host}/") == host
    escaped = "".join(f"%{byte:02x}" if byte != 0x2E else "." for byte in name.encode())
    for spelling in (
        f"{name}.",
        name.replace(".", "。"),
        name.replace(".", "．"),
        escaped,
        unicodedata.normalize("NFD", name),
    ):
        assert host_of(f"https://{spelling}:8443/x") == host
    assert resolve("/a.jpg", f"https://{name}/") == f"https://{host}/a.jpg"


@given(address=st.ip_addresses(v=6))
def test_all_spellings_of_an_ipv6_address_are_one_host(address: IPv6Address) -> None:
    spellings = {address.compressed, address.exploded, address.exploded.upper()}
    assert {host_of(f"http://[{spelling}]:80/") for spelling in spellings} == {host_of(f"http://[{address}]/")}
    assert IPv6Address(host_of(f"http://[{address}]/")) == address


@pytest.mark.parametrize("url", [url for url in RESOLVED if url.lower().startswith(("http:", "https:"))])
def test_a_link_list_and_a_redirect_read_a_url_as_a_page_does(url: str) -> None:
    for base in ("", "http://elsewhere.example/x/y"):
        parts, resolved = parse_url(url, base), resolve(url, base)
        assert not isinstance(parts, Unresolved)
        assert parts.url == resolved


def test_a_link_list_may_have_longer_urls_than_a_page() -> None:
    url = "https://example.com/" + "a" * 7_980
    parts = parse_url(url)
    assert not isinstance(parts, Unresolved)
    assert parts.url == url
    assert parse_url(url + "a") is Unresolved.URL_TOO_LONG


@pytest.mark.parametrize(
    ("href", "base"),
    [
        (None, PAGE),
        ("https://other.example.org/x/", "https://other.example.org/x/"),
        ("/img/", "https://www.example.com/img/"),
        ("//cdn.example.com", "https://cdn.example.com/"),
        ("", PAGE),
        ("data:text/html,x", PAGE),
        ("https://exam ple/", PAGE),
    ],
)
def test_a_base_is_resolved_against_the_page_and_ignored_if_invalid(href: str | None, base: str) -> None:
    assert page_base(PAGE, href) == base


@pytest.mark.parametrize(
    ("page", "src", "url"),
    [
        ("http://example.com", "a.jpg", "http://example.com/a.jpg"),
        ("http://example.com?x=/y/", "a.jpg", "http://example.com/a.jpg"),
        ("http://example.com/dir", "a.jpg", "http://example.com/a.jpg"),
        ("http://example.com/dir/", "a.jpg", "http://example.com/dir/a.jpg"),
        ("http://example.com/a/b?u=http://x/y/z", "c.jpg", "http://example.com/a/c.jpg"),
        ("HTTP://Example.com:80/dir/x", "/c.jpg", "http://example.com/c.jpg"),
        ("http://example.com:8080/dir/x", "//cdn.example.com/c.jpg", "http://cdn.example.com/c.jpg"),
    ],
)
def test_a_relative_address_takes_what_it_lacks_from_its_page(page: str, src: str, url: str) -> None:
    assert resolve(src, page) == url


@pytest.mark.parametrize("page", ["", "about:blank", "mailto:me@example.com", "http://"])
def test_a_page_without_an_address_resolves_only_what_needs_none(page: str) -> None:
    assert resolve("/a.jpg", page) is Unresolved.BAD_URL
    assert resolve("//cdn.example.com/a.jpg", page) in (Unresolved.BAD_URL, "http://cdn.example.com/a.jpg")
    assert resolve("https://cdn.example.com/a.jpg", page) == "https://cdn.example.com/a.jpg"


pieces = st.sampled_from(
    [*"/\\.:?#@%&;=[] \t\n\x00aö\ud800", "..", "%2e", "//", "http:", "https://", "example.com", ":80", "amp;", "'"]
)
addresses = st.lists(pieces, max_size=12).map("".join) | st.text(st.characters(exclude_categories=()))


@given(src=addresses, page=st.just(PAGE) | addresses)
def test_a_resolved_url_is_plain_ascii_and_absolute_whatever_the_page_holds(src: str, page: str) -> None:
    url = resolve(src, page)
    if not isinstance(url, Unresolved):
        assert url.startswith(("http://", "https://"))
        assert url.isascii()
        assert url.isprintable()
        assert not set(url) & set(' #<>"')
        assert len(url) <= MAX_URL_CHARACTERS


@given(src=addresses.filter(lambda src: "&" not in src))
def test_resolving_twice_is_resolving_once(src: str) -> None:
    url = resolve(src, PAGE)
    if not isinstance(url, Unresolved):
        assert resolve(url, "http://elsewhere.example/") == url


@pytest.mark.parametrize(
    "base",
    [
        "https://a.example/x/y/z.html?q=/a/b",
        "http://a.example",
        "http://A.example:81/x/y",
        "http://a.example//x//y",
        "x",
    ],
)
def test_the_short_way_gives_what_the_long_way_gives(base: str) -> None:
    steps = ["..", ".", "", "a", "b.jpg", "?q", "..a", "#f"]
    for src in ("/".join(taken) for n in range(1, 5) for taken in product(steps, repeat=n)):
        short = _as_it_stands(src, base)
        assert short is None or short == _resolved_at_length(src, base)
