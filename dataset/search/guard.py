"""Around the whole application: the quota, paths with doubled slashes, security headers, and counts of answers."""

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataset.search.metrics import Metrics
from dataset.search.quota import Quota, address_of

UNMETERED = frozenset({"/healthz", "/metrics"})


class Guard:
    """Quota, paths with doubled slashes, security headers, and counts, around the whole application."""

    def __init__(self, app: ASGIApp, metrics: Metrics, quota: Quota, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._metrics = metrics
        self._quota = quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = "/" + scope["path"].lstrip("/")  # clip-front asks for //knn-service
        scope = {**scope, "path": path, "raw_path": path.encode("utf-8", "replace")}

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                more = [one for one in self._headers if one[0] not in known]
                message = {**message, "headers": [*message["headers"], *more]}
                self._metrics.requests.labels(_route(path), str(message["status"])).inc()
            await send(message)

        wait = 0.0 if path in UNMETERED else self._quota.take(address_of(scope))
        if wait:
            self._metrics.refused.labels("quota").inc()
            headers = {"Retry-After": str(max(1, round(wait + 0.5))), "Connection": "close"}
            refusal = JSONResponse({"message": "Too many requests from your address: try again later."}, 429, headers)
            await refusal(scope, receive, send_noted)
            return
        await self._app(scope, receive, send_noted)


def _route(path: str) -> str:
    """Return a path's label in metrics: few values, whatever clients ask for."""
    parts = path.split("/")
    return path if path in _LABELS else f"/api/{parts[2]}" if parts[1] == "api" and parts[2] in _API else "other"


_API = frozenset({"indexes", "search", "count", "embed", "facets", "rows", "exports", "reports", "operator"})
_LABELS = frozenset({"/", "/knn-service", "/metadata", "/indices-list", "/metrics-summary", "/metrics", "/healthz",
                     "/statistics", "/duplicates"})  # fmt: skip
