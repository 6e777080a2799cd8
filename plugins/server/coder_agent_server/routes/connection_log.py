"""The connection log: owners see all of it, others that of their own workspaces. Source: coder
codersdk/connectionlog.go, enterprise/coderd/connectionlog.go.
"""

from __future__ import annotations

import shlex
from uuid import UUID

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..auth import Principal
from ..deployment import Deployment, deployment
from ..documents import Document, maybe_moment, moment
from ..problems import invalid
from ..scopes import Need
from ..store import connections as store
from ..store.schema import ConnectionLog
from .access import signed_in
from .paging import page_of

MAX_QUERY_LENGTH = 1024
WEB_KINDS = ("workspace_app", "port_forwarding")


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [Route("/connectionlog", connection_log, methods=["GET"])]


async def connection_log(request: Request) -> Response:
    """A page of it, newest first. ``q``: workspace_id, workspace_owner, username, type, status (ongoing, completed)."""
    principal = await signed_in(request, Need.READ)
    server = deployment(request)
    limit, offset = page_of(request)
    which = parse_query(request.query_params.get("q", ""), principal)
    async with server.database.read() as session:
        rows, count = await store.list_connections(session, which, limit or 100, offset)
    return JSONResponse({"connection_logs": [document(server, row) for row in rows], "count": count})


def parse_query(text: str, principal: Principal) -> store.ConnectionFilter:
    """Read a search. Raises Problem 400."""
    try:
        words = shlex.split(text[:MAX_QUERY_LENGTH])
    except ValueError:
        raise invalid("q", "A quotation mark is not closed.") from None
    found: dict[str, str] = {}
    for word in words:
        key, colon, value = word.partition(":")
        if not colon or key not in ("workspace_id", "workspace_owner", "username", "type", "status"):
            raise invalid("q", f"{word[:32]!r} is not something to search for.")
        found[key] = principal.user.username if value == "me" else value
    if found.get("status") not in (None, "ongoing", "completed"):
        raise invalid("q", "status is ongoing or completed.")
    try:
        workspace_id = UUID(found["workspace_id"]) if "workspace_id" in found else None
    except ValueError:
        raise invalid("q", "workspace_id must be a UUID.") from None
    return store.ConnectionFilter(
        owner_id=principal.scope,
        workspace_id=workspace_id,
        owner_name=found.get("workspace_owner"),
        username=found.get("username"),
        kind=found.get("type"),
        open=None if "status" not in found else found["status"] == "ongoing",
    )


def document(server: Deployment, row: ConnectionLog) -> Document:
    """One connection. Ours, not Coder's: what stands for every kind behind `user`, and the bytes."""
    is_web = row.kind in WEB_KINDS
    user = None if row.user_id is None else {"id": str(row.user_id), "username": row.username}
    return {
        "id": str(row.id),
        "connect_time": moment(row.connected_at),
        "organization": {"id": str(server.facts.organization_id), "name": "default", "display_name": "Default"},
        "workspace_owner_id": str(row.workspace_owner_id),
        "workspace_owner_username": row.workspace_owner_name,
        "workspace_id": str(row.workspace_id),
        "workspace_name": row.workspace_name,
        "agent_name": row.agent_name,
        "ip": row.ip or None,
        "type": row.kind,
        "user": user,
        "disconnect_time": maybe_moment(row.disconnected_at),
        "disconnect_reason": row.reason,
        "status_code": row.status_code,
        "rx_bytes": row.rx_bytes,
        "tx_bytes": row.tx_bytes,
        "web_info": {
            "user_agent": row.user_agent,
            "user": user,
            "slug_or_port": row.slug_or_port,
            "status_code": row.status_code,
        }
        if is_web
        else None,
        "ssh_info": None
        if is_web
        else {
            "connection_id": str(row.id),
            "disconnect_time": maybe_moment(row.disconnected_at),
            "disconnect_reason": row.reason,
            "exit_code": row.status_code,
        },
    }
