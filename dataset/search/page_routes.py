"""The pages: the search page with the style that all pages share, or the operator's own."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dataset.report.style import BASE

PAGE = Path(__file__).with_name("page")


def page_routes(page: Path | None) -> list[BaseRoute]:
    """Return the routes of the operator's `page`, or with None of our own."""
    ours = [] if page else [Route("/base.css", _base_style)]
    return [*ours, Mount("/", StaticFiles(directory=page or PAGE, html=True))]


async def _base_style(_: Request) -> Response:
    return FileResponse(BASE)
