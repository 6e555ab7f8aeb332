"""Registrable domains: names directly below a public suffix (example.co.uk).

Source: the public suffix list, its private section included, and the algorithm at publicsuffix.org/list. The package
`publicsuffixlist` ships the list each month, so nothing is downloaded. Its own look-up takes 3 µs a host; a release of
6 billion rows has tens of millions of hosts in each of thousands of files, and these few lines take a sixth of that.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from dataset.errors import DatasetError


class SuffixError(DatasetError):
    """The list is not installed."""


@dataclass(frozen=True, slots=True)
class SuffixRules:
    """The list's rules, without their marks: `co.uk`, `ck` of `*.ck`, `www.ck` of `!www.ck`."""

    plain: frozenset[str]
    wildcards: frozenset[str]
    exceptions: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "SuffixRules":
        """Read the list's file; international names count in both spellings."""
        plain, wildcards, exceptions = set[str](), set[str](), set[str]()
        for line in text.splitlines():
            rule = line.split(maxsplit=1)[0] if line.strip() else ""
            if not rule or rule.startswith("//"):
                continue
            kind = exceptions if rule.startswith("!") else wildcards if rule.startswith("*.") else plain
            name = rule.removeprefix("!").removeprefix("*.")
            kind.update({name, name.encode("idna").decode()})
        return cls(frozenset(plain), frozenset(wildcards), frozenset(exceptions))

    def domain(self, host: str) -> str:
        """Return the registrable domain of a host in lower case; the host itself if it has none."""
        if host.startswith("[") or host.rpartition(".")[2].isdigit():
            return host  # an address
        below, rest = "", host
        while rest:
            parent = rest.partition(".")[2]
            if rest in self.exceptions:
                return rest
            if rest in self.plain or (parent and parent in self.wildcards):
                return below or host
            if not parent:
                return below or host  # the rule for all others: the last label is a suffix
            below, rest = rest, parent
        return host


@lru_cache(1)
def suffix_rules() -> SuffixRules:
    """Return the rules that the installed package ships.

    Raises: SuffixError when it is not installed.
    """
    try:
        shipped = files("publicsuffixlist") / "public_suffix_list.dat"
    except ModuleNotFoundError as error:
        raise SuffixError(f"{error.name} is not installed: install Shoal with its extra [release].") from error
    return SuffixRules.parse(shipped.read_text(encoding="utf-8"))
