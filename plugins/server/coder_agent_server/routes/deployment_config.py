"""``/deployment/config``: how this server is set up, for its owners. Secrets are starred out.

Source: coder codersdk/deployment.go (DeploymentConfig, SerpentOption), coderd/deployment.go.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..deployment import deployment
from ..documents import Document
from ..settings import ServerSettings
from .access import owner_only

SECTION = "server"


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [Route("/deployment/config", config, methods=["GET"])]


async def config(request: Request) -> Response:
    """Every setting of the server with its value and where that came from."""
    await owner_only(request)
    rows = {row.key: row for row in deployment(request).settings.rows() if row.section in (SECTION, "plugins.server")}
    options: list[Document] = []
    for key, field in ServerSettings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        row = rows.get(key)
        options.append(
            {
                "name": key.replace("_", " ").title(),
                "description": field.description or "",
                "flag": key.replace("_", "-"),
                "env": str(extra.get("env", "")),
                "yaml": key,
                "default": _text(field.get_default(call_default_factory=True)),
                "value": row.value if row is not None else None,  # stock clients decode it by its type
                "value_source": row.origin.kind if row is not None else "default",
            }
        )
    values = {key: row.value for key, row in rows.items()}
    return JSONResponse({"config": values, "options": options})


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
