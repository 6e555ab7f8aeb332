"""Building blocks of the pages: one self-contained document, its sections, tiles, tables, bars and galleries.

Untrusted text is escaped here, and the document forbids scripts and external content.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from dataset.report.style import STYLE

CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
SERVED_POLICY = "default-src 'none'; img-src data: http: https:; style-src 'unsafe-inline'"
"""Of a page whose pictures come from their own hosts."""
SHOWN_ROWS = 14  # rows of a bar chart; the others are summed


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A sample as it is shown on a page; `size` is the original's (width, height) in pixels or None."""

    source: str
    """The picture's address, or the picture itself as `data_url` returns it."""
    caption: str
    similarity: float
    language: str | None
    url: str
    size: tuple[int, int] | None
    is_unsafe: bool = False
    """Shown blurred until somebody points at it or moves the focus to it."""


@dataclass(frozen=True, slots=True)
class Site:
    """The pages of a server: addresses by name; the page that is written is `current`."""

    pages: Mapping[str, str]
    current: str
    search: str = ""
    """The address of a search, to which the terms are added; '' if there is none."""

    def similar_to(self, row_id: int) -> str:
        """Return the address of the search for what is similar to a row."""
        return f"{self.search}&duplicates=1&term=1:id:{row_id}"


def data_url(jpeg: bytes) -> str:
    """Return a JPEG file as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def document(
    title: str, subtitle: str, sections: Iterable[str], *, site: Site | None = None, policy: str = CONTENT_POLICY
) -> str:
    """Return the whole page; the sections are HTML. With `site` it has links to the server's other pages."""
    name = escape(title)
    links = nav(site) if site else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{name}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<header><h1>{name}</h1><p>{escape(subtitle)}</p>{links}</header>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def nav(site: Site) -> str:
    """Return the links to a server's pages."""
    current = {site.current: ' aria-current="page"'}
    named = (f'<a href="{escape(href)}"{current.get(name, "")}>{escape(name)}</a>' for name, href in site.pages.items())
    return f'<nav aria-label="Pages">{"".join(named)}</nav>'


def section(heading: str, body: str, note: str = "") -> str:
    """Return a card with a heading, a note and HTML."""
    said = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{heading}</h2>{said}{body}</section>"


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Draw large numbers, each with a label."""
    return '<div class="tiles">' + "".join(f"<div><b>{n}</b><span>{of}</span></div>" for n, of in values) + "</div>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML, the first of a row is its heading."""
    rows = [*rows]
    texts = {at for row in rows for at, cell in enumerate(row) if 'class="text"' in cell}
    head = "".join(
        f'<th scope="col"{" class=words" if at in texts else ""}>{each}</th>' if each else "<td></td>"
        for at, each in enumerate(heads)
    )
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def percent(part: int, whole: int) -> str:
    """Return a share as text."""
    return f"{100 * part / whole:.1f} %" if whole else "none"


def bars(counts: Mapping[str, int], inner: Mapping[str, int]) -> str:
    """Draw horizontal bars, the longest first; `inner` fills part of each."""
    if not counts:
        return '<p class="note">None.</p>'
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered[:SHOWN_ROWS] if len(ordered) > SHOWN_ROWS + 1 else ordered
    rest = [name for name, _ in ordered[len(shown) :]]
    drawn = [_bar(name, count, inner.get(name, 0), ordered[0][1]) for name, count in shown]
    if rest:
        count, filled = sum(counts[name] for name in rest), sum(inner.get(name, 0) for name in rest)
        drawn.append(_bar(f"{len(rest)} others", count, filled, ordered[0][1]))
    return f'<div class="bars">{"".join(drawn)}</div>'


def _bar(name: str, count: int, filled: int, longest: int) -> str:
    label = escape(name.replace("_", " ")) or "none"
    numbers = f"{filled:,} of {count:,}" if filled else f"{count:,}"
    fill = f'<i style="width:{100 * filled / count:.2f}%"></i>' if filled else ""
    bar = f'<span class="bar" style="width:{100 * count / longest:.2f}%">{fill}</span>'
    return (
        f'<div><span class="name">{label}</span><span class="track">{bar}</span><span class="n">{numbers}</span></div>'
    )


def gallery(thumbnails: Sequence[Thumbnail]) -> str:
    """Show thumbnails with their captions."""
    if not thumbnails:
        return '<p class="note">None.</p>'
    return f'<div class="gallery">{"".join(_card(thumbnail) for thumbnail in thumbnails)}</div>'


def _card(thumbnail: Thumbnail) -> str:
    size = "" if thumbnail.size is None else f" · {thumbnail.size[0]} × {thumbnail.size[1]}"
    about = f"{escape(thumbnail.language or 'none')}{size}"
    caption = escape(thumbnail.caption)
    blurred = ' class="blurred" tabindex="0"' if thumbnail.is_unsafe else ""
    return (
        f'<figure title="{escape(thumbnail.url)}"{blurred}><img src="{escape(thumbnail.source)}" alt="{caption}" '
        f'loading="lazy"><b>{thumbnail.similarity:.3f}</b><small>{about}</small><p dir="auto">{caption}</p></figure>'
    )
