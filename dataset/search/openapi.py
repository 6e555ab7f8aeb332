"""The OpenAPI 3.1 description of our own API, at /openapi.json."""

from typing import Any

from dataset.index.collapse import COLLAPSE_AT
from dataset.search.engine import MODALITIES
from dataset.search.export_files import ExportFormat
from dataset.search.exports import MOST_ROWS
from dataset.search.questions import DEFAULT_RESULTS, MOST_RESULTS
from dataset.search.terms import MOST_TERMS

Schema = dict[str, Any]

_TERM: Schema = {
    "type": "object",
    "description": "A weight, and exactly one of the other fields.",
    "properties": {
        "text": {"type": "string"},
        "picture": {"type": "string", "description": "A picture in base64, or as a data URL."},
        "url": {"type": "string", "description": "A picture's URL; only where /api/indexes says `urls`."},
        "id": {"type": "integer", "description": "A row of the index."},
        "vector": {"type": "array", "items": {"type": "number"}},
        "weight": {"type": "number", "default": 1, "minimum": -100, "maximum": 100},
    },
    "additionalProperties": False,
}
_TERMS: Schema = {"type": "array", "items": _TERM, "minItems": 1, "maxItems": MOST_TERMS}
_QUESTION: dict[str, Schema] = {
    "index": {"type": "string", "description": "Default: the first."},
    "terms": _TERMS,
    "modality": {"enum": [*MODALITIES], "default": "image", "description": "The vectors that are searched."},
    "filters": {
        "type": "string",
        "description": "Facets that rows must have, such as lang=de|fr,min-side=512,!aspect=tall: /api/facets.",
    },
    "safe": {"type": "boolean", "description": "Default: the server's mode."},
    "collapse": {"type": "boolean", "default": False, "description": "Leave out near-duplicates of better results."},
    "at_least": {"type": "number", "minimum": -1, "maximum": 1, "description": "The smallest similarity."},
}
_COLUMNS: Schema = {"type": "array", "items": {"type": "string"}}
_PAGE: dict[str, Schema] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS, "default": DEFAULT_RESULTS},
    "cursor": {"type": "string", "description": "From the page before; the other fields stay the same."},
    "columns": _COLUMNS,
    "embeddings": {"type": "boolean", "default": False, "description": "Return each result's vector."},
    "count": {"type": "boolean", "default": False, "description": "Estimate how many rows there are."},
}
_COUNT: Schema = {
    "type": ["object", "null"],
    "properties": {name: {"type": "integer"} for name in ("rows", "low", "high")},
    "description": "`low` and `high` bound the estimate with a confidence of 95 %.",
}
_GROUP_SIZE: Schema = {
    "type": "integer",
    "description": "Rows that are near-duplicates of each other, with this one; where the index `has_groups`.",
}
_RESULT: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "similarity": {"type": "number"},
        "row": {"type": "object"},
        "near_duplicates": {
            "type": "integer",
            "description": "With `collapse`: how many other rows this one stands for. Exact where the index "
            "`has_groups`; otherwise of those that the search has met.",
        },
        "group_size": _GROUP_SIZE,
        "embedding": {"type": "array", "items": {"type": "number"}},
    },
}
_EXPORT: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["waiting", "running", "done", "failed", "cancelled"]},
        "rows": {"type": "integer"},
        "total": {"type": ["integer", "null"]},
        "bytes": {"type": "integer"},
        "message": {"type": "string"},
    },
}
_ERROR: Schema = {
    "type": "object",
    "properties": {"message": {"type": "string"}, "field": {"type": "string"}},
    "required": ["message"],
}
_INDEX: Schema = {"name": "index", "in": "query", "schema": {"type": "string"}}
_ID: Schema = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
_NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_MODALITY: Schema = {"name": "modality", "in": "query", "schema": {"enum": [*MODALITIES], "default": "image"}}


