"""What the servers of labelling pages share: they answer this machine only, and take JSON of their own page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from dataset.errors import DatasetError
from dataset.report.style import BASE

PAGE = Path(__file__).with_name("page")
NO_STORE = {"Cache-Control": "no-store"}


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_action(request: Request) -> dict[str, Any]:
    """Return the JSON object that a page has sent.

    Raises: Refused (400, 415).
    """
    # browsers ask before they send this type from another site's page
    if request.headers.get("content-type") != "application/json":
        raise Refused(415, "Send JSON.")
    try:
        action = await request.json()
    except ValueError as error:
        raise Refused(400, "Send an object with an action.") from error
    if not isinstance(action, dict) or not isinstance(action.get("action"), str):
        raise Refused(400, "Send an object with an action.")
    return action


def local_app(routes: Sequence[BaseRoute], page: str) -> Starlette:
    """Return an application with these routes and a page of `PAGE` at /."""

    async def index(_: Request) -> Response:
        return FileResponse(PAGE / page)

    async def base_style(_: Request) -> Response:
        return FileResponse(BASE)

    async def refused(_: Request, error: Exception) -> Response:
        status = error.status if isinstance(error, Refused) else 503
        return JSONResponse({"message": str(error)}, status, NO_STORE)

    return Starlette(
        routes=[*routes, Route("/", index), Route("/base.css", base_style), Mount("/", StaticFiles(directory=PAGE))],
        # otherwise another site's page could reach this one under a name of its own
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])],
        exception_handlers={Refused: refused, DatasetError: refused},
    )
