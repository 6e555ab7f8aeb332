"""Answers of handlers: JSON that is ready, and errors as JSON with a sentence and the right status."""

import logging
from collections.abc import Awaitable, Callable
from datetime import date, datetime

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.search.errors import SearchError

log = logging.getLogger("shoal.search")

Handler = Callable[[Request], Awaitable[Response]]
Entry = tuple[str, str, Handler]
"""A route: method, path and handler."""


def ready(data: bytes) -> Response:
    """Return JSON as an answer."""
    return Response(data, media_type="application/json")


async def refused(_: Request, error: SearchError) -> Response:
    """Answer an error that has a sentence for the client."""
    return JSONResponse({"message": error.message, **error.facts}, error.status, error.headers)


async def http_error(_: Request, error: HTTPException) -> Response:
    """Answer an error of the framework: no such path, no such method."""
    said = {404: "There is nothing at this path.", 405: "This path does not know the method."}
    return JSONResponse({"message": said.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def failed(request: Request, error: Exception) -> Response:
    """Log an error that nobody expected, and answer it."""
    log.error("search.failed path=%s error=%r", request.url.path, error)
    message = str(error) if isinstance(error, DatasetError) else "The server failed: tell its operator."
    return JSONResponse({"message": message}, 500)


def to_json(value: object) -> bytes:
    """Return a value as JSON; dates are ISO 8601, bytes are hex."""
    return (strict_json.dumps(value, default=_plain) + "\n").encode("utf-8", "replace")


def _plain(value: object) -> object:
    match value:
        case datetime() | date():
            return value.isoformat()
        case bytes():
            return value.hex()
        case np.generic():
            return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
