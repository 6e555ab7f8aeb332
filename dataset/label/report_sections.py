"""The sections of the near-duplicates' report that say what is known of precision."""

from html import escape

from dataset.label.control import Control
from dataset.label.evidence import Evidence, Way
from dataset.label.precision import Measured
from dataset.report.html import section, table

_WAYS = {
    Way.LABELLED: "From answers on pairs of this version ({of}), whose pictures were still kept.",
    Way.REFETCHED: "From answers on pairs of this version ({of}); pictures that are no longer kept were fetched again.",
    Way.BORROWED: "Borrowed: from answers on {of}, embedded by the same model, weighted with this version's pairs.",
    Way.CONTROL: "Without answers: captions and hosts are compared. Run {command} for precision.",
}


def precision_sections(evidence: Evidence, release: str) -> list[str]:
    """Return the sections as HTML."""
    command = f"dataset dedup label {release} --answers FILE"
    note = escape(_WAYS[evidence.way].format(of=evidence.answers_of, command=command))
    if evidence.refetched is not None:
        one = evidence.refetched
        note += (
            f" Of {one.asked:,} pictures that were no longer kept, {one.answered:,} answered, {one.same:,} with the "
            "same bytes."
        )
    if evidence.measured is None:
        return [section("Precision", _control(evidence.control), f"{note} {_CONTROL}")]
    measured = evidence.measured
    said = (
        f" No threshold is known to have precision {measured.wanted:g}: answer more pairs."
        if measured.threshold is None
        else f" --at {measured.threshold:g} has precision {measured.wanted:g} or more."
    )
    return [
        '<div class="columns">',
        section("Precision by threshold", _thresholds(measured), note + said),
        section("Precision by cosine and group size", _strata(measured), "Of the answers in each class alone."),
        "</div>",
    ]


_CONTROL = (
    "Of two copies of a picture, captions often share words, or hosts are equal; of random rows they seldom are. The "
    "last column bounds the pairs that are as unlike as random ones; different pictures of one subject are not seen."
)


def _thresholds(measured: Measured) -> str:
    heads = ("cosine from", "pairs", "answers", "wrong", "precision", "95 % interval")
    rows = [
        (
            f"{one.at:.3f}",
            f"{one.pairs:,}",
            f"{one.answers:,}",
            f"{one.wrong:,}",
            "–" if one.share is None else f"{one.share:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
        )
        for one in measured.table
    ]
    return table(heads, rows)


def _strata(measured: Measured) -> str:
    heads = ("cosine from", "rows from", "pairs", "answers", "wrong", "95 % interval")
    rows = [
        (
            f"{one.cosine:.2f}",
            f"{one.size:,}",
            f"{one.pairs:,}",
            f"{one.answers:,}",
            f"{one.wrong:,}",
            f"{one.low:.3f} to {one.high:.3f}",
        )
        for one in measured.strata
    ]
    return table(heads, rows)


def _control(control: tuple[Control, ...]) -> str:
    heads = ("cosine from", "pairs", "sampled", "unlike", "share", "shuffled", "unrelated at most")
    rows = [
        (
            f"{one.at:.2f}",
            f"{one.pairs:,}",
            f"{one.sampled:,}",
            f"{one.unlike:,}",
            f"{100 * one.share:.1f} %",
            f"{100 * one.shuffled:.1f} %",
            f"{100 * one.unrelated_at_most:.1f} %",
        )
        for one in control
    ]
    return table(heads, rows) if rows else '<p class="note">There are no pairs of the kind near.</p>'
