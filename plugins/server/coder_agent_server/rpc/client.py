"""A user's program: the control connection to one agent."""

from __future__ import annotations

import logging
from uuid import UUID, uuid4, uuid5

import anyio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from coder_agent.coordination.roles import ClientAuth
from coder_agent.hooks.events import WorkspaceConnection
from coder_agent.rpc import RpcConnection

from ..auth import Principal, caller_ip
from ..deployment import Deployment, deployment
from ..live.observatory import ClientFacts
from ..problems import Problem
from ..resume import InvalidResumeToken
from ..routes.access import path_agent, signed_in
from ..scopes import Need
from ..store.schema import Agent
from .sockets import WebSocketStream, refuse
from .tailnet import TailnetService
from .versions import requested_version

logger = logging.getLogger("coder_agent.server")

DEFAULT_VERSION = "1.0"
"""What a client means that names no version; too old for us."""

MAX_PROGRAM = 120
"""Characters of a client's User-Agent that are kept for the dashboard."""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [WebSocketRoute("/workspaceagents/{agent}/coordinate", coordinate)]


async def coordinate(socket: WebSocket) -> None:
    """Let a user's program meet one agent. All refusals come before the handshake, as error documents."""
    server = deployment(socket)
    try:
        principal = await signed_in(socket, Need.CONNECT)
        agent = await path_agent(socket, principal)
        requested_version(socket, DEFAULT_VERSION)
        peer_id = resumed_peer(server, socket.query_params.get("resume_token", "")) or uuid4()
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    await _serve(server, socket, principal, agent, peer_id)


def resumed_peer(server: Deployment, token: str) -> UUID | None:
    """The peer id that a resume token names. Raises Problem 401 with the field on which clients drop the token."""
    if not token:
        return None
    try:
        return server.resume.verify(token, server.clock())
    except InvalidResumeToken as exc:
        raise Problem(
            401,
            "Workspace agent coordination resume token is invalid.",
            detail=str(exc),
            validations=[("resume_token", "invalid resume token")],
        ) from exc


async def _serve(server: Deployment, socket: WebSocket, principal: Principal, agent: Agent, peer_id: UUID) -> None:
    stream = WebSocketStream(socket)
    service = TailnetService(server, peer_id, ClientAuth(agent.id), f"client of {principal.user.username}")
    with anyio.CancelScope() as scope:

        def close(reason: str) -> None:
            stream.explain(reason, 1001)
            scope.cancel()

        forget = server.clients.add(agent.id, close)
        unwatch = server.revocations.watch(principal.key_id, close)
        facts = _facts(server, socket, principal, agent, peer_id)
        server.live.client_came(facts)
        server.emit(_event(server, agent, facts, opened=True))
        try:
            async with RpcConnection(stream, client=False) as connection:
                await connection.serve(service.handlers())
        finally:
            forget()
            unwatch()
            server.emit(_event(server, agent, facts, opened=False))
            server.live.client_left(facts)


def _event(server: Deployment, agent: Agent, facts: ClientFacts, *, opened: bool) -> WorkspaceConnection:
    """For the connection log. A peer that comes back with its resume token is a new connection all the same. The bytes
    are those that the agent told of last, which it does every ten seconds while packets flow."""
    report = None if opened else server.paths.newest(agent.id)
    peers = () if report is None else report.peers
    told = next((peer for peer in peers if peer["peer_id"] == str(facts.peer_id)), {})
    return WorkspaceConnection(
        id=uuid5(facts.peer_id, facts.since.isoformat()),
        opened=opened,
        kind="tunnel",
        workspace_id=agent.workspace_id,
        agent_name=agent.name,
        user_id=facts.user_id,
        ip=facts.address,
        user_agent=facts.program,
        rx_bytes=told.get("rx_bytes"),
        tx_bytes=told.get("tx_bytes"),
    )


def _facts(server: Deployment, socket: WebSocket, principal: Principal, agent: Agent, peer_id: UUID) -> ClientFacts:
    return ClientFacts(
        peer_id=peer_id,
        agent_id=agent.id,
        user_id=principal.user.id,
        username=principal.user.username,
        address=caller_ip(socket),
        program=socket.headers.get("user-agent", "")[:MAX_PROGRAM],
        since=server.clock(),
    )
