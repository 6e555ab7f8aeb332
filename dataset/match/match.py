"""Match generated pictures with the rows of a release, and decide what each of them is."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageOps

from dataset.dedup.explain import read_by_id
from dataset.dedup.options import Options
from dataset.dedup.plant import Embedder
from dataset.dedup.vectors import Vectors
from dataset.errors import DatasetError
from dataset.formats.duplicates import NAME
from dataset.formats.releases import Release
from dataset.match.pixels import Aligned, Floats, Mask, Pixels, align, square, template_mask
from dataset.pictures.open_stored import open_stored
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows
from dataset.tags.wilson import wilson

Integers = npt.NDArray[np.int64]
KeptPictures = Callable[[Integers], Mapping[int, bytes]]
"""Returns the pictures that are still kept, by id, of sorted ids."""
Progress = Callable[[str, int, int], None]

NEAREST_ROWS, NEAREST_GROUPS = 50, 5
"""Rows that are looked at for each picture, and the groups of these whose pixels are compared."""
MIN_COSINE = 0.80
FAMILY = 8
"""Members of a group that are compared with each other, to find a template."""
VERBATIM_RMS, RETRIEVED_RMS = 0.11, 0.125
"""Webster's 2.5e3 and 3e3, sums of squares over 256 x 256 x 3: they are generous, so the page is for looking."""
MIN_TEMPLATE = 0.2
"""Share of the picture that a template has, at least."""
MIN_OUTSIDE = 0.02
"""Share of the picture outside the template, below which a difference there does not make it another picture."""
_PICTURES_AT_ONCE, _QUERIES_AT_ONCE = 32, 512
JUDGED_AT_ONCE, MAX_SHOWN = 200, 100


class MatchError(DatasetError):
    """Pictures cannot be matched."""


class Verdict(StrEnum):
    """What a generated picture is."""

    VERBATIM = "verbatim"
    """Its pixels are a row's."""
    TEMPLATE = "template"
    """It repeats what all members of a group share, and differs elsewhere."""
    RETRIEVED = "retrieved"
    """Its pixels are nearly a row's."""
    CANDIDATE = "candidate"
    """A row is near by its embedding, and its picture is not kept: nothing is proven."""
    NONE = "none"
    """No row is near, or the pixels of those that are differ."""


