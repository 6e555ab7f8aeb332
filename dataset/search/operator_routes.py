"""What only operators may do: trace rows, and decide on reports. Every request needs the operator's token."""

import asyncio
import hmac
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from dataset.search.answers import Entry, ready, to_json
from dataset.search.bodies import BodyReader, Fields
from dataset.search.errors import SearchError
from dataset.search.options import SiteOptions
from dataset.search.service import Service


class OperatorRoutes:
    """The handlers of /api/operator."""

    def __init__(self, service: Service, options: SiteOptions, bodies: BodyReader, token: str) -> None:
        self._service, self._options, self._bodies, self._token = service, options, bodies, token

    def entries(self) -> list[Entry]:
        """Return the routes of what the server offers to operators."""
        routes: list[Entry] = []
        if self._options.trace is not None:
            routes.append(("GET", "/api/operator/trace/{id:int}", self._trace))
        if self._options.reports is not None:
            routes.append(("GET", "/api/operator/reports", self._reports))
            routes.append(("POST", "/api/operator/reports/{name}", self._decide))
        return routes

    async def _reports(self, request: Request) -> Response:
        self._require_operator(request)
        assert self._options.reports is not None
        return ready(to_json({"reports": await asyncio.to_thread(self._options.reports.pending)}))

    async def _decide(self, request: Request) -> Response:
        self._require_operator(request)
        fields = Fields(await self._bodies.object(request))
        accept, note = fields.get("accept", bool), fields.get("note", str, "")
        fields.finish()
        if accept is None:
            raise SearchError(400, "accept is missing.", field="accept")
        assert self._options.reports is not None
        decide = partial(self._options.reports.decide, accept=accept, note=note)
        decided = await asyncio.to_thread(decide, request.path_params["name"])
        await self._service.refresh()
        return ready(to_json(decided))

    async def _trace(self, request: Request) -> Response:
        self._require_operator(request)
        assert self._options.trace is not None
        name = self._service.index(request.query_params.get("index")).engine.name
        return ready(to_json(await asyncio.to_thread(self._options.trace, name, request.path_params["id"])))

    def _require_operator(self, request: Request) -> None:
        """Raise SearchError (401) unless the request has the operator's token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode("utf-8")):
            raise SearchError(401, "This needs the operator's token.", headers={"WWW-Authenticate": "Bearer"})
