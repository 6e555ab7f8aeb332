"""The server of the page for single pictures, on this machine only; docs/detectors.md describes its API.

Nothing that it sends tells how a picture was drawn: neither the draw, nor a prompt, a similarity or a score.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dataset.errors import DatasetError
from dataset.label.labels import Answer, Labels
from dataset.label.local_app import NO_STORE, Refused, local_app, read_action
from dataset.label.pictures import Pictures
from dataset.label.sessions import LabelItem, Sessions, Who, hidden_items
from dataset.label.tasks import Task

PRELOADED = 4
_PSEUDONYM = re.compile(r"[A-Za-z0-9_-]{1,32}")


class _Site:
    def __init__(
        self,
        task: Task,
        sessions: Sessions,
        labels: Labels,
        pictures: Pictures,
        report: Callable[[LabelItem, str], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._task, self._sessions, self._labels, self._pictures = task, sessions, labels, pictures
        self._report, self._clock = report, clock
        self._examples = {id_ for one in task.classes for id_ in one.examples}
        self._actions = {"label": self._label, "skip": self._skip, "undo": self._undo, "report": self._file}

    async def task(self, _: Request) -> Response:
        task = self._task
        classes = [
            {
                "name": one.name,
                "meaning": one.meaning,
                "examples": [id_ for id_ in one.examples if await self._jpeg(id_) is not None],
            }
            for one in task.classes
        ]
        said = {"name": task.name, "guideline": task.guideline, "guideline_version": task.guideline_version}
        return JSONResponse(said | {"classes": classes, "blur": task.blur}, headers=NO_STORE)

    async def state(self, request: Request) -> Response:
        query = request.query_params
        return await self._state(_who(query.get("annotator"), query.get("adjudicate") == "true"))

    async def answer(self, request: Request) -> Response:
        asked = await read_action(request)
        who = _who(asked.get("annotator"), asked.get("adjudicate") is True)
        act = self._actions.get(asked["action"])
        if act is None:
            raise Refused(400, f"Unknown action: use {', '.join(self._actions)}.")
        if asked["action"] != "undo" and asked.get("item") != self._sessions.shown(who, self._clock()):
            raise Refused(409, "Another picture is shown: load the page again.")
        await act(who, asked)
        return await self._state(who)

    async def picture(self, request: Request) -> Response:
        item = request.path_params["id"]
        jpeg = await self._jpeg(item) if item in self._sessions.items or item in self._examples else None
        if jpeg is None:
            self._sessions.lose(item)  # a preloaded one, which is not tried again
            raise Refused(404, "There is no such picture.")
        return Response(jpeg, media_type="image/jpeg", headers=NO_STORE)

    async def _label(self, who: Who, asked: dict[str, Any]) -> None:
        names = [one.name for one in self._task.classes]
        if asked.get("label") not in names:
            raise Refused(400, f"Unknown class: use {', '.join(names)}.")
        answer = Answer(asked["label"], who.annotator, self._clock(), self._task.guideline_version)
        await run_in_threadpool(self._labels.add, asked["item"], answer, adjudicates=who.adjudicates)
        self._sessions.answered(who)

    async def _skip(self, who: Who, _: dict[str, Any]) -> None:
        self._sessions.skip(who)

    async def _undo(self, who: Who, _: dict[str, Any]) -> None:
        item = await run_in_threadpool(self._labels.undo, who.annotator, adjudicates=who.adjudicates)
        if item is not None:
            self._sessions.show_again(who, item)

    async def _file(self, who: Who, asked: dict[str, Any]) -> None:
        item = self._sessions.items[asked["item"]]
        try:
            await run_in_threadpool(self._report, item, who.annotator)
        except DatasetError as error:
            raise Refused(503, f"The picture is hidden. Its report is filed at the next start: {error}") from error
        finally:
            for hidden in self._sessions.hidden:
                self._pictures.forget(hidden)
            self._sessions.answered(who)

    async def _state(self, who: Who) -> Response:
        now = self._clock()
        shown = self._sessions.shown(who, now)
        while shown is not None and await self._jpeg(shown) is None:
            self._sessions.lose(shown)
            shown = self._sessions.shown(who, now)
        item: dict[str, Any] | None = None
        if shown is not None:
            given = self._labels.answers.get(shown, {}) if who.adjudicates else {}
            item = {"item": shown, "answers": sorted(one.label for one in given.values())}
        adjudicator = Who(who.annotator, adjudicates=True)
        said = {
            "shown": item,
            "done": len(self._labels.times(who.annotator)),
            "left": self._sessions.left(who, now),
            "disputed": self._sessions.left(adjudicator, now),
            "preload": self._sessions.following(who, now, PRELOADED),
            "break": self._sessions.needs_break(who, self._task.break_minutes, now),
        }
        return JSONResponse(said, headers=NO_STORE)

    async def _jpeg(self, item: int) -> bytes | None:
        return None if item in self._sessions.hidden else await self._pictures.jpeg(item)


def make_picture_app(
    task: Task,
    items: list[LabelItem],
    labels: Labels,
    pictures: Pictures,
    report: Callable[[LabelItem, str], None],
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Starlette:
    """Return the application for pictures in the order in which they are shown.

    `report` records a picture that may be illegal, and the annotator who saw it; `pictures` forgets those that were
    reported before.
    """
    for hidden in hidden_items(items, labels.reported):
        pictures.forget(hidden)
    site = _Site(task, Sessions(items, labels), labels, pictures, report, clock)
    routes = [
        Route("/api/task", site.task),
        Route("/api/state", site.state),
        Route("/api/answer", site.answer, methods=["POST"]),
        Route("/pictures/{id:int}", site.picture),
    ]
    return local_app(routes, "pictures.html")


def _who(annotator: object, adjudicates: bool) -> Who:
    if not isinstance(annotator, str) or not _PSEUDONYM.fullmatch(annotator):
        raise Refused(400, "Choose a pseudonym of 1 to 32 letters, digits, '-' and '_'.")
    return Who(annotator, adjudicates)
