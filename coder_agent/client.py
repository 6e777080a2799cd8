"""The user's side: find a workspace, join its tailnet, open streams to it.

Composition root: builds a node from plugins, a control link from URL and token, and joins them. Most programs want
`coder_agent.connect` (api.py), which reads the user's own configuration first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv6Address
from typing import Any, Literal
from urllib.parse import quote, urlsplit
from uuid import UUID

import anyio

from .base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, node_id, overlay_address
from .base.coordinate import UpdateKind
from .base.derp_map import DerpMap, rewrite_embedded
from .base.derp_map_json import from_json
from .base.keys import NodePublic
from .base.node import Node
from .base.paths import PathKind
from .errors import ApiError, CoordinationError, PeerUnreachable
from .hooks.events import ControlChanged
from .magicsock.core import PathStatus
from .node import DIAL_TIMEOUT, NodeConfig, Pong, TailnetNode, open_node
from .peers import READY_FALLBACK, PeerBook
from .runtime.background import background
from .runtime.control_link import ClientMode, ControlLink
from .runtime.http import ApiClient
from .runtime.streams import TunnelStream
from .workspace_name import WorkspaceName

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 30.0
"""Seconds from "the server says the agent is connected" to the first answer through the tunnel."""
GOODBYE_TIMEOUT = 1.0
"""Seconds for the server to take our leave (the stock client waits as long)."""


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What the server says about a workspace's agent. Times are UTC."""

    id: UUID
    name: str
    status: str
    workspace: str
    owner: str
    last_connected_at: datetime | None = None
    disconnected_at: datetime | None = None

    @property
    def label(self) -> str:
        """``owner/workspace``, as error messages name it."""
        return f"{self.owner}/{self.workspace}"


async def find_agent(api: ApiClient, name: WorkspaceName) -> AgentInfo:
    """Look a workspace's agent up. Raises ApiError: unknown and forbidden workspaces give the same answer."""
    path = f"/api/v2/users/{quote(name.owner)}/workspace/{quote(name.workspace)}?include_deleted=false"
    try:
        document = await api.get(path)
    except ApiError as exc:
        if exc.status != 404:
            raise
        raise ApiError(
            f"workspace {name} not found", status=404, hint="see `coder list` for the workspaces you may use"
        ) from exc
    agents = [a for resource in document["latest_build"]["resources"] for a in resource.get("agents") or []]
    if not agents:
        raise ApiError(f"workspace {name} has no agents", status=404)
    if name.agent:
        agents = [agent for agent in agents if agent["name"] == name.agent]
        if not agents:
            raise ApiError(f"workspace {name.workspace} has no agent called {name.agent!r}", status=404)
    elif len(agents) > 1:
        names = ", ".join(f"{name}.{agent['name']}" for agent in agents)
        raise ApiError(f"workspace {name} has several agents", status=400, hint=f"name one: {names}")
    return _agent_info(agents[0], document)


def _agent_info(agent: Mapping[str, Any], workspace: Mapping[str, Any]) -> AgentInfo:
    return AgentInfo(
        id=UUID(agent["id"]),
        name=agent["name"],
        status=agent["status"],
        workspace=workspace["name"],
        owner=workspace["owner_name"],
        last_connected_at=_time(agent.get("last_connected_at")),
        disconnected_at=_time(agent.get("disconnected_at")),
    )


def _time(text: str | None) -> datetime | None:
    return None if not text else datetime.fromisoformat(text)


def agent_unreachable(agent: AgentInfo) -> PeerUnreachable:
    """The error for an agent that is not connected: says which workspace and since when."""
    since = agent.disconnected_at or agent.last_connected_at
    if since is None:
        return PeerUnreachable(
            f"workspace {agent.label}: its agent has never connected",
            hint="run `coder-agent run` on that machine; `coder create` printed the line with its token",
        )
    ago = max(0, int((datetime.now(UTC) - since).total_seconds()))
    when = since.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return PeerUnreachable(
        f"workspace {agent.label}: its agent is not connected since {when} ({_age(ago)} ago)",
        hint="start `coder-agent run` on that machine, or look at its log",
    )


