"""The routes of exports: start one, its progress, cancel it, and its file."""

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from dataset.search.answers import Entry, ready, to_json
from dataset.search.api import check_columns, check_modality
from dataset.search.bodies import BodyReader, Fields
from dataset.search.errors import SearchError
from dataset.search.export_files import MEDIA_TYPES, ExportFormat
from dataset.search.exports import MOST_ROWS, Exports, ExportState
from dataset.search.questions import parse_question
from dataset.search.quota import address_of
from dataset.search.service import Service
from dataset.search.terms import query_vector


class ExportRoutes:
    """The handlers of /api/exports."""

    def __init__(self, service: Service, exports: Exports, bodies: BodyReader) -> None:
        self._service, self._exports, self._bodies = service, exports, bodies

    def entries(self) -> list[Entry]:
        """Return the routes."""
        return [
            ("POST", "/api/exports", self._start),
            ("GET", "/api/exports/{name}", self._status),
            ("DELETE", "/api/exports/{name}", self._cancel),
            ("GET", "/api/exports/{name}/file", self._file),
        ]

    async def _start(self, request: Request) -> Response:
        fields = Fields(await self._bodies.object(request))
        ids = fields.integers("ids", most=MOST_ROWS, low=0, high=2**53)
        question = parse_question(fields, needs_terms=ids is None)
        most = fields.integer("limit", MOST_ROWS, low=1, high=MOST_ROWS)
        columns = fields.get("columns", list)
        kind = fields.get("format", str, ExportFormat.PARQUET)
        if kind not in set(ExportFormat):
            raise fields.wrong("format", f"must be one of {', '.join(ExportFormat)}")
        fields.finish()
        served = self._service.index(question.index)
        check_modality(question.modality, served.engine)
        where = served.engine.parse_filter(question.filters, safe=self._service.is_safe(question.safe))
        names = check_columns(served.engine.columns if columns is None else columns, served.engine)
        if ids is not None and (question.terms or question.filters or question.at_least is not None):
            raise SearchError(400, "ids are exported as they are: leave out terms, filters and at_least.", field="ids")
        vector = None
        if ids is None:
            vector = await query_vector(question.terms, served.engine, self._service.sources, question.modality)
        job = self._exports.add(
            served, question, where=where, vector=vector, ids=ids, most=most, columns=names, format=ExportFormat(kind),
            address=address_of(request.scope),
        )  # fmt: skip
        return Response(to_json(job.status()), 202, {"Location": f"/api/exports/{job.id}"}, "application/json")

    async def _status(self, request: Request) -> Response:
        return ready(to_json(self._exports.get(request.path_params["name"]).status()))

    async def _cancel(self, request: Request) -> Response:
        return ready(to_json(self._exports.cancel(request.path_params["name"]).status()))

    async def _file(self, request: Request) -> Response:
        job = self._exports.get(request.path_params["name"])
        if job.state is not ExportState.DONE:
            raise SearchError(409, f"The export is {job.state}: there is no file.")
        return FileResponse(job.path, filename=f"export.{job.format}", media_type=MEDIA_TYPES[job.format])
