"""robots.txt is fetched first, once, and respected; if that fails, nothing is fetched."""

from collections import Counter
from dataclasses import replace
from ipaddress import ip_network

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from dataset.pictures.outcomes import Outcome
from tests.workers.fetching.odd_web import Handler, OddWeb, answer, odd_web, picture, response, run
from workers.fetching.failure import LinkFailed
from workers.fetching.fetch import Failure, Fetched, Fetcher
from workers.fetching.policy import PROFILES, FetchPolicy, Profile
from workers.fetching.robots import MAX_ORIGINS, CachedRules, RobotsCache, is_allowed, parse_robots
from workers.fetching.target import Target

PICTURE = picture()
OK = answer(response(PICTURE))


def policy(web: OddWeb, **changes: object) -> FetchPolicy:
    polite = FetchPolicy(
        user_agent="shoal-test/1.0 (+https://shoal.example/bot)",
        robots=True,
        timeout_seconds=5.0,
        allow_networks=(ip_network("127.0.0.0/8"),),
        allow_ports=(web.port,),
    )
    return replace(polite, **changes)  # type: ignore[arg-type]


async def fetch(fetcher: Fetcher, url: str) -> Fetched | Failure:
    with fetcher.share() as share:
        return await fetcher.fetch(url, share)


def outcomes(rules_file: Handler, paths: list[str], **changes: object) -> tuple[list[str], list[str]]:
    """Fetch paths from a host with this robots.txt; return their outcomes and the requested paths."""

    async def test() -> tuple[list[str], list[str]]:
        async with odd_web({"/robots.txt": rules_file, "*": OK}) as web, Fetcher(policy(web, **changes)) as fetcher:
            ends = [await fetch(fetcher, web.url(path)) for path in paths]
            asked = [head.split(b" ")[1].decode() for head in web.requests]
        return [str(end.outcome) if isinstance(end, Failure) else "success" for end in ends], asked

    return run(test)


def test_a_disallowed_link_is_not_fetched_and_ends_as_opted_out() -> None:
    rules = b"User-agent: *\nDisallow: /\n\nUser-agent: Shoal-Test\nDisallow: /private/\nAllow: /private/*.jpg$\n"
    ends, asked = outcomes(answer(response(rules)), ["/a.png", "/private/b.png", "/private/b.jpg", "/private/b.jpg?x"])
    assert ends == ["success", "opted_out", "success", "opted_out"]
    assert asked == ["/robots.txt", "/a.png", "/private/b.jpg"]


def test_without_the_option_no_robots_txt_is_fetched() -> None:
    ends, asked = outcomes(answer(response(b"User-agent: *\nDisallow: /")), ["/a"], robots=False)
    assert (ends, asked) == (["success"], ["/a"])


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone", "401 Unauthorized", "403 Forbidden", "400 Bad"])
def test_a_missing_robots_txt_allows_everything(status: str) -> None:
    ends, asked = outcomes(answer(response(b"User-agent: *\nDisallow: /", status=status)), ["/a", "/b"])
    assert ends == ["success", "success"]
    assert asked == ["/robots.txt", "/a", "/b"]


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (response(b"", status="500 Broken"), "server_error"),
        (response(b"", status="503 Busy"), "server_error"),
        (response(b"", status="429 Too Many Requests"), "rate_limited"),
        (b"nonsense\r\n\r\n", "bad_response"),
        (response(b"User-agent: *", length=100), "truncated"),
    ],
)
def test_a_failed_robots_txt_fails_the_link_before_any_request(raw: bytes, outcome: str) -> None:
    ends, asked = outcomes(answer(raw, close=True), ["/a", "/b"])
    assert ends == [outcome, outcome]
    assert set(asked) == {"/robots.txt"}


def test_a_silent_robots_txt_does_not_use_up_the_links_time() -> None:
    async def never(stream: trio.abc.Stream, head: bytes) -> None:
        await trio.sleep_forever()

    ends, asked = outcomes(never, ["/a"], first_byte_seconds=0.1)
    assert (ends, asked) == (["timeout"], ["/robots.txt"])

    async def slow(stream: trio.abc.Stream, head: bytes) -> None:
        await trio.sleep(0.4)
        await stream.send_all(response(b""))

    async def test() -> Fetched | Failure:
        late = answer(response(PICTURE))

        async def also_slow(stream: trio.abc.Stream, head: bytes) -> None:
            await trio.sleep(0.4)
            await late(stream, head)

        async with (
            odd_web({"/robots.txt": slow, "*": also_slow}) as web,
            Fetcher(policy(web, timeout_seconds=0.7)) as fetcher,
        ):
            return await fetch(fetcher, web.url("/a"))

    assert isinstance(run(test), Fetched)


