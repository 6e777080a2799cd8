"""Agents as users see them: status, logs, how to connect. Also what an agent asks over plain HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

import anyio
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..auth import agent_of, presented_token
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents.agents import agent_document, log_document
from ..documents.deployment import connection_document
from ..listening_ports import listening_ports
from ..problems import Problem, invalid
from ..rpc.sockets import refuse
from ..scopes import Need
from ..store import agents as store
from ..store.schema import AgentLog
from .access import path_agent, signed_in
from .audit import audit
from .event_stream import PING_INTERVAL, EventStream, silence
from .paging import MAX_PAGE

LOG_POLL_SECONDS = 0.5
"""How often a followed log is looked at."""
STILL_STARTING = ("created", "starting")


class NoBody(BaseModel):
    """A request that says nothing."""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/workspaceagents."""
    return [
        Route("/workspaceagents/connection", generic_connection, methods=["GET"]),
        Route("/workspaceagents/me/reinit", reinit, methods=["GET"]),
        Route("/workspaceagents/{agent}", get_agent, methods=["GET"]),
        Route("/workspaceagents/{agent}/connection", agent_connection, methods=["GET"]),
        Route("/workspaceagents/{agent}/token", regenerate_token, methods=["POST"]),
        Route("/workspaceagents/{agent}/logs", get_logs, methods=["GET"]),
        WebSocketRoute("/workspaceagents/{agent}/logs", follow_logs),
        Route("/workspaceagents/{agent}/listening-ports", get_listening_ports, methods=["GET"]),
        Route("/workspaceagents/{agent}/containers", containers, methods=["GET"]),
        Route("/workspaceagents/{agent}/watch-metadata", watch_metadata, methods=["GET"]),
    ]


async def get_agent(request: Request) -> Response:
    """The agent document; clients poll it while they wait."""
    agent = await path_agent(request, await signed_in(request, Need.READ))
    return JSONResponse(agent_document(agent, agent.workspace.resource_id, deployment(request).view()))


async def agent_connection(request: Request) -> Response:
    """What a client needs before it dials an agent."""
    agent = await path_agent(request, await signed_in(request, Need.CONNECT))
    return JSONResponse(connection_document(deployment(request), agent.workspace))


async def generic_connection(request: Request) -> Response:
    """The same without an agent, for netcheck and ping."""
    await signed_in(request, Need.CONNECT)
    return JSONResponse(connection_document(deployment(request)))


async def regenerate_token(request: Request) -> Response:
    """A new token for an agent, shown this once. Whoever uses the old one is disconnected."""
    principal = await signed_in(request)
    agent = await path_agent(request, principal)
    await read_json(request, NoBody)
    server = deployment(request)
    async with server.database.write() as session:
        token = await store.replace_token(session, agent.id, server.clock())
    server.presence.close(agent.id, "the token of this agent was replaced")
    label = f"{agent.workspace.owner.username}/{agent.workspace.name}.{agent.name}"
    audit(request, "write", "workspace_agent", f"{label} token", 201, principal)
    return JSONResponse({"agent_id": str(agent.id), "agent_name": agent.name, "token": str(token)}, 201)


async def get_logs(request: Request) -> Response:
    """Start-up log lines after a given id."""
    agent = await path_agent(request, await signed_in(request, Need.READ))
    after = _after(request.query_params.get("after", ""))
    logs = await _logs_after(deployment(request), agent.id, after)
    if request.query_params.get("format") == "text":
        return Response("".join(f"{line.output}\n" for line in logs), media_type="text/plain")
    return JSONResponse([log_document(line) for line in logs])


async def follow_logs(socket: WebSocket) -> None:
    """Log lines as they come, each message a JSON array. Ends when the agent has started and all was sent."""
    try:
        agent = await path_agent(socket, await signed_in(socket, Need.READ))
        after = _after(socket.query_params.get("after", ""))
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_until_closed, socket, tasks.cancel_scope)
        await _send_logs(socket, deployment(socket), agent.id, after)
        tasks.cancel_scope.cancel()


async def _send_logs(socket: WebSocket, server: Deployment, agent_id: UUID, after: int) -> None:
    while True:
        async with server.database.read() as session:
            agent = await store.find_agent(session, agent_id)
            logs = await store.logs_after(session, agent_id, after)
        if logs:
            after = logs[-1].id
            try:
                await socket.send_text(json.dumps([log_document(line) for line in logs]))
            except (WebSocketDisconnect, RuntimeError):
                return
        elif agent is None or agent.lifecycle_state not in STILL_STARTING:
            await socket.close()
            return
        with anyio.move_on_after(LOG_POLL_SECONDS):
            await server.stopping.wait()
            await socket.close(1001)
            return


async def _until_closed(socket: WebSocket, scope: anyio.CancelScope) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


async def _logs_after(server: Deployment, agent_id: UUID, after: int) -> Sequence[AgentLog]:
    async with server.database.read() as session:
        return await store.logs_after(session, agent_id, after)


def _after(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and (digits.isdigit() or not text) and len(digits) < 11 and int(digits or 0) < MAX_PAGE):
        raise invalid("after", "This must be a log id.")
    return int(text or 0)


async def get_listening_ports(request: Request) -> Response:
    """Ports that programs in the workspace listen on, as its agent says; none while it is not connected."""
    agent = await path_agent(request, await signed_in(request, Need.READ))
    server = deployment(request)
    if server.presence.last_seen(agent.id) is None:
        return JSONResponse({"ports": []})
    urls = [app.url for app in agent.apps if not app.external]
    return JSONResponse(await listening_ports(server.tailnet, agent.id, urls))


async def containers(request: Request) -> Response:
    """Dev containers: none are managed here."""
    await path_agent(request, await signed_in(request, Need.READ))
    return JSONResponse({"containers": [], "devcontainers": []})


async def watch_metadata(request: Request) -> Response:
    """Metadata of an agent as events; manifests ask for none, so there is never any."""
    await path_agent(request, await signed_in(request, Need.READ))
    return EventStream(silence(), poll_seconds=PING_INTERVAL, stopping=deployment(request).stopping)


async def reinit(request: Request) -> Response:
    """An agent waits here to be told to start afresh, which never happens; without this stream it logs an error every
    ten seconds."""
    await agent_of(deployment(request).database, presented_token(request))
    return EventStream(silence(), poll_seconds=PING_INTERVAL, stopping=deployment(request).stopping)
