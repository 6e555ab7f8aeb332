"""The page's server, on this machine only. Nothing that it sends tells a pair's cosine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dataset.label.answers import CHOICES, Answers
from dataset.report.style import BASE

PAGE = Path(__file__).with_name("page")
_HEADERS = {"Cache-Control": "no-store"}


class _Site:
    def __init__(self, pairs: Sequence[tuple[int, int]], jpegs: Mapping[int, bytes], answers: Answers) -> None:
        self._pairs, self._jpegs, self._answers = dict(pairs), jpegs, answers
        self._waiting = [member for member, _ in pairs if member not in answers.given]

    async def state(self, _: Request) -> Response:
        return self._state()

    async def answer(self, request: Request) -> Response:
        # browsers ask before they send this type from another site's page
        if request.headers.get("content-type") != "application/json":
            return JSONResponse({"message": "Send JSON."}, 415)
        try:
            asked = await request.json()
            action, member = asked["action"], asked.get("member")
        except (ValueError, KeyError, TypeError, AttributeError):
            return JSONResponse({"message": "Send an object with action and member."}, 400)
        if action == "undo":
            undone = await run_in_threadpool(self._answers.undo)
            if undone in self._pairs:
                self._waiting.insert(0, undone)
            return self._state()
        if not self._waiting or member != self._waiting[0]:
            return JSONResponse({"message": "Another pair is shown: load the page again."}, 409)
        if action != "skip" and action not in CHOICES:
            return JSONResponse({"message": f"Unknown action: use skip, undo, {', '.join(CHOICES)}."}, 400)
        self._waiting.pop(0)
        if action == "skip":
            self._waiting.append(member)
        else:
            await run_in_threadpool(self._answers.add, member, action)
        return self._state()

    async def base_style(self, _: Request) -> Response:
        return FileResponse(BASE)

    async def picture(self, request: Request) -> Response:
        jpeg = self._jpegs.get(request.path_params["id"])
        if jpeg is None:
            return JSONResponse({"message": "There is no such picture."}, 404)
        return Response(jpeg, media_type="image/jpeg")

    def _state(self) -> Response:
        shown: dict[str, Any] | None = None
        if self._waiting:
            shown = {"member": self._waiting[0], "representative": self._pairs[self._waiting[0]]}
        done = len(self._pairs) - len(self._waiting)
        return JSONResponse(
            {"choices": CHOICES, "done": done, "all": len(self._pairs), "shown": shown}, headers=_HEADERS
        )


def make_app(pairs: Sequence[tuple[int, int]], jpegs: Mapping[int, bytes], answers: Answers) -> Starlette:
    """Return the application for pairs of ids, members first, in the order in which they are shown."""
    site = _Site(pairs, jpegs, answers)
    routes = [
        Route("/api/state", site.state),
        Route("/api/answer", site.answer, methods=["POST"]),
        Route("/pictures/{id:int}", site.picture),
        Route("/base.css", site.base_style),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    # otherwise another site's page could reach this one under a name of its own
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1"])])
