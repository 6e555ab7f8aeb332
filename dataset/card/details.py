"""The publisher's details about a release, from a TOML file: `dataset publish --card FILE`."""

import tomllib
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from dataset.errors import DatasetError
from dataset.formats.releases import CardDetails

KEYS = tuple(field.name for field in fields(CardDetails))
MAX_CHARACTERS = 10_000


class CardError(DatasetError):
    """The card's file cannot be read, or a value of it cannot be used."""


def read_details(path: Path) -> CardDetails:
    """Read a card's file; a missing key has its default.

    Raises: CardError when it is missing, not TOML, or has an unknown key or a value that is not a text.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CardError(f"The card {path} cannot be read ({error.strerror}): name another file.") from error
    except ValueError as error:
        raise CardError(f"The card {path} is not TOML ({error}): write lines like title = 'Our pairs'.") from error
    for key, value in given.items():
        if key not in KEYS:
            raise CardError(f"The card {path} has an unknown key {key!r}: use {', '.join(KEYS)}.")
        if not isinstance(value, str) or len(value) > MAX_CHARACTERS:
            raise CardError(f"The card's {key} is not a text of at most {MAX_CHARACTERS:,} characters: correct it.")
    details = CardDetails(**{key: value.strip() for key, value in given.items()})
    for key in ("url", "license_url"):
        url = getattr(details, key)
        if url and (urlsplit(url).scheme not in ("http", "https") or not url.isprintable() or " " in url):
            raise CardError(f"The card's {key} is {url!r}: give an address that begins with https://.")
    if not details.license:
        raise CardError("The card's license is empty: leave it out for cc-by-4.0, or name the license.")
    return details
