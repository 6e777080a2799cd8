"""Workspaces: list, show, register, delete."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents import Document
from ..documents.workspaces import build_document, template_version_document, workspace_document
from ..problems import Problem, not_found
from ..scopes import Need
from ..store import workspaces as store
from ..store.accounts import NameTaken
from ..store.apps import MAX_APPS, NewApp
from ..store.schema import User, Workspace
from .access import path_user, path_uuid, path_workspace, signed_in
from .apps import AppBody, refuse_unknown_schemes
from .audit import audit
from .event_stream import EventStream
from .names import Name
from .paging import page_of
from .queries import parse_query

logger = logging.getLogger("coder_agent.server")

USAGE_APPS = ("vscode", "jetbrains", "reconnecting-pty", "ssh")
WATCH_INTERVAL = 2.0
"""Seconds between two looks at a watched workspace; only changes are sent."""

Word = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]


class NewWorkspaceBody(BaseModel):
    """What it takes to register a workspace. The agent reports the rest when it comes."""

    name: Name
    agent_name: Name = "main"
    architecture: Word = "amd64"
    operating_system: Word = "linux"
    directory: Annotated[str, StringConstraints(max_length=4096)] = ""
    apps: list[AppBody] = Field(default_factory=list, max_length=MAX_APPS)


class UsageBody(BaseModel):
    """Who used it: both fields or none."""

    agent_id: UUID | None = None
    app_name: str = ""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [
        Route("/workspaces", list_workspaces, methods=["GET"]),
        Route("/users/{user}/workspaces", create_workspace, methods=["POST"]),
        Route("/organizations/{organization}/members/{user}/workspaces", create_workspace, methods=["POST"]),
        Route("/users/{user}/workspace/{name}", get_by_name, methods=["GET"]),
        Route("/workspaces/{workspace}", get_workspace, methods=["GET"]),
        Route("/workspaces/{workspace}", delete_workspace, methods=["DELETE"]),
        Route("/workspaces/{workspace}/watch", watch, methods=["GET"]),
        Route("/workspaces/{workspace}/usage", usage, methods=["POST"]),
        Route("/workspacebuilds/{build}", get_build, methods=["GET"]),
        Route("/templateversions/{version}", get_template_version, methods=["GET"]),
    ]


async def list_workspaces(request: Request) -> Response:
    """A page of the workspaces that this user may see."""
    principal = await signed_in(request, Need.READ)
    server = deployment(request)
    limit, offset = page_of(request)
    query = parse_query(request.query_params.get("q", ""), principal)
    if query.impossible:
        return JSONResponse({"workspaces": [], "count": 0})
    async with server.database.read() as session:
        found, count = await store.list_workspaces(session, query.filter, limit, offset)
    return JSONResponse({"workspaces": [_document(server, workspace) for workspace in found], "count": count})


async def create_workspace(request: Request) -> Response:
    """Register a workspace. The reply carries the agent's token, this once."""
    principal = await signed_in(request)
    owner = await path_user(request, principal)
    server = deployment(request)
    body = await read_json(request, NewWorkspaceBody)
    new = store.NewAgent(body.agent_name, body.architecture, body.operating_system, body.directory)
    if len({app.slug for app in body.apps}) < len(body.apps):
        raise Problem(400, "Validation failed.", validations=[("apps", "Two apps have the same slug.")])
    refuse_unknown_schemes(server, body.apps)
    workspace, token = await _add(server, owner, body.name, new, [app.value() for app in body.apps])
    server.live.workspace_changed(workspace.id)
    audit(request, "create", "workspace", f"{owner.username}/{workspace.name}", 201, principal)
    server.changes.ring()
    logger.info("workspace %s/%s registered", owner.username, workspace.name)
    agent = workspace.agents[0]
    return JSONResponse(
        {
            **_document(server, workspace),
            "agent_token": str(token),
            "agent_tokens": [{"agent_id": str(agent.id), "agent_name": agent.name, "token": str(token)}],
        },
        201,
    )


async def _add(
    server: Deployment, owner: User, name: str, new: store.NewAgent, apps: Sequence[NewApp]
) -> tuple[Workspace, UUID]:
    async with server.database.write() as session:
        try:
            return await store.add_workspace(session, owner, name, new, server.clock(), apps)
        except NameTaken as exc:
            raise Problem(
                409,
                f"Workspace {name!r} already exists.",
                validations=[("name", "This value is already in use and should be unique.")],
            ) from exc


