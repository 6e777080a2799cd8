"""The dashboard's feed: one WebSocket per page, which tells what the page shows and then whatever changes. Ours, not
Coder's.

Messages are JSON objects with ``type`` and ``at`` (the server's clock):

* ``state``: everything at first, and again when too much changed at once. ``workspaces`` in the list's order;
* ``rows``: workspaces that changed or appeared; ``gone``: ids of those that are no more, or no more the visitor's;
* ``tick``: nothing changed; a page that hears nothing for 15 s calls the server unreachable.

``?workspace=<id>`` tells everything about one workspace, in ``workspaces`` of length one. ``?network`` tells
``network`` documents and ticks instead.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol
from uuid import UUID

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from coder_agent.hooks.server_tailnet import TunnelPath

from ..auth import Principal
from ..deployment import Deployment, deployment
from ..documents import Document, moment
from ..documents.live import LiveView, workspace_detail, workspace_row
from ..documents.network import day_document, health_sections, regions_table
from ..live.changes import Subscription
from ..problems import Problem, not_found
from ..rpc.sockets import refuse
from ..scopes import Need
from ..store import health as health_store
from ..store import workspaces as store
from ..store.connections import newest_of
from ..store.schema import Workspace
from .access import maybe_signed_in, path_workspace, signed_in

TICK_SECONDS = 5.0
"""Between two messages at most; measurements that cannot be missed are sent with it."""
GATHER_SECONDS = 0.1
"""Changes come in groups: an agent that connects also publishes its node and reports its paths."""
CHECK_SECONDS = 60.0
"""A visitor's session is looked at again so often: who signed out or was deleted sees no more."""
SEND_SECONDS = 20.0
"""A visitor who does not read for so long is cut off; his page dials again."""
SIGNED_OUT_CODE = 4401
"""The close code that sends a page to the sign-in form: 401 in the range for private use (RFC 6455 §7.4.2)."""
MAX_VISITORS = 1_000
"""Feeds at a time."""
SHOWN_CONNECTIONS = 20
"""Lines of the connection log on a workspace's page; `coder connections` shows more."""
MAX_ROWS = 500
"""Workspaces that a page shows; `coder list` shows all."""


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [
        WebSocketRoute("/dashboard/watch", watch),
        Route("/dashboard/workspaces", get_workspaces, methods=["GET"]),
        Route("/workspaces/{workspace}/live", get_workspace, methods=["GET"]),
        Route("/dashboard/network", get_network, methods=["GET"]),
    ]


async def get_workspaces(request: Request) -> Response:
    """What the feed of the list begins with."""
    return JSONResponse(await list_document(deployment(request), await signed_in(request, Need.READ)))


async def get_workspace(request: Request) -> Response:
    """What the feed of a workspace page begins with."""
    principal = await signed_in(request, Need.READ)
    workspace = await path_workspace(request, principal)
    return JSONResponse(await detail_document(deployment(request), principal, workspace))


async def get_network(request: Request) -> Response:
    """Relays, the day's share of direct connections, and for owners the last health report."""
    return JSONResponse(await network_view(deployment(request), await signed_in(request, Need.READ)))


async def list_document(server: Deployment, principal: Principal) -> Document:
    """The list as this user may see it."""
    async with server.database.read() as session:
        found, count = await store.list_workspaces(session, store.WorkspaceFilter(principal.scope), MAX_ROWS)
    view = live_view(server, principal)
    return {
        "type": "state",
        "at": moment(server.clock()),
        "total": count,
        "workspaces": [workspace_row(workspace, view) for workspace in found],
    }


async def detail_document(server: Deployment, principal: Principal, workspace: Workspace) -> Document:
    """Everything about one workspace."""
    async with server.database.read() as session:
        past = await newest_of(session, workspace.id, SHOWN_CONNECTIONS)
    return {
        "type": "state",
        "at": moment(server.clock()),
        "total": 1,
        "workspaces": [workspace_detail(workspace, live_view(server, principal), past)],
    }


