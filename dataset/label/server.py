"""The server of the page for pairs, on this machine only. Nothing that it sends tells a pair's cosine."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dataset.label.answers import CHOICES, Answers
from dataset.label.local_app import NO_STORE, Refused, local_app, read_action


class _Site:
    def __init__(self, pairs: Sequence[tuple[int, int]], jpegs: Mapping[int, bytes], answers: Answers) -> None:
        self._pairs, self._jpegs, self._answers = dict(pairs), jpegs, answers
        self._waiting = [member for member, _ in pairs if member not in answers.given]

    async def state(self, _: Request) -> Response:
        return self._state()

    async def answer(self, request: Request) -> Response:
        asked = await read_action(request)
        action, member = asked["action"], asked.get("member")
        if action == "undo":
            undone = await run_in_threadpool(self._answers.undo)
            if undone in self._pairs:
                self._waiting.insert(0, undone)
            return self._state()
        if not self._waiting or member != self._waiting[0]:
            raise Refused(409, "Another pair is shown: load the page again.")
        if action != "skip" and action not in CHOICES:
            raise Refused(400, f"Unknown action: use skip, undo, {', '.join(CHOICES)}.")
        self._waiting.pop(0)
        if action == "skip":
            self._waiting.append(member)
        else:
            await run_in_threadpool(self._answers.add, member, action)
        return self._state()

    async def picture(self, request: Request) -> Response:
        jpeg = self._jpegs.get(request.path_params["id"])
        if jpeg is None:
            raise Refused(404, "There is no such picture.")
        return Response(jpeg, media_type="image/jpeg")

    def _state(self) -> Response:
        shown: dict[str, Any] | None = None
        if self._waiting:
            shown = {"member": self._waiting[0], "representative": self._pairs[self._waiting[0]]}
        done = len(self._pairs) - len(self._waiting)
        return JSONResponse(
            {"choices": CHOICES, "done": done, "all": len(self._pairs), "shown": shown}, headers=NO_STORE
        )


def make_app(pairs: Sequence[tuple[int, int]], jpegs: Mapping[int, bytes], answers: Answers) -> Starlette:
    """Return the application for pairs of ids, members first, in the order in which they are shown."""
    site = _Site(pairs, jpegs, answers)
    routes = [
        Route("/api/state", site.state),
        Route("/api/answer", site.answer, methods=["POST"]),
        Route("/pictures/{id:int}", site.picture),
    ]
    return local_app(routes, "index.html")