def _age(seconds: int) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


class Workspace:
    """A workspace in reach. Made by `connect`."""

    def __init__(self, agent: AgentInfo, node: TailnetNode, api: ApiClient, peers: PeerBook) -> None:
        self.agent = agent
        self.node = node
        self.address: IPv6Address = overlay_address(TAILSCALE_PREFIX, agent.id)
        self._api = api
        self._peers = peers

    @property
    def key(self) -> NodePublic:
        """The agent's node key now. Raises PeerUnreachable if its node is not known."""
        peer = self._peers.get(self.agent.id)
        if peer is None:
            raise agent_unreachable(self.agent)
        return peer.key

    async def open_tcp(self, port: int, *, timeout: float = DIAL_TIMEOUT) -> TunnelStream:
        """Connect to a TCP port of the workspace (its loopback, or a service of the agent below 9).

        Raises: PeerUnreachable, TransportBroken (nothing listens there, connection reset).
        """
        return await self.node.dial_tcp(self.address, port, timeout=timeout)

    async def ping(self, *, via: Literal["best", "direct", "derp"] = "best", timeout: float = 5.0) -> Pong:
        """One disco ping: latency and the path that carried it."""
        return await self.node.ping(self.key, via=via, timeout=timeout)

    async def ping_tunnel(self, *, timeout: float = 5.0) -> Pong:
        """One ping through the encrypted tunnel."""
        return await self.node.ping_tunnel(self.address, timeout=timeout)

    def path(self) -> PathStatus:
        """What carries packets now."""
        return self.node.path(self.key)

    async def wait_direct(self) -> PathStatus:
        """Wait for a direct path. Bound it with a time-out: there may never be one."""
        return await self.node.wait_path(self.key, PathKind.DIRECT)

    def region_code(self, region: int) -> str:
        """A relay region's short name, ``coder`` for the server's own."""
        found = self.node.derp_map.regions.get(region)
        return found.region_code or str(region) if found is not None else str(region)

    def region_name(self, region: int) -> str:
        """A relay region's name for people."""
        found = self.node.derp_map.regions.get(region)
        return found.region_name or self.region_code(region) if found is not None else str(region)

    async def refresh_agent(self) -> AgentInfo:
        """Ask the server how the agent is now."""
        document = await self._api.get(f"/api/v2/workspaceagents/{self.agent.id}")
        agent = replace(
            self.agent,
            status=document["status"],
            last_connected_at=_time(document.get("last_connected_at")),
            disconnected_at=_time(document.get("disconnected_at")),
        )
        self.agent = agent
        return agent


class _Session:
    """Joins a node and a control link (runtime.control_link.ControlSink)."""

    def __init__(self, node: TailnetNode, config: ClientConfig, agent: AgentInfo) -> None:
        self._node = node
        self._config = config
        self._agent = agent
        self._changed = anyio.Event()
        self.peers = PeerBook(node, changed=self._peer_changed)
        self.link = ControlLink(config.url, config.token, mode=ClientMode(agent.id), sink=self, dial=config.node.dial)
        self.link.add_tunnel(agent.id)
        node.on_self_changed = self.link.update_self
        self.link.update_self(node.self_node())

    def on_derp_map(self, derp_map: DerpMap) -> None:
        self._node.set_derp_map(viewed_from(derp_map, self._config.url))

    def on_peer_update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        if peer == self._agent.id:
            self.peers.update(peer, kind, node, reason)

    def on_linked(self) -> None:
        self._config.node.emit(ControlChanged(True))
        self.link.update_self(self._node.self_node())

    def on_link_lost(self, reason: str) -> None:
        log.info("lost the connection to the server: %s", reason)
        self._config.node.emit(ControlChanged(False, reason))
        self.peers.all_lost()

    def on_manifest(self, manifest: object) -> None:
        raise CoordinationError("a client was sent a manifest")

    def _peer_changed(self, peer: UUID) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_peer(self) -> None:
        """Wait for the agent's node, then for its READY (or the time in which it must have come)."""
        while self.peers.get(self._agent.id) is None:
            await self._changed.wait()
        with anyio.move_on_after(READY_FALLBACK):
            while not self.peers.is_ready(self._agent.id):
                await self._changed.wait()


