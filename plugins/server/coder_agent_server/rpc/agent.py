"""A workspace's agent: its control connection, and what it reports over it."""

from __future__ import annotations

import logging
from functools import partial
from uuid import UUID

import anyio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from coder_agent.coordination.roles import AgentAuth
from coder_agent.rpc import RpcConnection, YamuxSettings

from ..auth import agent_of, presented_token
from ..deployment import Deployment, deployment
from ..problems import Problem
from ..store import agents as store
from ..store.schema import Agent
from .agent_service import AgentService
from .sockets import WebSocketStream, refuse
from .tailnet import TailnetService
from .versions import requested_version

logger = logging.getLogger("coder_agent.server")

DEFAULT_VERSION = "2.0"
"""What an agent means that names no version."""
PING_SECONDS = 15.0
"""An agent is pinged this often, and lost when it is silent for as long again: 30 s in all.
Source: coder coderd/workspaceagentsrpc.go."""
AGENT_ROLE = "agent"


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [WebSocketRoute("/workspaceagents/me/rpc", rpc)]


async def rpc(socket: WebSocket) -> None:
    """Both services of an agent, Agent and Tailnet, over one WebSocket."""
    server = deployment(socket)
    try:
        agent = await agent_of(server.database, presented_token(socket))
        version = requested_version(socket, DEFAULT_VERSION)
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    # Other roles (log shippers) speak for the agent, but their presence says nothing about it.
    counts = socket.query_params.get("role", AGENT_ROLE) == AGENT_ROLE
    await AgentConnection(server, agent, WebSocketStream(socket)).run(version, counts=counts)


class AgentConnection:
    """One control connection of an agent (`presence.AgentSession`)."""

    def __init__(self, server: Deployment, agent: Agent, stream: WebSocketStream) -> None:
        self._server = server
        self._agent = agent
        self._stream = stream
        self._scope = anyio.CancelScope()

    def close(self, reason: str) -> None:
        """End the connection; `reason` goes into the close frame."""
        self._stream.explain(reason, 1001)  # going away
        self._scope.cancel()

    async def run(self, version: str, *, counts: bool) -> None:
        """Serve until either side ends it."""
        with self._scope:
            if not counts:
                await self._serve()
                return
            agent_id = self._agent.id
            self._server.presence.begin(agent_id, self)
            try:
                if await self._mark_connected(version):
                    logger.info("agent %s connected", self._label)
                    self._server.live.agent_connected(agent_id)
                    await self._serve()
                else:  # between the token's check and here
                    self._stream.explain("this agent was removed, or its token replaced", 1001)
                    await self._stream.aclose()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._left(agent_id)

    async def _serve(self) -> None:
        agent_id = self._agent.id
        tailnet = TailnetService(self._server, agent_id, AgentAuth(agent_id), f"agent {self._label}")
        service = AgentService(self._server, self._agent)
        settings = YamuxSettings(ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS)
        async with RpcConnection(
            self._stream, client=False, settings=settings, on_alive=partial(self._alive, agent_id)
        ) as connection:
            connection.ping()  # the first latency for the dashboard; the next comes with the keepalive
            await connection.serve({**service.handlers(), **tailnet.handlers()})

    def _alive(self, agent_id: UUID, rtt: float) -> None:
        self._server.presence.seen(agent_id)
        self._server.live.agent_heard(agent_id, rtt)

    async def _mark_connected(self, version: str) -> bool:
        async with self._server.database.write() as session:
            now = self._server.clock()
            return await store.mark_connected(session, self._agent.id, self._agent.token_hash, version, now)

    async def _left(self, agent_id: UUID) -> None:
        last_seen = self._server.presence.end(agent_id, self)
        if last_seen is None:
            return  # a newer connection is in charge
        logger.info("agent %s disconnected", self._label)
        self._server.live.agent_left(agent_id)
        async with self._server.database.write() as session:
            await store.mark_disconnected(session, agent_id, last_seen, self._server.clock())

    @property
    def _label(self) -> str:
        workspace = self._agent.workspace
        return f"{workspace.owner.username}/{workspace.name}.{self._agent.name}"
