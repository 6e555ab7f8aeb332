"""Filters of a search: conditions that rows must meet, written as `safe,lang=de|fr,min-side=512,!aspect=tall`.

Conditions are separated by commas and must all hold. A condition is a facet of the index, several with `|`, or one with
`!` that must not hold; and `host=example.com` or `!host=example.com`, several with `|`. A host stands for all hosts
below it, too.
"""

from collections.abc import Collection
from dataclasses import dataclass

from dataset.formats.index_files import SearchIndexError

_HOST = "host="


@dataclass(frozen=True, slots=True)
class Condition:
    """A row meets it if it has one of the facets, or with `negated` none of them."""

    facets: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold; without any, every row that was not removed passes."""

    conditions: tuple[Condition, ...] = ()
    hosts: tuple[str, ...] = ()
    """Domains, each with all hosts below it; () means any."""
    hosts_out: tuple[str, ...] = ()
    """Domains whose rows do not pass."""
    share: float = 1.0
    """Below 1: only this share of the rows, chosen by id; recall is measured so."""


ANY = Filter()


def parse_filter(text: str) -> Filter:
    """Read a filter as a user writes it; '' admits every row.

    Raises: SearchIndexError for text that is not a filter. `check_filter` compares it with an index.
    """
    conditions: list[Condition] = []
    hosts: dict[bool, tuple[str, ...]] = {}
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        negated = part.startswith("!")
        part = part.removeprefix("!").strip()
        name, equals, values = part.partition("=")
        if not name or (equals and not all(value.strip() for value in values.split("|"))):
            raise SearchIndexError(f"{part!r} is not a condition of a filter: write them as safe,lang=de,min-side=512.")
        if name == "host" and equals:
            if negated in hosts:
                raise SearchIndexError("A filter can name hosts only once: write host=a.com|b.org.")
            hosts[negated] = tuple(value.strip().lower() for value in values.split("|"))
        elif equals:
            conditions.append(Condition(tuple(f"{name}={value.strip()}" for value in values.split("|")), negated))
        else:
            conditions.append(Condition(tuple(one.strip() for one in part.split("|")), negated))
    return Filter(tuple(conditions), hosts.get(False, ()), hosts.get(True, ()))


def check_filter(where: Filter, known: Collection[str]) -> None:
    """Raise SearchIndexError for a facet that no row of the index can have; a value that no row has is no error."""
    kinds = {facet.partition("=")[0] for facet in known}
    fixed = ("min-side", "aesthetic", "aspect")
    for condition in where.conditions:
        for facet in condition.facets:
            name, equals, _ = facet.partition("=")
            values = [one.partition("=")[2] for one in known if one.startswith(f"{name}=")]
            if name not in kinds or bool(equals) != bool(values) or (name in fixed and facet not in known):
                near = f"{name} has {', '.join(sorted(values))}" if values else f"it has {', '.join(sorted(kinds))}"
                raise SearchIndexError(f"The index has no facet {facet}: {near}, and host.")