@dataclass(slots=True)
class ClientConfig:
    """What `open_workspace` needs. `node` carries plugins and dial options; addresses are made up here. `say` is told,
    for a person to read, what takes longer than a second."""

    url: str
    token: str
    node: NodeConfig
    say: Callable[[str], None] = lambda message: None


def viewed_from(derp_map: DerpMap, url: str) -> DerpMap:
    """A relay map whose embedded relay is where *we* reach the server (coder RewriteDERPMapDefaultRelay)."""
    parts = urlsplit(url)
    return rewrite_embedded(derp_map, parts.scheme, parts.hostname or "", parts.port)


@asynccontextmanager
async def open_workspace(config: ClientConfig, name: WorkspaceName) -> AsyncIterator[Workspace]:
    """Join the tailnet of one workspace and wait until its agent answers.

    Raises: ApiError (unknown workspace, wrong token), PeerUnreachable (agent not connected, no answer),
    CoordinationError (the server refuses).
    """
    api = ApiClient(config.url, config.token, config.node.dial)
    agent = await find_agent(api, name)
    if agent.status != "connected":
        raise agent_unreachable(agent)
    info = await api.get(f"/api/v2/workspaceagents/{agent.id}/connection")
    identity = UUID(bytes=os.urandom(16))
    node_config = replace(
        config.node,
        addresses=[overlay_address(CODER_PREFIX, identity)],
        id=node_id(identity),
        direct=config.node.direct and not info.get("disable_direct_connections", False),
        force_websockets=config.node.force_websockets or info.get("derp_force_websockets", False),
    )
    async with open_node(node_config) as node, background() as tasks:
        session = _Session(node, config, agent)
        session.on_derp_map(from_json(info["derp_map"]))
        tasks.start_soon(session.link.run)
        workspace = Workspace(agent, node, api, session.peers)
        async with background() as meanwhile:
            meanwhile.start_soon(_narrate, session, workspace, config.say)
            await _reach(session, workspace)
        try:
            yield workspace
            await node.drain()  # before the goodbye: afterwards the agent does not know us any more
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE_TIMEOUT):
                await session.link.aclose_gracefully()


async def _narrate(session: _Session, workspace: Workspace, say: Callable[[str], None]) -> None:
    """Say what is waited for: after a second, and every five."""
    await anyio.sleep(1)
    while True:
        peer = session.peers.get(workspace.agent.id)
        if peer is None:
            say(f"Waiting for the server to introduce the agent of {workspace.agent.label}...")
        else:
            relay = workspace.region_code(peer.preferred_derp)
            say(f"Waiting for {workspace.agent.label} to answer (relay {relay})...")
        await anyio.sleep(5)


async def _reach(session: _Session, workspace: Workspace) -> None:
    """Ping through the tunnel until the agent answers."""
    delay = 0.05
    try:
        with anyio.fail_after(CONNECT_TIMEOUT):
            await session.wait_peer()
            while True:
                try:
                    await workspace.ping_tunnel(timeout=max(delay, 0.25))
                    return
                except PeerUnreachable:
                    delay = min(delay * 2, 5.0)
    except TimeoutError:
        agent = await workspace.refresh_agent()
        if agent.status != "connected":
            raise agent_unreachable(agent) from None
        raise PeerUnreachable(
            f"workspace {agent.label}: its agent is connected to the server but did not answer within "
            f"{CONNECT_TIMEOUT:g} s",
            hint="run `coder ping` with -v to see which relay and which endpoints were tried",
        ) from None