def live_view(server: Deployment, principal: Principal) -> LiveView:
    """The present, as this user may see it."""

    def reports(agent_id: UUID) -> Sequence[Mapping[str, Any]]:
        report = server.paths.newest(agent_id)
        return [] if report is None else report.peers

    return LiveView(
        viewer=principal.user.id,
        now=server.clock(),
        agents=server.view(),
        reports=reports,
        live=server.live,
        server_path=lambda agent_id: _server_path(server, agent_id),
    )


def _server_path(server: Deployment, agent_id: UUID) -> TunnelPath | None:
    return server.tailnet.path(agent_id)


async def network_view(server: Deployment, principal: Principal) -> Document:
    """What the network page shows. Health and relay load are for owners; others see their own agents' latencies."""
    async with server.database.read() as session:
        found, _ = await store.list_workspaces(session, store.WorkspaceFilter(principal.scope), MAX_ROWS)
        dismissed = await health_store.dismissed(session)
    nodes = [node for workspace in found for agent in workspace.agents if (node := server.node_of(agent.id))]
    last = server.health.last if principal.sees_all else None
    report = None if last is None else last.document(server.version, dismissed)
    return {
        "type": "network",
        "at": moment(server.clock()),
        "regions": regions_table(server.derp_map.current, nodes, report),
        "agents": len(nodes),
        "day": day_document(server.live.day, server.clock()),
        "relay": dict(server.relay.metrics()) if server.relay is not None and principal.sees_all else None,
        "clients": len(server.clients) if principal.sees_all else None,
        "health": None
        if not principal.sees_all
        else {"at": None if report is None else report["time"], "sections": health_sections(report)},
    }


# ---------------------------------------------------------------- the feed


