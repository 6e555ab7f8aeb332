"""Compare the swarm's results with what was planted in the mini crawl.

Only what the manifest lists is read. Each check is one sentence that is true or false; if all are true, the demo has
worked.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from dataset.store.store import Store
from tests.demo.marks import truth_in
from tests.demo.planting import Link
from tests.demo.plants import Pair

ENOUGH = 0.95  # of matched pairs kept, of mismatched ones dropped, of captions that got their language
KEPT = "matched pairs without a watermark are kept"  # a watermark hides a part of what the caption says
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Check:
    """What was asked, whether it is so, and the numbers."""

    question: str
    holds: bool
    said: str


@dataclass(slots=True)
class Results:
    """What the outputs say of each URL; `languages` are what extract called the captions."""

    outcomes: dict[str, list[str]] = field(default_factory=dict)  # final ones only
    languages: dict[str, str | None] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)
    keys: Counter[str] = field(default_factory=Counter)  # of scored samples
    samples: int = 0


def read_results(store: Store, manifest: pa.Table) -> Results:
    """Read the tables of all shards and parts that the manifest lists."""
    results = Results()
    for output in manifest.select(["kind", "path"]).to_pylist():
        if output["kind"] == "shard":
            columns = ["url", "outcome", "final", "language"]
            for row in store.read_table(f"{output['path']}.parquet", columns).to_pylist():
                if row["final"]:
                    results.outcomes.setdefault(row["url"], []).append(row["outcome"])
                    results.languages[row["url"]] = row["language"]
                    results.samples += row["outcome"] == "success"
        if output["kind"] == "part":
            results.kept.update(store.read_table(f"{output['path']}.parquet", ["URL"])["URL"].to_pylist())
            results.keys.update(store.read_table(f"{output['path']}.scores.parquet", ["key"])["key"].to_pylist())
    return results


def check_results(links: Sequence[Link], results: Results) -> list[Check]:
    """Ask everything that the outputs can answer."""
    return [
        *check_links(links, results),
        _scored_once(results),
        _pairs(KEPT, Pair.MATCHED, [link for link in links if not _is_marked(link)], results),
        _pairs("mismatched pairs are dropped", Pair.MISMATCHED, links, results),
    ]


def check_links(links: Sequence[Link], results: Results) -> list[Check]:
    """Ask everything that the outputs of download can answer."""
    planted = {link.url: link for link in links}
    return [
        _all_finished(links, results),
        _nothing_else(planted, results),
        _outcomes(planted, results),
        _languages(planted, results),
    ]


def _all_finished(links: Sequence[Link], results: Results) -> Check:
    candidates = [link.url for link in links if link.outcome is not None]
    wrong = [url for url in candidates if len(results.outcomes.get(url, ())) != 1]
    said = f"{len(candidates) - len(wrong):,} of {len(candidates):,} links{_examples(wrong)}"
    return Check("every link is finished exactly once, duplicates too", not wrong, said)


def _nothing_else(planted: Mapping[str, Link], results: Results) -> Check:
    wrong = [url for url in results.outcomes if url not in planted or planted[url].outcome is None]
    return Check("nothing else became a candidate", not wrong, f"{len(wrong):,} others{_examples(wrong)}")


def _outcomes(planted: Mapping[str, Link], results: Results) -> Check:
    known = [(planted[url], outcomes[0]) for url, outcomes in results.outcomes.items() if url in planted]
    wrong = [f"{link.plant} ended as {outcome}" for link, outcome in known if outcome != link.outcome]
    plants = len({link.plant for link, _ in known})
    said = f"{len(known) - len(wrong):,} of {len(known):,} links of {plants} plants{_examples(sorted(set(wrong)))}"
    return Check("every outcome is the one that was planted", bool(known) and not wrong, said)


def _scored_once(results: Results) -> Check:
    twice = [key for key, count in results.keys.items() if count > 1]
    said = f"{len(results.keys):,} scored of {results.samples:,} samples, {len(twice):,} more than once"
    return Check("every sample is scored exactly once", not twice and len(results.keys) == results.samples, said)


def _pairs(question: str, pair: Pair, links: Sequence[Link], results: Results) -> Check:
    fetched = [link.url for link in links if link.pair is pair and "success" in results.outcomes.get(link.url, ())]
    right = sum((url in results.kept) == (pair is Pair.MATCHED) for url in fetched)
    return Check(question, bool(fetched) and right >= ENOUGH * len(fetched), _share(right, len(fetched)))


def _is_marked(link: Link) -> bool:
    truth = truth_in(link.url)
    return truth is not None and truth.watermark


def _languages(planted: Mapping[str, Link], results: Results) -> Check:
    called = [(planted[url].language, language) for url, language in results.languages.items() if url in planted]
    right = sum(written == language for written, language in called)
    said = _share(right, len(called))
    return Check("captions get their language, names get no language", right >= ENOUGH * max(len(called), 1), said)


def _share(right: int, whole: int) -> str:
    return f"{right:,} of {whole:,}, {100 * right / max(whole, 1):.1f} %"


def _examples(found: Iterable[str]) -> str:
    shown = list(found)
    return f" ({'; '.join(shown[:EXAMPLES])}{'; …' if len(shown) > EXAMPLES else ''})" if shown else ""