async def get_by_name(request: Request) -> Response:
    """A workspace by owner and name."""
    principal = await signed_in(request, Need.READ)
    owner = await path_user(request, principal)
    server = deployment(request)
    async with server.database.read() as session:
        found = await store.find_workspace_by_name(session, owner.id, str(request.path_params["name"]))
    if found is None:
        raise not_found()
    return JSONResponse(_document(server, found))


async def get_workspace(request: Request) -> Response:
    """A workspace by id."""
    workspace = await path_workspace(request, await signed_in(request, Need.READ))
    return JSONResponse(_document(deployment(request), workspace))


async def delete_workspace(request: Request) -> Response:
    """Forget a workspace: its token stops working, its agent and everybody connected to it are told."""
    principal = await signed_in(request)
    workspace = await path_workspace(request, principal)
    server = deployment(request)
    async with server.database.write() as session:
        gone = await store.delete_workspace(session, workspace.id)
    for agent_id in gone:
        reason = f"workspace {workspace.owner.username}/{workspace.name} was deleted"
        server.remove_agent(agent_id, reason)
    server.live.workspace_changed(workspace.id)
    audit(request, "delete", "workspace", f"{workspace.owner.username}/{workspace.name}", 204, principal)
    server.changes.ring()
    logger.info("workspace %s/%s deleted", workspace.owner.username, workspace.name)
    return Response(status_code=204)


async def watch(request: Request) -> Response:
    """The workspace as server-sent events: at once, then whenever something about it changed."""
    principal = await signed_in(request, Need.READ)
    workspace = await path_workspace(request, principal)
    server = deployment(request)
    return EventStream(_changes(server, workspace.id), poll_seconds=WATCH_INTERVAL, stopping=server.stopping)


async def _changes(server: Deployment, workspace_id: UUID) -> AsyncIterator[Document | None]:
    """The document whenever it differs from the last one; None otherwise. Ends with the workspace."""
    last: Document | None = None
    while True:
        async with server.database.read() as session:
            workspace = await store.find_workspace(session, workspace_id)
        if workspace is None:
            return
        document = _document(server, workspace)
        shown = _without_heartbeat(document)
        yield document if shown != last else None
        last = shown


def _without_heartbeat(document: Document) -> Document:
    """Without the times that move every few seconds: they alone are no change."""
    build = document["latest_build"]
    resources = [
        {**resource, "agents": [{**agent, "last_connected_at": None, "latency": {}} for agent in resource["agents"]]}
        for resource in build["resources"]
    ]
    return {**document, "last_used_at": None, "latest_build": {**build, "resources": resources}}


async def usage(request: Request) -> Response:
    """Somebody is using the workspace."""
    workspace = await path_workspace(request, await signed_in(request, Need.CONNECT))
    server = deployment(request)
    body = await read_json(request, UsageBody)
    if (body.agent_id is None) != (not body.app_name):
        missing = "agent_id" if body.agent_id is None else "app_name"
        raise Problem(400, "Invalid request", validations=[(missing, "must be set when the other one is")])
    if body.app_name and body.app_name not in USAGE_APPS:
        raise Problem(400, "Invalid request", validations=[("app_name", f"must be one of {', '.join(USAGE_APPS)}")])
    async with server.database.write() as session:
        await store.touch_workspace(session, workspace.id, server.clock())
    return Response(status_code=204)


async def get_build(request: Request) -> Response:
    """The build document of a workspace, by the build's id."""
    principal = await signed_in(request, Need.READ)
    server = deployment(request)
    async with server.database.read() as session:
        workspace = await store.find_workspace_by_build(session, path_uuid(request, "build"))
    if workspace is None or not principal.may_use(workspace.owner_id):
        raise not_found()
    return JSONResponse(build_document(workspace, server.templates, server.view()))


async def get_template_version(request: Request) -> Response:
    """The one template version there is; `coder ssh` reads its warnings."""
    principal = await signed_in(request, Need.READ)
    server = deployment(request)
    if path_uuid(request, "version") != server.templates.version:
        raise not_found()
    return JSONResponse(template_version_document(server.templates, server.facts.organization_id, principal.user))


def _document(server: Deployment, workspace: Workspace) -> Document:
    return workspace_document(workspace, server.templates, server.view())
