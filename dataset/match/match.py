"""Match generated pictures with the rows of a release, and decide what each of them is."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from dataset.dedup.explain import read_by_id
from dataset.dedup.options import Options
from dataset.dedup.plant import Embedder
from dataset.dedup.vectors import Vectors
from dataset.errors import DatasetError
from dataset.formats.duplicates import NAME
from dataset.formats.releases import Release
from dataset.match.hashes import Hit, hash_hits, words_of
from dataset.match.pixels import Floats, square
from dataset.match.queries import nearest_rows, read_queries
from dataset.match.verdicts import COPIES, Match, Near, Shown, Verdict, judge, with_evidence, with_prompt
from dataset.pictures.open_stored import open_stored
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows
from dataset.tags.wilson import wilson

Integers = npt.NDArray[np.int64]
KeptPictures = Callable[[Integers], Mapping[int, bytes]]
"""Returns the pictures that are still kept, by id, of sorted ids."""
Progress = Callable[[str, int, int], None]

NEAREST_GROUPS = 5
"""Groups whose pixels are compared with a picture."""
MIN_COSINE = 0.80
FAMILY = 8
"""Members of a group that are compared with each other, to find a template."""
JUDGED_AT_ONCE, MAX_SHOWN = 200, 100


class MatchError(DatasetError):
    """Pictures cannot be matched."""


@dataclass(frozen=True, slots=True)
class Matches:
    """All pictures by group size and verdict, what was compared, and the pictures that cannot be read."""

    matches: tuple[Match, ...]
    shown: Mapping[str, Shown]
    unreadable: tuple[str, ...]

    @property
    def counts(self) -> Counter[str]:
        """Pictures by verdict."""
        return Counter(one.verdict.value for one in self.matches)

    @property
    def copy_rate(self) -> tuple[float, float, float]:
        """The share of copies and its 95 % Wilson interval; of unrelated pictures this is the rate of errors."""
        copies = sum(one.verdict in COPIES for one in self.matches)
        return copies / max(1, len(self.matches)), *wilson(copies, len(self.matches))


def match_pictures(
    release: Release,
    options: Options,
    model: Embedder,
    pictures: Iterable[tuple[str, bytes]],
    kept: KeptPictures,
    on_progress: Progress = lambda *_: None,
    prompts: Mapping[str, str] = MappingProxyType({}),
) -> Matches:
    """Match pictures with names with a release whose near-duplicates were searched for with `options`.

    `prompts` are those from which pictures were generated, by name. Memory holds 200 kB a picture. The pictures of rows
    are read for JUDGED_AT_ONCE pictures at a time.

    Raises: MatchError when no picture can be read; DedupError; StoreError.
    """
    vectors, rows = Vectors(release, options.model), ReleaseRows.open(release)
    read = read_queries(model, pictures)
    if not read.names:
        raise MatchError("None of the pictures can be read: name a folder of JPEG, PNG or WebP files.")
    queries = np.concatenate([*read.plain, *read.mirrored])  # (2 N, D)
    if queries.shape[1] != vectors.dimensions:
        raise MatchError(f"The model has {queries.shape[1]} dimensions and the release {vectors.dimensions}.")
    ids, cosines = nearest_rows(vectors, queries, on_progress)
    plain, mirrored = words_of(read.pdq), words_of(read.mirrored_pdq)
    hits = hash_hits(rows, read.sha256, plain, mirrored, lambda done: on_progress("reading hashes", done, vectors.rows))
    near = _by_group(rows, options, read.names, ids, cosines)
    _add_hits(near, hits, read.names, queries, rows, vectors, options)
    families = _families(rows, {group.representative for some in near.values() for group in some})
    matches: list[Match] = []
    shown: dict[str, Shown] = {}
    for start in range(0, len(read.names), JUDGED_AT_ONCE):
        some = range(start, min(start + JUDGED_AT_ONCE, len(read.names)))
        wanted = {
            one for at in some for group in near[read.names[at]] for one in (group.id, *families[group.representative])
        }
        pixels = {
            one: square(image)
            for one, data in kept(np.array(sorted(wanted), np.int64)).items()
            if (image := open_stored(data)) is not None
        }
        described = read_by_id(rows, sorted(wanted), options.quality) if wanted else {}
        for at in some:
            name = read.names[at]
            match, pair = judge(name, read.squares[at], near[name], families, pixels, described)
            match = with_evidence(match, described, hits[at], np.stack([plain[at], mirrored[at]]))
            match = with_prompt(match, prompts.get(name), families, described)
            matches.append(match)
            if pair is not None and match.verdict in COPIES:
                shown[name] = pair
        matches.sort(key=_rank)
        shown = {name: shown[name] for name in [one.picture for one in matches if one.picture in shown][:MAX_SHOWN]}
        on_progress("comparing pixels", some.stop, len(read.names))
    return Matches(tuple(matches), shown, tuple(read.unreadable))


def _rank(one: Match) -> tuple[int, int, str]:
    return list(Verdict).index(one.verdict), -(one.group_size or 0), one.picture


def _by_group(
    rows: ReleaseRows, options: Options, names: Sequence[str], ids: Integers, cosines: Floats
) -> dict[str, list[Near]]:
    """Return the nearest groups of each picture, of it and its mirror image together."""
    near = np.unique(ids[cosines >= MIN_COSINE])
    described = read_by_id(rows, near.tolist(), options.quality) if len(near) else {}
    found: dict[str, list[Near]] = {}
    for at, name in enumerate(names):
        pairs = [
            (-float(cosine), int(one))
            for query in (at, at + len(names))
            for one, cosine in zip(ids[query], cosines[query], strict=True)
            if cosine >= MIN_COSINE
        ]
        groups: dict[int, Near] = {}
        for cosine, one in sorted(pairs):
            group = described[one]["representative"]
            groups.setdefault(group, Near(one, group, round(-cosine, 4)))
        found[name] = list(groups.values())[:NEAREST_GROUPS]
    return found


def _add_hits(
    near: dict[str, list[Near]],
    hits: Sequence[Sequence[Hit]],
    names: Sequence[str],
    queries: Floats,
    rows: ReleaseRows,
    vectors: Vectors,
    options: Options,
) -> None:
    """Put the groups of rows with equal bytes or near hashes first, with their cosines."""
    wanted = sorted({hit.id for some in hits for hit in some})
    if not wanted:
        return
    described = read_by_id(rows, wanted, options.quality)
    found = vectors.take(np.array(wanted, np.int64)).astype(np.float32)
    unit = dict(zip(wanted, found / np.linalg.norm(found, axis=1, keepdims=True), strict=True))
    for at, name in enumerate(names):
        groups: dict[int, Near] = {}
        for hit in hits[at]:
            cosine = max(float(queries[one] @ unit[hit.id]) for one in (at, at + len(names)))
            group = described[hit.id]["representative"]
            groups.setdefault(group, Near(hit.id, group, round(cosine, 4)))
        for other in near[name]:
            groups.setdefault(other.representative, other)
        near[name] = list(groups.values())[:NEAREST_GROUPS]


def _families(rows: ReleaseRows, groups: set[int]) -> dict[int, list[int]]:
    """Return up to FAMILY members of each group, its representative first."""
    members: dict[int, list[int]] = defaultdict(list)
    wanted = np.array(sorted(groups), np.int64)
    for group in rows.row_groups() if groups else ():
        table = rows.read(group, ["id", f"{NAME}.representative"])
        representative, ids = table[f"{NAME}.representative"].fill_null(-1).to_numpy(), table["id"].to_numpy()
        for at in np.flatnonzero(np.isin(representative, wanted)).tolist():
            members[int(representative[at])].append(int(ids[at]))
        for one, some in members.items():
            if len(some) > FAMILY:
                drawn = np.array(some, np.int64)
                ranks = np.where(drawn == one, np.uint64(0), priorities(drawn, 0))
                members[one] = drawn[np.argsort(ranks)[:FAMILY]].tolist()
    return dict(members)
