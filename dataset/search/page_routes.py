"""The pages: the search page with the style that all pages share, or the operator's own; and those about releases."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dataset.report.html import CONTENT_POLICY, SERVED_POLICY, nav
from dataset.report.style import BASE
from dataset.search.release_pages import SEARCH, PageKind, ReleasePages
from dataset.search.service import Service

PAGE = Path(__file__).with_name("page")
_INDEX = PAGE / "index.html"

_AGAIN = {"Refresh": "3", "Cache-Control": "no-store"}


def page_routes(page: Path | None, service: Service, pages: ReleasePages) -> list[BaseRoute]:
    """Return the routes of the operator's `page`, or with None of our own, and of the releases' pages."""
    routes: list[BaseRoute] = [Route(f"/{kind}", partial(_release_page, kind, service, pages)) for kind in PageKind]
    if page is None:
        routes.append(Route("/", partial(_search_page, service, pages)))
        routes.append(Route("/base.css", _base_style))
    return [*routes, Mount("/", StaticFiles(directory=page or PAGE, html=True))]


async def _search_page(service: Service, pages: ReleasePages, request: Request) -> Response:
    """Return the search page with its links, which therefore are there when it is painted first."""
    name = request.query_params.get("index", "")
    index = name if name in service.indexes else next(iter(service.indexes))
    links = nav(pages.site(SEARCH, index)) if pages.links(index) else ""
    return HTMLResponse(_INDEX.read_text(encoding="utf-8").replace("<!-- links -->", links))


async def _release_page(kind: PageKind, service: Service, pages: ReleasePages, request: Request) -> Response:
    served = service.index(request.query_params.get("index"))
    html = await pages.page(kind, served)
    if html is None:
        return _page(pages.waiting(kind, served.engine.name), CONTENT_POLICY, 202, _AGAIN)
    return _page(html, SERVED_POLICY if kind is PageKind.DUPLICATES else CONTENT_POLICY)


def _page(html: str, policy: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    policy += "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return HTMLResponse(html, status, {"Content-Security-Policy": policy, **(headers or {})})


async def _base_style(_: Request) -> Response:
    return FileResponse(BASE)
