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
    effective = deployment(request).options
    durations = {
        "health_check_refresh": effective.health_refresh,
        "health_check_threshold_database": effective.health_database,
    }
    options: list[Document] = []
    for key, field in ServerSettings.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        row = rows.get(key)
        default = field.get_default(call_default_factory=True)
        value = row.value if row is not None else default
        options.append(
            {
                "name": key.replace("_", " ").title(),
                "description": field.description or "",
                "flag": key.replace("_", "-"),
                "env": str(extra.get("env", "")),
                "yaml": key,
                "default": _text(default),
                # Stock clients decode it by its type; durations are nanoseconds, as Go has them.
                "value": int(durations[key] * 1e9) if key in durations else value,
                "value_source": row.origin.kind if row is not None else "default",
            }
        )
    values = {key: row.value for key, row in rows.items()}
    return JSONResponse({"config": values, "options": options})


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
