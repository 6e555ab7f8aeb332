"""Licenses that the Hugging Face Hub knows by an identifier, with their names and texts."""

from dataclasses import dataclass

from dataset.formats.releases import CardDetails

KNOWN = {
    "apache-2.0": ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "cc-by-4.0": ("Creative Commons Attribution 4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "cc-by-nc-4.0": (
        "Creative Commons Attribution-NonCommercial 4.0",
        "https://creativecommons.org/licenses/by-nc/4.0/",
    ),
    "cc-by-sa-4.0": ("Creative Commons Attribution-ShareAlike 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    "cc0-1.0": ("Creative Commons Zero 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "mit": ("MIT License", "https://opensource.org/license/mit"),
    "odc-by": ("Open Data Commons Attribution 1.0", "https://opendatacommons.org/licenses/by/1-0/"),
}


@dataclass(frozen=True, slots=True)
class License:
    """A license; `identifier` is the Hub's, or None if the Hub does not know the license."""

    identifier: str | None
    name: str
    url: str


def license_of(card: CardDetails) -> License:
    """Return the license that a card names."""
    known = KNOWN.get(card.license.lower())
    if known is None:
        return License(None, card.license, card.license_url)
    return License(card.license.lower(), known[0], card.license_url or known[1])