async def watch(socket: WebSocket) -> None:
    """Tell until the visitor leaves, is signed out, or the server stops."""
    server = deployment(socket)
    try:
        principal = await signed_in(socket, Need.READ)
        feed = await _feed(server, socket, principal)
        if len(server.live.changes) >= MAX_VISITORS:
            raise Problem(503, "Too many pages are watching.", detail=f"There is room for {MAX_VISITORS}.")
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    with server.live.changes.subscribe() as subscription:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_closed, socket, tasks.cancel_scope)
            tasks.start_soon(_until_stopping, server, socket, tasks.cancel_scope)
            try:
                await feed.run(subscription)
            except (WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                pass  # gone, or too slow
            tasks.cancel_scope.cancel()


class Feed(Protocol):
    """What one visitor is told."""

    async def run(self, subscription: Subscription) -> None:
        """Raises what a broken connection raises, TimeoutError for a visitor who does not read."""
        ...


async def _feed(server: Deployment, socket: WebSocket, principal: Principal) -> Feed:
    """The feed that the address asks for. Raises Problem 404."""
    visitor = _Visitor(server, socket, principal)
    if "network" in socket.query_params:
        return NetworkFeed(visitor)
    wanted = socket.query_params.get("workspace", "")
    if not wanted:
        return ListFeed(visitor)
    try:
        workspace_id = UUID(wanted)
    except ValueError:
        raise not_found() from None
    if await visitor.workspace(workspace_id) is None:
        raise not_found()
    return WorkspaceFeed(visitor, workspace_id)


class _Visitor:
    """Who watches, and the socket to his page."""

    def __init__(self, server: Deployment, socket: WebSocket, principal: Principal) -> None:
        self.server = server
        self.principal = principal
        self._socket = socket
        self._checked = anyio.current_time()

    async def send(self, message: Document) -> None:
        """One message."""
        text = json.dumps({"at": moment(self.server.clock()), **message}, separators=(",", ":"))
        with anyio.fail_after(SEND_SECONDS):
            await self._socket.send_text(text)

    async def workspace(self, workspace_id: UUID) -> Workspace | None:
        """A workspace that this visitor may see."""
        async with self.server.database.read() as session:
            found = await store.find_workspace(session, workspace_id)
        return found if found is not None and self.principal.may_use(found.owner_id) else None

    async def news(self, subscription: Subscription) -> set[UUID] | None:
        """Wait for changes, or until it is time for a tick. Raises WebSocketDisconnect for who is signed out."""
        await subscription.wait(TICK_SECONDS)
        await anyio.sleep(GATHER_SECONDS)
        if anyio.current_time() - self._checked > CHECK_SECONDS:
            if await maybe_signed_in(self._socket) is None:
                await self.close(SIGNED_OUT_CODE, "signed out")
            self._checked = anyio.current_time()
        return subscription.take()

    async def close(self, code: int, reason: str) -> NoReturn:
        """The end of the feed."""
        await self._socket.close(code, reason)
        raise WebSocketDisconnect(code, reason)


class ListFeed:
    """All workspaces of a visitor: at first all, then the rows that changed."""

    def __init__(self, visitor: _Visitor) -> None:
        self._visitor = visitor
        self._known: dict[UUID, UUID] = {}
        """Agents and workspaces that the page shows → the workspace."""
        self._sent: dict[str, Document] = {}

    async def run(self, subscription: Subscription) -> None:
        """See `Feed`."""
        first = await list_document(self._visitor.server, self._visitor.principal)
        self._remember(first["workspaces"])
        await self._visitor.send(first)
        while True:
            dirty = await self._visitor.news(subscription)
            if dirty is not None and all(what in self._known for what in dirty):
                asked = frozenset(self._known[what] for what in dirty)
                found = await self._rows(asked)
                gone = sorted({str(one) for one in asked} & self._sent.keys() - {row["id"] for row in found})
            else:  # something new, perhaps
                found = await self._rows(None)
                gone = sorted(self._sent.keys() - {row["id"] for row in found})
            changed = [row for row in found if self._sent.get(row["id"]) != row]
            self._remember(changed)
            for workspace_id in gone:
                del self._sent[workspace_id]
            news: Document = {"type": "rows", "workspaces": changed, "gone": gone}
            await self._visitor.send(news if changed or gone else {"type": "tick"})

    async def _rows(self, only: frozenset[UUID] | None) -> list[Document]:
        if only is not None and not only:
            return []
        server, principal = self._visitor.server, self._visitor.principal
        which = store.WorkspaceFilter(principal.scope, ids=only)
        async with server.database.read() as session:
            found, _ = await store.list_workspaces(session, which, MAX_ROWS)
        view = live_view(server, principal)
        return [workspace_row(workspace, view) for workspace in found]

    def _remember(self, rows: Sequence[Document]) -> None:
        for row in rows:
            workspace_id = UUID(row["id"])
            self._sent[row["id"]] = row
            self._known[workspace_id] = workspace_id
            for agent in row["agents"]:
                self._known[UUID(agent["id"])] = workspace_id


class WorkspaceFeed:
    """One workspace, whole, whenever something about it changed."""

    def __init__(self, visitor: _Visitor, workspace_id: UUID) -> None:
        self._visitor = visitor
        self._id = workspace_id

    async def run(self, subscription: Subscription) -> None:
        """See `Feed`. Ends with the workspace."""
        kind, dirty, known = "state", None, {self._id}
        while True:
            if dirty is None or dirty & known:
                workspace = await self._visitor.workspace(self._id)
                if workspace is None:
                    await self._visitor.send({"type": "rows", "workspaces": [], "gone": [str(self._id)]})
                    await self._visitor.close(1000, "this workspace was deleted")
                document = await detail_document(self._visitor.server, self._visitor.principal, workspace)
                known = {self._id, *(agent.id for agent in workspace.agents)}
                await self._visitor.send({"gone": [], **document, "type": kind})
                kind = "rows"
            else:
                await self._visitor.send({"type": "tick"})
            dirty = await self._visitor.news(subscription)


class NetworkFeed:
    """The network page's figures, looked at with each tick: nothing there is urgent."""

    def __init__(self, visitor: _Visitor) -> None:
        self._visitor = visitor

    async def run(self, subscription: Subscription) -> None:
        """See `Feed`."""
        sent: Document = {}
        while True:
            document = await network_view(self._visitor.server, self._visitor.principal)
            changed = {**document, "at": None} != sent
            await self._visitor.send(document if changed else {"type": "tick"})
            sent = {**document, "at": None}
            await self._visitor.news(subscription)


async def _until_closed(socket: WebSocket, scope: anyio.CancelScope) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


async def _until_stopping(server: Deployment, socket: WebSocket, scope: anyio.CancelScope) -> None:
    await server.stopping.wait()
    with anyio.move_on_after(1.0):
        await socket.close(1001, "the server is shutting down")
    scope.cancel()
