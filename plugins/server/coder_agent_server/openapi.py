"""The OpenAPI 3.1 document of the API, made from the routes themselves: it cannot be out of date.

Paths and methods are the router's, summaries the handlers' docstrings, request bodies the pydantic models that a
handler (or a function of its module that it calls) names. Replies are JSON; errors have one shape everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from .documents import Document

OPENAPI = "3.1.0"
DEPTH = 3
"""Calls within a handler's module that are followed to find its body."""
NO_BODY = ("GET", "HEAD")
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_UUIDS = frozenset({"workspace", "agent", "build", "version"})
_QUERIES: dict[str, tuple[str, ...]] = {
    "/users": ("q", "limit", "offset"),
    "/workspaces": ("q", "limit", "offset"),
    "/connectionlog": ("q", "limit", "offset"),
    "/users/{user}/workspace/{name}": ("include_deleted",),
    "/users/{user}/keys/tokens": ("include_all",),
    "/workspaceagents/{agent}/logs": ("after", "format"),
    "/debug/health": ("force",),
}
PAGES = ("/debug/coordinator", "/debug/tailnet")
"""HTML, unless JSON is asked for."""
STREAMS = ("/watch", "/reinit", "/watch-metadata", "/live", "/events")
"""Ends of paths whose reply is a stream of events, which never ends."""


def openapi_document(routes: Sequence[BaseRoute], version: str, server_url: str) -> Document:
    """The whole document for routes under /api/v2."""
    http = [route for route in routes if isinstance(route, Route)]
    bodies = {route.endpoint: body for route in http if (body := body_of(route.endpoint)) is not None}
    refs, definitions = models_json_schema(
        sorted({(model, "validation") for model in bodies.values()}, key=lambda pair: pair[0].__name__),
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in http:
        path = _PARAMETER.sub(r"{\1}", route.path)
        model = bodies.get(route.endpoint)
        schema = None if model is None else refs[(model, "validation")]
        for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
            paths.setdefault(path, {})[method.lower()] = _operation(route, path, method, schema)
    schemas = definitions.get("$defs", {})
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "coder server",
            "version": version,
            "description": "Coder's API, as far as networking needs.",
        },
        "servers": [{"url": f"{server_url}/api/v2"}],
        "security": [{"session": []}, {"cookie": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {**schemas, "Error": _ERROR},
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "header", "name": "Coder-Session-Token"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "coder_session_token"},
            },
        },
    }


_ERROR: Document = {
    "type": "object",
    "required": ["message"],
    "properties": {
        "message": {"type": "string"},
        "detail": {"type": "string"},
        "validations": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}


def _operation(route: Route, path: str, method: str, body: Document | None) -> Document:
    summary = (route.endpoint.__doc__ or "").strip().partition("\n")[0]
    stream = path.endswith(STREAMS)
    success: Document = {"text/event-stream": {}} if stream else {"application/json": {}, "text/plain": {}}
    if path in PAGES:
        success["text/html"] = {}
    operation: Document = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": summary,
        "tags": [path.split("/")[1] or "root"],
        "parameters": [
            *(_path_parameter(name) for name in _PARAMETER.findall(route.path)),
            *({"name": name, "in": "query", "schema": {"type": "string"}} for name in _QUERIES.get(path, ())),
        ],
        "responses": {
            "2XX": {"description": "Done.", "content": success},
            "3XX": {"description": "Nothing new."},
            "default": {
                "description": "What was wrong.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if body is not None and method not in NO_BODY:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _path_parameter(name: str) -> Document:
    schema = {"type": "string", "format": "uuid"} if name in _UUIDS else {"type": "string", "minLength": 1}
    return {"name": name, "in": "path", "required": True, "schema": schema}


# ---------------------------------------------------------------- bodies


def body_of(handler: object) -> type[BaseModel] | None:
    """The model that a handler reads."""
    return next(_models(handler, DEPTH), None) if isinstance(handler, FunctionType) else None


def _models(function: FunctionType, depth: int) -> Iterator[type[BaseModel]]:
    """Models named by a function that reads a body; else by those of its module that it calls."""
    names = [function.__globals__.get(name) for name in function.__code__.co_names]
    models = [name for name in names if isinstance(name, type) and issubclass(name, BaseModel)]
    if "read_json" in function.__code__.co_names:
        yield from models
    if depth:
        for called in names:
            if isinstance(called, FunctionType) and called.__module__ == function.__module__ and called is not function:
                yield from _models(called, depth - 1)
