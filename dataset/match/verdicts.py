"""What a generated picture is: the verdict on its pixels and those of the rows that are near."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np

from dataset.match.hashes import Hit, Words, distances
from dataset.match.pixels import Aligned, Mask, Pixels, align, template_mask
from dataset.match.prompts import same_prompt

VERBATIM_RMS, RETRIEVED_RMS = 0.11, 0.125
"""Webster's 2.5e3 and 3e3, sums of squares over 256 x 256 x 3: they are generous, so the page is for looking."""
MIN_TEMPLATE = 0.2
"""Share of the picture that a template has, at least."""
MIN_OUTSIDE = 0.02
"""Share of the picture outside the template, below which a difference there does not make it another picture."""


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
    pdq: int | None = None
    """Bits in which the PDQ hashes differ, of the picture or its mirror image; None where there is none."""
    same_bytes: bool = False
    prompt: str | None = None
    own_prompt: bool | None = None
    """Whether the prompt is the caption of the row, or of one of the members of its group that were compared."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The pixels behind a verdict, for the page."""

    aligned: Aligned
    mask: Mask


@dataclass(frozen=True, slots=True)
class Near:
    """A group near to a picture, by its nearest row."""

    id: int
    representative: int
    cosine: float


def judge(
    name: str,
    generated: Pixels,
    near: Sequence[Near],
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


def _about(name: str, group: Near, described: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
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


def with_evidence(
    match: Match, described: Mapping[int, Mapping[str, Any]], hits: Sequence[Hit], hashes: Words
) -> Match:
    """Add what hashes say of the row; a row with the same bytes is proof without its picture."""
    same = next((hit.id for hit in hits if hit.same_bytes), None)
    if same is not None and match.verdict in (Verdict.CANDIDATE, Verdict.NONE):
        row = described[same]
        about = {"representative": row["representative"], "group_size": row["group_size"], "url": row["URL"]}
        match = replace(match, verdict=Verdict.VERBATIM, id=same, caption=row["TEXT"], **about)
    pdq = described[match.id].get("pdq") if match.id is not None else None
    bits = int(distances(hashes, np.frombuffer(pdq, np.uint64)[None]).min()) if pdq else 256
    own = next((hit.same_bytes for hit in hits if hit.id == match.id), False)
    return replace(match, pdq=None if bits == 256 else bits, same_bytes=own)


def with_prompt(
    match: Match, prompt: str | None, families: Mapping[int, Sequence[int]], described: Mapping[int, Mapping[str, Any]]
) -> Match:
    """Add the prompt, and whether it is a caption of the row or of the members of its group that were compared."""
    if prompt is None or match.id is None or match.representative is None:
        return replace(match, prompt=prompt)
    family = {match.id, *families[match.representative]}
    captions = [described[one]["TEXT"] or "" for one in family if one in described]
    return replace(match, prompt=prompt, own_prompt=same_prompt(prompt, captions))
