r"""The payload of a download batch: one line per link.

A line is `pack \t pack_row \t attempt \t language \t url \t text`, as `tracker.draw` joins it; '' means no language. A
link of a list may have one more field, its other columns as a JSON object without tabs and newlines. A link's position
is its line's number, from 0. Workers name links by position, so no line is ever skipped.

Rejected: `str.splitlines`, which also breaks at U+2028, U+0085 and other characters that captions do contain.
"""

from dataclasses import dataclass

from tracker.errors import TrackerError


class PayloadError(TrackerError):
    """A stored payload is not what `tracker.draw` writes."""


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """A link of a batch; `pack` and `pack_row` name its row in a pack, `attempt` counts from 1."""

    position: int
    pack: int
    pack_row: int
    attempt: int
    language: str | None
    url: str
    text: str
    extra: str = ""


def read_payload(payload: str) -> list[CandidateLine]:
    """Read a batch's payload; the empty payload has no links.

    Raises:
        PayloadError: a line is not a link; the batch stays stored.
    """
    lines = payload.split("\n") if payload else []
    return [_read_line(position, line) for position, line in enumerate(lines)]


def _read_line(position: int, line: str) -> CandidateLine:
    try:
        pack, pack_row, attempt, language, url, text, *extra = line.split("\t", maxsplit=6)
        return CandidateLine(position, int(pack), int(pack_row), int(attempt), language or None, url, text, *extra)
    except ValueError as error:
        raise PayloadError(
            f"line {position} of the batch's payload is not a link: look at it in tracker.batch"
        ) from error
