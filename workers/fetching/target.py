"""Request targets: the URL of a link or a redirect, parsed by the URL standard.

Invariant: a `Target` has a normalized host, a port, and a path that fits into a request line unchanged. Any other URL
is a bad URL.
"""

from dataset.candidates.urls import MAX_REQUEST_CHARACTERS, Unresolved, WebUrl, parse_url
from dataset.pictures.outcomes import Outcome
from workers.fetching.failure import LinkFailed

Target = WebUrl

_REASONS = {
    Unresolved.NOT_HTTP: "neither http nor https",
    Unresolved.BAD_URL: "not a URL, or without a valid host and port, or with credentials",
    Unresolved.URL_TOO_LONG: f"longer than {MAX_REQUEST_CHARACTERS:,} characters",
}


def parse_target(url: str) -> Target:
    """Parse a URL.

    Raises: LinkFailed (bad_url) when it cannot be requested.
    """
    target = parse_url(url)
    if isinstance(target, Unresolved):
        raise LinkFailed(Outcome.BAD_URL, _REASONS[target])
    return target


def redirect_target(target: Target, location: bytes | None) -> Target:
    """Resolve a Location header against the URL whose response has it.

    Raises: LinkFailed (bad_redirect) when it is missing, or is not a URL that can be requested.
    """
    if not location:
        raise LinkFailed(Outcome.BAD_REDIRECT, "no Location")
    try:
        text = location.decode("utf-8")
    except UnicodeDecodeError:
        text = location.decode("latin-1")
    found = parse_url(text, target.url)
    if isinstance(found, Unresolved):
        raise LinkFailed(Outcome.BAD_REDIRECT, f"the Location is {_REASONS[found]}")
    return found
