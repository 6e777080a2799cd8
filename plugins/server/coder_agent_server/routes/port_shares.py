"""Ports that an owner opens to others. Source: coder coderd/workspaceagentportshare.go."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coder_agent.hooks.web import PortShare, SharingLevel

from ..bodies import read_json
from ..deployment import deployment
from ..documents.apps import share_document
from ..problems import Problem, invalid, not_found
from ..scopes import Need
from ..store import apps as store
from .access import path_workspace, signed_in
from .apps import FIRST_FREE_PORT
from .audit import audit
from .names import Name


class ShareBody(BaseModel):
    """Who may open which port. `trusted` is ours: the program there may share this server's origin for its owner."""

    agent_name: Name
    port: int = Field(ge=FIRST_FREE_PORT, le=65535)
    share_level: SharingLevel
    protocol: Literal["http", "https"] = "http"
    trusted: bool = False


class UnshareBody(BaseModel):
    """Which port is its owner's alone again."""

    agent_name: Name
    port: int = Field(ge=0, le=65535)


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    path = "/workspaces/{workspace}/port-share"
    return [
        Route(path, list_shares, methods=["GET"]),
        Route(path, share, methods=["POST"]),
        Route(path, unshare, methods=["DELETE"]),
    ]


async def list_shares(request: Request) -> Response:
    """All shared ports of a workspace."""
    workspace = await path_workspace(request, await signed_in(request, Need.READ))
    return JSONResponse({"shares": [share_document(share) for share in workspace.shares]})


async def share(request: Request) -> Response:
    """Share a port, or change how."""
    principal = await signed_in(request)
    workspace = await path_workspace(request, principal)
    server = deployment(request)
    body = await read_json(request, ShareBody)
    if body.agent_name not in (agent.name for agent in workspace.agents):
        raise invalid("agent_name", f"This workspace has no agent {body.agent_name!r}.")
    wanted = PortShare(body.port, body.share_level, body.protocol, body.trusted)
    async with server.database.write() as session:
        try:
            await store.share_port(session, workspace.id, body.agent_name, wanted)
        except store.TooMany as exc:
            raise Problem(409, f"A workspace shares at most {exc.limit} ports.") from exc
    server.live.workspace_changed(workspace.id)
    audit(request, "write", "port_share", f"{workspace.name}:{body.port} {body.share_level}", 200, principal)
    return JSONResponse({"workspace_id": str(workspace.id), **body.model_dump(mode="json")})


async def unshare(request: Request) -> Response:
    """The port is its owner's alone again."""
    principal = await signed_in(request)
    workspace = await path_workspace(request, principal)
    body = await read_json(request, UnshareBody)
    server = deployment(request)
    async with server.database.write() as session:
        if not await store.unshare_port(session, workspace.id, body.agent_name, body.port):
            raise not_found()
    server.live.workspace_changed(workspace.id)
    audit(request, "delete", "port_share", f"{workspace.name}:{body.port}", 200, principal)
    return Response(status_code=200)
