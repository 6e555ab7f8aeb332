"""Distribute links over pages and write them as pages do: absolute, relative to the page, relative to its <base>."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from tests.demo.planting import Link
from tests.demo.plants import Plant
from tests.demo.wat_files import ImageTag, Page

LINKS_PER_PAGE = (4, 13)
UNTIDY_SHARE = 0.1  # of the alts that carry entities and white space, as half the web's do
TITLES = ("A walk through the collection", "Neue Bilder im Archiv", "La galería de hoy", "Untitled document")


def bind_pages(links: Sequence[Link], file_number: int, rng: np.random.Generator) -> list[Page]:
    """Spread the links of one WAT file over pages; a link that is written against its page or <base> opens a page."""
    links = [links[place] for place in rng.permutation(len(links))]
    openers = [link for link in links if link.plant in (Plant.RELATIVE, Plant.BASE)]
    rest = iter([link for link in links if link.plant not in (Plant.RELATIVE, Plant.BASE)])
    pages: list[Page] = []
    for opener in openers:
        pages.append(_opened(opener, f"{file_number}-{len(pages)}", _take(rest, rng), rng))
    while filling := _take(rest, rng):
        url = f"http://{filling[0].host}/stories/{file_number}-{len(pages)}.html"
        pages.append(Page(url, TITLES[len(pages) % len(TITLES)], _tags(filling, rng)))
    return [pages[place] for place in rng.permutation(len(pages))]


def _take(links: Iterator[Link], rng: np.random.Generator) -> list[Link]:
    return list(islice(links, int(rng.integers(*LINKS_PER_PAGE))))


def _tags(links: Sequence[Link], rng: np.random.Generator) -> tuple[ImageTag, ...]:
    return tuple(ImageTag(link.url, _alt(link, rng)) for link in links)


def _alt(link: Link, rng: np.random.Generator) -> str:
    """Write a caption as an alt attribute, sometimes with entities, line breaks and space that cleaning has to undo."""
    if link.plant is Plant.ALT_TOO_SHORT or rng.random() >= UNTIDY_SHARE:
        return link.caption
    escaped = link.caption.encode("ascii", "xmlcharrefreplace").decode("ascii")
    return f"\n\t{escaped.replace(' ', '&nbsp;', 1).replace(' ', '  ', 1)} "


def _opened(opener: Link, name: str, filling: Sequence[Link], rng: np.random.Generator) -> Page:
    write = _relative if opener.plant is Plant.RELATIVE else _based
    page, base, src = write(opener, name)
    image = ImageTag(f"\n  {src}\t" if opener.number % 5 == 0 else src, _alt(opener, rng))
    return Page(page, TITLES[opener.number % len(TITLES)], (image, *_tags(filling, rng)), base)


def _relative(link: Link, name: str) -> tuple[str, None, str]:
    """Return a page and a src that leads from it to the link."""
    folder, file, path, origin = _pieces(link)
    forms = (
        (f"{origin}/stories/2024/{name}.html", path),
        (f"{origin}/stories/2024/{name}.html", f"../..{path}"),
        (f"{folder}{name}.html", file),
        (f"{folder}?page={name}", f"./{file}"),
        (f"{folder}{name}?back=/over/there", file),  # a slash in the query is no folder
        (f"http://127.0.0.1/{name}", link.url.removeprefix("http:")),
    )
    page, src = forms[link.number % len(forms)]
    return page, None, src


def _based(link: Link, name: str) -> tuple[str, str, str]:
    """Return a page, the href of its <base>, and a src that leads from there to the link."""
    folder, file, path, origin = _pieces(link)
    forms = (
        ("http://127.0.0.1/blog", folder, file),
        ("http://127.0.0.1/blog", f"{folder.removeprefix('http:')}index.html", file),
        (f"{origin}/blog", "/", path.removeprefix("/")),
    )
    site, base, src = forms[link.number % len(forms)]
    return f"{site}/{name}.html", base, src


def _pieces(link: Link) -> tuple[str, str, str, str]:
    """Split a link: folder with scheme and slash, file, path, origin."""
    folder, file = link.url.rsplit("/", 1)
    origin = "/".join(link.url.split("/")[:3])
    return f"{folder}/", file, link.url.removeprefix(origin), origin
