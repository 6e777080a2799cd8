"""A user's program for all of its workspaces: ``/tailnet``, with WorkspaceUpdates beside Coordinate.

Source: coder coderd/workspaceagents.go (tailnetRPCConn), coderd/workspaceupdates.go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import anyio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket

from coder_agent.coordination.roles import UserAuth
from coder_agent.protocols.tailnet.proto import tailnet_pb2 as pb
from coder_agent.rpc import RpcConnection, RpcError, RpcStream, streaming

from ..auth import Principal
from ..deployment import Deployment, deployment
from ..problems import Problem
from ..routes.access import signed_in
from ..scopes import Need
from ..store.workspaces import WorkspaceFilter, list_workspaces
from .client import resumed_peer
from .sockets import WebSocketStream, refuse
from .tailnet import SERVICE, TailnetService
from .versions import requested_version

DEFAULT_VERSION = "2.0"
UPDATE_SECONDS = 15.0
"""A look without a reason, beside those when something was registered or deleted."""

Seen = dict[UUID, tuple[str, UUID | None]]
"""Workspaces (name, None) and agents (name, workspace)."""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [WebSocketRoute("/tailnet", tailnet)]


async def tailnet(socket: WebSocket) -> None:
    """Let a user's program meet every agent that the user may reach."""
    server = deployment(socket)
    try:
        principal = await signed_in(socket, Need.CONNECT)
        requested_version(socket, DEFAULT_VERSION)
        peer_id = resumed_peer(server, socket.query_params.get("resume_token", "")) or uuid4()
    except Problem as problem:
        await refuse(socket, problem)
        return
    reach = Reach(server, principal)
    await reach.look()
    await socket.accept()
    stream = WebSocketStream(socket)
    with anyio.CancelScope() as scope:

        def close(reason: str) -> None:
            stream.explain(reason, 1001)
            scope.cancel()

        forget = server.clients.add(None, close)
        unwatch = server.revocations.watch(principal.key_id, close)
        service = TailnetService(server, peer_id, UserAuth(reach.may), f"client of {principal.user.username}")
        updates = streaming(pb.WorkspaceUpdatesRequest, reach.stream)
        try:
            async with RpcConnection(stream, client=False) as connection, anyio.create_task_group() as tasks:
                tasks.start_soon(reach.follow)
                await connection.serve({**service.handlers(), SERVICE + "WorkspaceUpdates": updates})
                tasks.cancel_scope.cancel()
        finally:
            forget()
            unwatch()


class Reach:
    """What one user may reach, kept up to date while the connection lasts."""

    def __init__(self, server: Deployment, principal: Principal) -> None:
        self._server = server
        self._principal = principal
        self._agents: frozenset[UUID] = frozenset()
        self.workspaces: Seen = {}
        self.agents: Seen = {}

    def may(self, agent_id: UUID) -> bool:
        """May this user open a tunnel to this agent?"""
        return agent_id in self._agents

    async def look(self) -> None:
        """Read it from the store. A tunnel may lead to what `visible to` says, owners' programs to everybody's; updates
        tell of the user's own workspaces only, as the stream is asked for by owner."""
        async with self._server.database.read() as session:
            found, _ = await list_workspaces(session, WorkspaceFilter(self._principal.scope))
        self._agents = frozenset(agent.id for workspace in found for agent in workspace.agents)
        own = [workspace for workspace in found if workspace.owner_id == self._principal.user.id]
        self.workspaces = {workspace.id: (workspace.name, None) for workspace in own}
        self.agents = {a.id: (a.name, workspace.id) for workspace in own for a in workspace.agents}

    async def follow(self) -> None:
        """Look again whenever something was registered or deleted."""
        async for _ in self._server.changes.follow(UPDATE_SECONDS):
            await self.look()

    async def stream(self, stream: RpcStream[pb.WorkspaceUpdatesRequest]) -> None:
        """Everything at once, then what changes; until the peer goes."""
        request = await stream.receive()
        if request.workspace_owner_id != self._principal.user.id.bytes:
            raise RpcError("workspace updates are for one's own workspaces")
        workspaces: Seen = {}
        agents: Seen = {}
        first = True
        async for _ in self._own_changes():
            update = difference(workspaces, self.workspaces, agents, self.agents)
            workspaces, agents = self.workspaces, self.agents
            if first or update.ByteSize():
                await stream.send(update)
            first = False

    async def _own_changes(self) -> AsyncIterator[None]:
        yield
        async for _ in self._server.changes.follow(UPDATE_SECONDS):
            await self.look()
            yield


def difference(old_workspaces: Seen, new_workspaces: Seen, old_agents: Seen, new_agents: Seen) -> pb.WorkspaceUpdate:
    """From one state to the next. Registered workspaces run; there is no other state here."""
    update = pb.WorkspaceUpdate()
    for one, (name, _) in new_workspaces.items():
        if old_workspaces.get(one) != (name, None):
            update.upserted_workspaces.add(id=one.bytes, name=name, status=pb.Workspace.RUNNING)
    for one, (name, workspace) in new_agents.items():
        if old_agents.get(one) != (name, workspace):
            update.upserted_agents.add(id=one.bytes, name=name, workspace_id=workspace.bytes if workspace else b"")
    for one in old_workspaces.keys() - new_workspaces.keys():
        update.deleted_workspaces.add(id=one.bytes, name=old_workspaces[one][0], status=pb.Workspace.DELETED)
    for one in old_agents.keys() - new_agents.keys():
        name, workspace = old_agents[one]
        update.deleted_agents.add(id=one.bytes, name=name, workspace_id=workspace.bytes if workspace else b"")
    return update