def description(*, operator: bool, reports: bool, trace: bool) -> dict[str, Any]:
    """Return the description of what this server offers."""
    paths: dict[str, dict[str, Any]] = {
        "/api/indexes": {"get": _operation("What can be searched", {"type": "object"})},
        "/api/search": {
            "post": _operation(
                "Search",
                _object(
                    {
                        "index": {"type": "string"},
                        "generation": {"type": "string"},
                        "results": {"type": "array", "items": _RESULT},
                        "cursor": {"type": ["string", "null"]},
                        "count": _COUNT,
                    }
                ),
                body=_object(_QUESTION | _PAGE, ["terms"]),
            )
        },
        "/api/count": {"post": _operation("Estimate how many rows there are", _COUNT, body=_object(_QUESTION))},
        "/api/embed": {
            "post": _operation(
                "The vector of terms",
                _object({"vector": {"type": "array", "items": {"type": "number"}}, "model": {"type": "string"}}),
                body=_object({name: _QUESTION[name] for name in ("index", "terms", "modality")}, ["terms"]),
            )
        },
        "/api/facets": {"get": _operation("What rows can be filtered by", {"type": "object"}, parameters=[_INDEX])},
        "/api/rows/{id}": {"get": _operation("All columns of a row", {"type": "object"}, parameters=[_ID, _INDEX])},
        "/api/rows/{id}/embedding": {
            "get": _operation("A row's vector as .npy", None, parameters=[_ID, _INDEX, _MODALITY])
        },
        "/api/rows/{id}/near-duplicates": {
            "post": _operation(
                "The near-duplicates of a row, by their cosine with it",
                _object(
                    {
                        "index": {"type": "string"},
                        "id": {"type": "integer"},
                        "group_size": _GROUP_SIZE,
                        "exact": {
                            "type": "boolean",
                            "description": "False where the index has no groups: then rows with a cosine of "
                            f"{COLLAPSE_AT} or more are searched for, and group_size counts those that were found.",
                        },
                        "results": {"type": "array", "items": _RESULT},
                    }
                ),
                body=_object(
                    {name: _QUESTION[name] for name in ("index", "modality", "filters", "safe")}
                    | {name: _PAGE[name] for name in ("limit", "columns")}
                ),
                parameters=[_ID],
            )
        },
        "/api/exports": {
            "post": _operation(
                "Export everything above a threshold, or named rows",
                _EXPORT,
                body=_object(
                    _QUESTION
                    | {
                        "ids": {
                            "type": "array",
                            "items": {"type": "integer"},
                            "description": "Export these rows; then without terms, filters and at_least.",
                        },
                        "columns": _COLUMNS,
                        "limit": {"type": "integer", "minimum": 1, "maximum": MOST_ROWS},
                        "format": {"enum": [*ExportFormat], "default": ExportFormat.PARQUET},
                    },
                ),
                status="202",
            )
        },
        "/api/exports/{name}": {
            "get": _operation("The progress of an export", _EXPORT, parameters=[_NAME]),
            "delete": _operation("Cancel an export, and delete its file", _EXPORT, parameters=[_NAME]),
        },
        "/api/exports/{name}/file": {"get": _operation("The file of an export", None, parameters=[_NAME])},
    }
    if reports:
        report = _object(
            {
                "index": {"type": "string"},
                "id": {"type": "integer"},
                "reason": {"type": "string"},
                "contact": {"type": "string"},
            },
            ["id", "reason"],
        )
        made = _object({"request": {"type": "string"}})
        paths["/api/reports"] = {"post": _operation("Ask for a row's removal", made, body=report, status="202")}
    if operator and trace:
        traced = _operation("Where a row came from", {"type": "object"}, parameters=[_ID, _INDEX])
        paths["/api/operator/trace/{id}"] = {"get": _secured(traced)}
    if operator and reports:
        paths["/api/operator/reports"] = {"get": _secured(_operation("Pending reports", {"type": "object"}))}
        decision = _object({"accept": {"type": "boolean"}, "note": {"type": "string"}}, ["accept"])
        decided = _operation("Decide on a report", {"type": "object"}, body=decision, parameters=[_NAME])
        paths["/api/operator/reports/{name}"] = {"post": _secured(decided)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Shoal search", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
    }


def _object(properties: dict[str, Schema], required: list[str] | None = None) -> Schema:
    return {"type": "object", "properties": properties, "required": required or [], "additionalProperties": False}


def _operation(
    summary: str,
    answer: Schema | None,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
    status: str = "200",
) -> dict[str, Any]:
    content = {"application/json": {"schema": answer}} if answer else {"application/octet-stream": {}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found: dict[str, Any] = {
        "summary": summary,
        "responses": {
            status: {"description": summary, "content": content},
            "default": {"description": "An error, with a sentence", "content": error},
        },
    }
    if body:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if parameters:
        found["parameters"] = parameters
    return found


def _secured(operation: dict[str, Any]) -> dict[str, Any]:
    return operation | {"security": [{"operator": []}]}
