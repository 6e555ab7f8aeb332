"""Markdown that is also readable as plain text: tables, and untrusted texts in them."""

from collections.abc import Iterable, Sequence

_SIGNS = frozenset(r"\`*_{}[]<>#|!&~")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a table with padded cells; the first `left` columns are aligned left, the others right."""
    cells = [tuple(heads), *rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    lines = [
        "| "
        + " | ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 2) if at < left else "-" * (width + 1) + ":" for at, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def escape(text: str) -> str:
    """Return a text of one line that Markdown shows as it is."""
    line = " ".join(text.split())
    return "".join("\\" + sign if sign in _SIGNS else sign for sign in line if sign.isprintable())