@pytest.mark.parametrize(("hops", "outcome"), [(5, "opted_out"), (6, "success")])
def test_after_five_redirects_robots_txt_counts_as_missing(hops: int, outcome: str) -> None:
    async def test() -> str:
        handlers: dict[str, Handler] = {
            f"/r{n}": answer(response(b"", f"Location: /r{n + 1}", status="302 Found")) for n in range(1, hops)
        }
        handlers["/robots.txt"] = answer(response(b"", "Location: /r1", status="301 Moved"))
        handlers[f"/r{hops}"] = answer(response(b"User-agent: *\nDisallow: /"))
        async with odd_web({**handlers, "*": OK}) as web, Fetcher(policy(web)) as fetcher:
            end = await fetch(fetcher, web.url("/a"))
        return str(end.outcome) if isinstance(end, Failure) else "success"

    assert run(test) == outcome


def test_many_links_of_a_host_wait_for_one_robots_txt() -> None:
    async def test() -> Counter[bytes]:
        memory = RobotsCache()
        async with odd_web({"/robots.txt": answer(response(b"")), "*": OK}) as web:
            for _ in range(2):  # a second batch asks no more
                async with Fetcher(policy(web), robots=memory) as fetcher, trio.open_nursery() as nursery:
                    for n in range(20):
                        nursery.start_soon(fetch, fetcher, web.url(f"/{n}"))
            return Counter(head.split(b" ")[1] for head in web.requests)

    assert run(test)[b"/robots.txt"] == 1


def test_the_target_of_a_redirect_is_checked_against_its_own_robots_txt() -> None:
    async def test() -> tuple[Fetched | Failure, list[bytes]]:
        closed = response(b"User-agent: *\nDisallow: /kept")
        async with odd_web({"/robots.txt": answer(closed), "*": OK}) as other:
            moved = answer(response(b"", f"Location: {other.url('/kept/1.jpg')}", status="302 Found"))
            async with (
                odd_web({"/robots.txt": answer(response(b"")), "*": moved}) as web,
                Fetcher(policy(web, allow_ports=(web.port, other.port))) as fetcher,
            ):
                return await fetch(fetcher, web.url("/a")), other.requests

    end, requests = run(test)
    assert isinstance(end, Failure)
    assert (end.outcome, end.reason) == (Outcome.OPTED_OUT, "robots.txt")
    assert [head.split(b" ")[1] for head in requests] == [b"/robots.txt"]


def test_a_robots_txt_is_not_followed_to_a_blocked_or_private_host() -> None:
    def admit(target: Target) -> None:
        if target.host == "blocked.test":
            raise LinkFailed(Outcome.BLOCKED, "its host or URL is blocked")

    async def test() -> list[Outcome]:
        ends = []
        for place in ("http://blocked.test/r", "http://10.0.0.1/r"):
            moved = answer(response(b"", f"Location: {place}", status="302 Found"))
            async with odd_web({"/robots.txt": moved, "*": OK}) as web, Fetcher(policy(web), admit) as fetcher:
                end = await fetch(fetcher, web.url("/a"))
                assert isinstance(end, Failure)
                ends.append(end.outcome)
        return ends

    assert run(test) == [Outcome.BLOCKED, Outcome.REFUSED_ADDRESS]


@pytest.mark.parametrize(
    "line", ["shoal/0.1", "Shoal/*", "shoal / 0.1", "shoal 0.1", "SHOAL/0.1 (+https://a.test)  # a comment", "shoal"]
)
def test_a_group_with_a_version_after_our_name_applies_to_us(line: str) -> None:
    rules = parse_robots(f"User-agent: *\nAllow: /\n\nuser-agent : {line}\r\nDisallow: /\n".encode())
    assert not is_allowed(rules, "https://a.test/a.jpg", "shoal")
    assert is_allowed(rules, "https://a.test/a.jpg", "otherbot")