COPIES = (Verdict.VERBATIM, Verdict.TEMPLATE, Verdict.RETRIEVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A generated picture, and the row that it is most like; None where no row is near or no pixels are kept."""

    picture: str
    verdict: Verdict
    id: int | None = None
    representative: int | None = None
    group_size: int | None = None
    cosine: float | None = None
    mirrored: bool | None = None
    rms: float | None = None
    masked_rms: float | None = None
    """Inside the template."""
    template_share: float | None = None
    url: str | None = None
    caption: str | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """The pixels behind a verdict, for the page."""

    aligned: Aligned
    mask: Mask


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


@dataclass(frozen=True, slots=True)
class _Near:
    """A group near to a picture, by its nearest row."""

    id: int
    representative: int
    cosine: float


def match_pictures(
    release: Release,
    options: Options,
    model: Embedder,
    pictures: Iterable[tuple[str, bytes]],
    kept: KeptPictures,
    on_progress: Progress = lambda *_: None,
) -> Matches:
    """Match pictures with names with a release whose near-duplicates were searched for with `options`.

    Memory holds 200 kB a picture. The pictures of rows are read for JUDGED_AT_ONCE pictures at a time.

    Raises: MatchError when no picture can be read; DedupError; StoreError.
    """
    vectors, rows = Vectors(release, options.model), ReleaseRows.open(release)
    read = _read(model, pictures)
    if not read.names:
        raise MatchError("None of the pictures can be read: name a folder of JPEG, PNG or WebP files.")
    queries = np.concatenate([*read.plain, *read.mirrored])  # (2 N, D)
    if queries.shape[1] != vectors.dimensions:
        raise MatchError(f"The model has {queries.shape[1]} dimensions and the release {vectors.dimensions}.")
    ids, cosines = _nearest(vectors, queries, on_progress)
    near = _by_group(rows, options, read.names, ids, cosines)
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
            match, pair = _judge(name, read.squares[at], near[name], families, pixels, described)
            matches.append(match)
            if pair is not None and match.verdict in COPIES:
                shown[name] = pair
        matches.sort(key=_rank)
        shown = {name: shown[name] for name in [one.picture for one in matches if one.picture in shown][:MAX_SHOWN]}
        on_progress("comparing pixels", some.stop, len(read.names))
    return Matches(tuple(matches), shown, tuple(read.unreadable))


def _rank(one: Match) -> tuple[int, int, str]:
    return list(Verdict).index(one.verdict), -(one.group_size or 0), one.picture


@dataclass(slots=True)
class _Read:
    names: list[str] = field(default_factory=list)
    squares: list[Pixels] = field(default_factory=list)
    plain: list[Floats] = field(default_factory=list)
    mirrored: list[Floats] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def _read(model: Embedder, pictures: Iterable[tuple[str, bytes]]) -> _Read:
    """Embed pictures, as they are and mirrored, and keep them at 256 by 256 pixels."""
    read, each = _Read(), iter(pictures)
    while some := list(islice(each, _PICTURES_AT_ONCE)):
        opened = [(name, open_stored(data)) for name, data in some]
        read.unreadable += [name for name, image in opened if image is None]
        images = [image for _, image in opened if image is not None]
        if images:
            read.names += [name for name, image in opened if image is not None]
            read.squares += [square(image) for image in images]
            read.plain.append(model.embed_images(images).astype(np.float32))
            read.mirrored.append(model.embed_images([ImageOps.mirror(one) for one in images]).astype(np.float32))
    return read


def _nearest(vectors: Vectors, queries: Floats, on_progress: Progress) -> tuple[Integers, Floats]:
    """Return the ids and cosines of the NEAREST_ROWS nearest rows of each query -> (Q, k); all rows are read once."""
    ids = np.full((len(queries), NEAREST_ROWS), -1, np.int64)
    cosines, done = np.full((len(queries), NEAREST_ROWS), -2, np.float32), 0
    for own, block in vectors.blocks():
        if not len(own):
            continue
        count = min(NEAREST_ROWS, len(own))
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            one = slice(start, start + _QUERIES_AT_ONCE)
            some = queries[one] @ block.T  # (Q, N)
            best = np.argpartition(-some, count - 1, axis=1)[:, :count]
            both = np.concatenate([ids[one], own[best]], axis=1)
            near = np.concatenate([cosines[one], np.take_along_axis(some, best, axis=1)], axis=1)
            order = np.lexsort((both, -near), axis=1)[:, :NEAREST_ROWS]
            ids[one], cosines[one] = np.take_along_axis(both, order, axis=1), np.take_along_axis(near, order, axis=1)
        done += len(own)
        on_progress("reading embeddings", done, vectors.rows)
    return ids, cosines


def _by_group(
    rows: ReleaseRows, options: Options, names: Sequence[str], ids: Integers, cosines: Floats
) -> dict[str, list[_Near]]:
    """Return the nearest groups of each picture, of it and its mirror image together."""
    near = np.unique(ids[cosines >= MIN_COSINE])
    described = read_by_id(rows, near.tolist(), options.quality) if len(near) else {}
    found: dict[str, list[_Near]] = {}
    for at, name in enumerate(names):
        pairs = [
            (-float(cosine), int(one))
            for query in (at, at + len(names))
            for one, cosine in zip(ids[query], cosines[query], strict=True)
            if cosine >= MIN_COSINE
        ]
        groups: dict[int, _Near] = {}
        for cosine, one in sorted(pairs):
            group = described[one]["representative"]
            groups.setdefault(group, _Near(one, group, round(-cosine, 4)))
        found[name] = list(groups.values())[:NEAREST_GROUPS]
    return found


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


def _judge(
    name: str,
    generated: Pixels,
    near: Sequence[_Near],
    families: Mapping[int, Sequence[int]],
    pixels: Mapping[int, Pixels],
    described: Mapping[int, Mapping[str, Any]],
) -> tuple[Match, Shown | None]:
    """Return the strongest verdict over all groups, and the pixels behind it."""
    if not near:
        return Match(picture=name, verdict=Verdict.NONE), None
    found: list[tuple[int, float, Match, Shown | None]] = []
    for group in near:
        family = list(dict.fromkeys([group.id, *families[group.representative]]))
        seen = [one for one in family if one in pixels]
        about = _about(name, group, described)
        if not seen:
            found.append(
                (list(Verdict).index(Verdict.CANDIDATE), -group.cosine, Match(verdict=Verdict.CANDIDATE, **about), None)
            )
            continue
        aligned = {one: align(generated, pixels[one]) for one in seen}
        best = min(seen, key=lambda one: aligned[one].rms())
        mask = template_mask([pixels[one] for one in seen])
        verdict, rms, masked = _verdict(aligned[best], mask)
        match = Match(
            verdict=verdict,
            mirrored=aligned[best].mirrored,
            rms=round(rms, 4),
            masked_rms=None if masked is None else round(masked, 4),
            template_share=round(float(mask.mean()), 4),
            **{**about, "id": best, "url": described[best]["URL"], "caption": described[best]["TEXT"]},
        )
        found.append((list(Verdict).index(verdict), rms, match, Shown(aligned[best], mask)))
    _, _, match, shown = min(found, key=lambda one: one[:2])
    return match, shown


def _verdict(aligned: Aligned, mask: Mask) -> tuple[Verdict, float, float | None]:
    """Return the verdict, the difference, and the difference inside the template."""
    rms = aligned.rms()
    oriented = mask[:, ::-1] if aligned.mirrored else mask
    masked = aligned.rms(oriented) if mask.mean() >= MIN_TEMPLATE else None
    if masked is not None and masked < VERBATIM_RMS:
        outside = ~oriented & aligned.valid
        if outside.mean() >= MIN_OUTSIDE and aligned.rms(outside) >= VERBATIM_RMS:
            return Verdict.TEMPLATE, rms, masked
    if rms < VERBATIM_RMS:
        return Verdict.VERBATIM, rms, masked
    return Verdict.RETRIEVED if rms < RETRIEVED_RMS else Verdict.NONE, rms, masked


def _about(name: str, group: _Near, described: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    row = described[group.id]
    return {
        "picture": name,
        "id": group.id,
        "representative": group.representative,
        "group_size": row["group_size"],
        "cosine": group.cosine,
        "url": row["URL"],
        "caption": row["TEXT"],
    }
