"""A control without labels: pairs whose captions share no word and whose hosts differ.

Of two copies of one picture, captions often share words or a host; of two random rows they seldom do. So the share of
such pairs, compared with the share among rows that were shuffled, estimates how many pairs are as unrelated as random
ones. It says nothing about different pictures of one subject, whose captions share words, too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dataset.dedup.explain import read_by_id
from dataset.label.pairs import EDGES, Draw
from dataset.publish.hosts import hosts_of
from dataset.side_tables.rows import ReleaseRows
from dataset.tags.wilson import wilson

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Control:
    """Sampled pairs of a bin of the cosine, weighted by the strata's pairs."""

    at: float
    """The bin's lower edge."""
    pairs: int
    sampled: int
    unlike: int
    """Of the sample: no common word, and different hosts."""
    share: float
    """Of unlike pairs in the bin."""
    shuffled: float
    """The share of unlike pairs if each member is compared with the representative of another pair."""
    unrelated_at_most: float
    """Upper bound of 95 % of the share of pairs that are as unlike as random ones."""


def compare_captions(rows: ReleaseRows, drawn: Draw, order: Sequence[str]) -> Iterator[Control]:
    """Yield the control of each bin of the cosine that has pairs; `order` is the order of quality of the search."""
    ids = sorted({one for pair in drawn.pairs for one in (pair.member, pair.representative)})
    described = read_by_id(rows, ids, order) if ids else {}
    words = {one: frozenset(_WORD.findall((described[one]["TEXT"] or "").casefold())) for one in ids}
    hosts = dict(zip(ids, _hosts([described[one]["URL"] for one in ids]), strict=True))

    def unlike(a: int, b: int) -> bool:
        return not words[a] & words[b] and hosts[a] != hosts[b]

    others = np.roll([pair.representative for pair in drawn.pairs], 1).tolist()
    random = [unlike(pair.member, other) for pair, other in zip(drawn.pairs, others, strict=True)]
    shuffled = sum(random) / max(1, len(random))
    for place in sorted({stratum[0] for stratum in drawn.counts}):
        strata = {one: count for one, count in drawn.counts.items() if one[0] == place}
        share, effective, sampled, hits = 0.0, 0.0, 0, 0
        whole = sum(strata.values())
        for stratum, count in strata.items():
            found = [unlike(pair.member, pair.representative) for pair in drawn.pairs if pair.stratum == stratum]
            if found:
                share += count / whole * sum(found) / len(found)
                effective += (count / whole) ** 2 / len(found)
                sampled, hits = sampled + len(found), hits + sum(found)
        tries = int(1 / effective + 1e-9) if effective else 0
        high = wilson(round(share * tries), tries)[1]
        most = min(1.0, high / shuffled) if shuffled else 1.0
        yield Control(EDGES[place], whole, sampled, hits, round(share, 4), round(shuffled, 4), round(most, 4))


def _hosts(urls: list[str]) -> list[str]:
    if not urls:
        return []
    hosts = hosts_of(pa.chunked_array([pa.array(urls, pa.string())]))
    return [hosts.names[number] for number in hosts.numbers.tolist()]