@pytest.mark.parametrize(
    "line", ["sho", "shoa/1.0", "s", "shoal-images", "shoal2", "oal", "*sho", "my-shoal", "shoal.test"]
)
@pytest.mark.parametrize("separator", [": ", " ", ":", " :\t"])
def test_a_group_for_a_name_that_only_begins_or_ends_as_ours_is_not_for_us(line: str, separator: str) -> None:
    rules = parse_robots(f"User-agent{separator}{line}\nAllow: /\n\nUser-agent: *\nDisallow: /\n".encode())
    assert not is_allowed(rules, "https://a.test/a.jpg", "shoal")
    rules = parse_robots(f"User-agent{separator}{line}\nDisallow: /\n\nUser-agent: *\nAllow: /\n".encode())
    assert is_allowed(rules, "https://a.test/a.jpg", "shoal")


@pytest.mark.parametrize(
    "line", ["USERAGENT: Shoal", "user agent shoal", "User-Agent\t: \tSHOAL*", "User-agent:shoal\t#x"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_group_for_us_wins_over_that_for_everyone_however_its_line_is_written(line: str, end: str) -> None:
    lines = ["User-agent: * # all", "Allow: /", "", "User-agent: other", line, "Disallow: /a"]
    rules = parse_robots(end.join(lines).encode())
    assert not is_allowed(rules, "https://a.test/a.jpg", "shoal")
    assert not is_allowed(rules, "https://a.test/a.jpg", "other")
    assert is_allowed(rules, "https://a.test/a.jpg", "third")


def test_only_the_first_500_kib_are_read() -> None:
    padding = b"# " + b"x" * (500 << 10) + b"\n"
    assert outcomes(answer(response(padding + b"User-agent: *\nDisallow: /")), ["/a"])[0] == ["success"]
    assert outcomes(answer(response(b"User-agent: *\nDisallow: /\n" + padding)), ["/a"])[0] == ["opted_out"]


def test_rules_expire_after_a_day_and_failures_after_minutes() -> None:
    async def test() -> list[int]:
        seen = []
        memory = RobotsCache()
        for status in ("200 OK", "503 Busy"):
            async with odd_web({"/robots.txt": answer(response(b"", status=status)), "*": OK}) as web:
                for wait in (0, 500, 200, 86_000):
                    await trio.sleep(wait)
                    async with Fetcher(policy(web), robots=memory) as fetcher:
                        await fetch(fetcher, web.url("/a"))
                    seen.append(sum(b"/robots.txt" in head for head in web.requests))
        return seen

    assert trio.run(test, clock=MockClock(rate=1e-9, autojump_threshold=0.2)) == [1, 1, 1, 2, 1, 1, 2, 3]


def test_the_cache_is_bounded_in_number_and_bytes() -> None:
    memory = RobotsCache()
    for n in range(MAX_ORIGINS + 10):
        memory.put(f"http://h{n}.test", CachedRules(1.0))
    assert len(memory.known) == MAX_ORIGINS
    assert memory.get("http://h0.test", 0.0) is None
    for n in range(100):
        memory.put(f"http://big{n}.test", CachedRules(1.0, 500 << 10))
        memory.put(f"http://big{n}.test", CachedRules(1.0, 499 << 10))
    assert memory.size == sum(rules.size for rules in memory.known.values()) <= 32 << 20
    assert memory.get("http://big99.test", 0.5) is not None
    assert memory.get("http://big99.test", 1.0) is None


@given(st.binary(max_size=300), st.text(max_size=30))
def test_any_bytes_are_a_robots_txt(body: bytes, path: str) -> None:
    is_allowed(parse_robots(body), f"https://a.test/{path}", "shoal")


FIELDS = ["User-agent", "Disallow", "Allow", "Crawl-delay", "Sitemap", "Host", "Request-rate", "Visit-time", ":", "a:"]
VALUES = st.text(alphabet="*$/a%: 0\x00é-#", max_size=12)


@given(st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=12))
def test_any_rules_are_a_robots_txt(lines: list[tuple[str, str]]) -> None:
    body = "\r\n".join(f"{name}: {value}" for name, value in lines).encode()
    is_allowed(parse_robots(body), "https://a.test/a%2fb?c=*", "shoal")


def test_the_polite_profile_sends_one_request_at_a_time_and_respects_robots_txt() -> None:
    polite, fast = (FetchPolicy(**PROFILES[profile]) for profile in (Profile.POLITE, Profile.FAST))  # type: ignore[arg-type]
    assert (polite.per_host, polite.host_spacing_seconds, polite.robots) == (1, 2.0, True)
    assert fast == FetchPolicy()
