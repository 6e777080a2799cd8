"""The user's side: find a workspace, join its tailnet, open streams to it.

Composition root: builds a node from plugins, a control link from URL and token, and joins them. Most programs want
`coder_agent.connect` (api.py), which reads the user's own configuration first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from ipaddress import IPv6Address
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload
from uuid import UUID

import anyio

from .base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, node_id, overlay_address
from .base.coordinate import UpdateKind
from .base.derp_map import DerpMap, viewed_from
from .base.derp_map_json import from_json
from .base.keys import NodePublic
from .base.node import Node
from .base.path_rules import DirectRule, PathRules
from .base.path_rules_json import rules_from_json
from .base.paths import PathKind
from .directory import AgentInfo, agent_from, find_agent, find_workspace
from .directory import agent_unreachable as agent_unreachable
from .errors import ConfigError, CoordinationError, PathRefused, PeerUnreachable
from .explain import explain, explain_after_asking
from .forwarding import Forward, forwarded
from .forwarding_udp import UdpForward
from .hooks.events import ControlChanged, Event, EventSink
from .magicsock.core import PathStatus
from .node import DIAL_TIMEOUT, NodeConfig, Pong, TailnetNode, TunnelDatagrams, open_node
from .observing import MAX_WAITING, E, EventHub, Events
from .peers import READY_FALLBACK, PeerBook
from .remote_commands import MAX_OUTPUT, Completed, completed, request_of, started
from .runtime.background import background
from .runtime.control_link import ClientMode, ControlLink
from .runtime.http import ApiClient
from .runtime.streams import TunnelStream
from .verdict.situation import Verdict
from .watching import Watch
from .workspace_name import WorkspaceName

if TYPE_CHECKING:
    import ssl

    import httpx2

    from .hooks.commands import CommandRequest, CommandRunner, RunningCommand

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 30.0
"""Seconds from "the server says the agent is connected" to the first answer through the tunnel."""
AGENT_TIMEOUT, AGENT_POLL = 5.0, 0.5
"""Seconds that an agent is waited for which the server does not see, and between two looks: who starts both at once
need not watch for the right moment. An agent takes about a second to start."""
GOODBYE_TIMEOUT = 1.0
"""Seconds for the server to take our leave (the stock client waits as long)."""


class Workspace:
    """A workspace in reach. Made by `connect`."""

    def __init__(
        self,
        agent: AgentInfo,
        node: TailnetNode,
        api: ApiClient,
        peers: PeerBook,
        hub: EventHub | None = None,
        runner: CommandRunner | None = None,
    ) -> None:
        self.agent = agent
        self.node = node
        self.address: IPv6Address = overlay_address(TAILSCALE_PREFIX, agent.id)
        self._api = api
        self._peers = peers
        self._hub = EventHub(lambda event: None) if hub is None else hub
        self._runner = runner
        self._resets: list[Callable[[str], None]] = []
        self.on_close: Callable[[], Awaitable[None]] | None = None
        """What `aclose` does, for a workspace that no block closes."""
        self._workspace_id: str | None = None

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

    async def open_udp(self, port: int) -> TunnelDatagrams:
        """Datagrams to and from a UDP port of the workspace's loopback; see `TailnetNode.open_udp`."""
        return await self.node.open_udp(self.address, port)

    def http(
        self, port: int, *, tls: bool = False, verify: ssl.SSLContext | bool = False, **options: Any
    ) -> httpx2.AsyncClient:
        """An httpx2 client whose requests go to `port` of the workspace; relative URLs suffice.

        Close it, or use it with ``async with``. `tls` speaks HTTPS; certificates are not verified unless `verify` says
        so, for the tunnel has already proven who answers. `options` are httpx2.AsyncClient's.

        Raises: ConfigError if httpx2 is not installed. Requests raise httpx2's own errors.
        """
        made: httpx2.AsyncClient = load_http().client(self.dial_port, port, tls=tls, verify=verify, options=options)
        return made

    @asynccontextmanager
    async def forward(
        self, port: int, *, local_port: int = 0, host: str = "127.0.0.1", udp: bool = False
    ) -> AsyncIterator[Forward | UdpForward]:
        """Let programs of this machine reach a port of the workspace, TCP or `udp`, at the `address` of what this
        yields. `local_port` 0: any free one. Connections are reset when the block ends.

        Raises ConfigError if that address cannot be listened on.
        """
        opened = forwarded(self.node, self.address, port, host, local_port, udp=udp)
        with opened as forward, self.reset_if_lost(forward.reset):
            yield forward

    def start(
        self,
        command: str | Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> AbstractAsyncContextManager[RunningCommand]:
        """Start a command in the workspace, over SSH: `stdin`, `stdout`, `stderr`, `wait()`, `send_signal()`. A string
        is for the shell, a sequence is words; `env` is added to the shell's environment; `cwd` is where (the
        workspace's own folder). The command is ended with the block.

        Raises: ConfigError (no plugin does this), PeerUnreachable, TransportBroken.
        """
        return self._started(request_of(command, self.agent.label, env, cwd))

    async def run(
        self,
        command: str | Sequence[str],
        *,
        input: bytes | str = b"",
        check: bool = False,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        max_output: int = MAX_OUTPUT,
    ) -> Completed:
        """Run a command in the workspace to its end, as `subprocess.run` would here; cancelled, it is ended.

        Raises: CommandFailed (with `check`: another exit code than 0; more than `max_output` bytes of output),
        TimeoutError after `timeout` seconds, and as `start`.
        """
        request = request_of(command, self.agent.label, env, cwd)
        args = command if isinstance(command, str) else " ".join(command)
        done = await completed(self._started(request), args, input=input, timeout=timeout, max_output=max_output)
        if check:
            done.check_returncode()
        return done

    @asynccontextmanager
    async def _started(self, request: CommandRequest) -> AsyncIterator[RunningCommand]:
        streams: list[TunnelStream] = []

        async def dial(port: int) -> TunnelStream:
            streams.append(await self.open_tcp(port))
            return streams[0]

        def reset(why: str) -> None:
            log.info("workspace %s is lost: %s", self.agent.label, why)
            for stream in streams:
                stream.abort()

        with self.reset_if_lost(reset):
            async with started(self._runner, dial, request) as command:
                yield command

    @contextmanager
    def reset_if_lost(self, reset: Callable[[str], None]) -> Iterator[None]:
        """While the block runs, the agent is asked every few seconds whether it is there (watching.py), and `reset` is
        told why if it is not: for what would hang otherwise until TCP gives up, which takes minutes."""
        self._resets.append(reset)
        try:
            yield
        finally:
            self._resets.remove(reset)

    def watch(self) -> Watch:
        """What keeps the promise of `reset_if_lost`."""

        def lost(why: str) -> None:
            for reset in list(self._resets):
                reset(why)

        return Watch(self, busy=lambda: bool(self._resets), lost=lost, restored=lambda: None)

    @overload
    def events(self, *, limit: int = MAX_WAITING) -> Events[Event]: ...
    @overload
    def events(self, *kinds: type[E], limit: int = MAX_WAITING) -> Events[E]: ...
    def events(self, *kinds: type[Any], limit: int = MAX_WAITING) -> Events[Any]:
        """How things stand and what changes from now on, for ``async for``: some `kinds`, or all (`PathChanged`,
        `PathExplained`, `PeerChanged`, `RelayChanged`, `ControlChanged`). `limit` events wait; then the oldest go
        (`dropped`). It ends with the workspace."""
        return self._hub.add(Events(kinds, limit))

    def on_event(self, callback: EventSink) -> Callable[[], None]:
        """Call `callback` with each event, on the event loop: it must not block. Returns the call that ends it."""
        return self._hub.subscribe(callback)

    async def dial_port(self, port: int, timeout: float) -> TunnelStream:
        """`open_tcp` as an HTTP client wants it."""
        return await self.open_tcp(port, timeout=timeout)

    async def ping(self, *, via: Literal["best", "direct", "derp"] = "best", timeout: float = 5.0) -> Pong:
        """One disco ping: latency and the path that carried it."""
        return await self.node.ping(self.key, via=via, timeout=timeout)

    async def ping_tunnel(self, *, timeout: float = 5.0) -> Pong:
        """One ping through the encrypted tunnel."""
        return await self.node.ping_tunnel(self.address, timeout=timeout)

    def path(self) -> PathStatus:
        """What carries packets now."""
        return self.node.path(self.key)

    def explain(self) -> Verdict:
        """Why that path: one cause, its evidence, and fixes that suffice. From what is known now."""
        return explain(self.node, self.key)

    async def explain_after_asking(self) -> Verdict:
        """The same after asking the agent what it knows; waits for its answer a second and a half at most."""
        return await explain_after_asking(self.node, self.key)

    async def wait_direct(self) -> PathStatus:
        """Wait for a direct path. Bound it with a time-out: there may never be one. Raises PathRefused if a rule
        forbids it."""
        rules = self.path().rules
        if rules.direct is DirectRule.NEVER:
            raise PathRefused(
                f"workspace {self.agent.label}: no direct path: {rules.refusal('direct connections are')}",
                hint="a path through the relay is all there is under this rule",
            )
        return await self.node.wait_path(self.key, PathKind.DIRECT)

    def region_code(self, region: int) -> str:
        """A relay region's short name, ``coder`` for the server's own."""
        found = self.node.derp_map.regions.get(region)
        return found.region_code or str(region) if found is not None else str(region)

    def region_name(self, region: int) -> str:
        """A relay region's name for people."""
        found = self.node.derp_map.regions.get(region)
        return found.region_name or self.region_code(region) if found is not None else str(region)

    async def report_usage(self, body: Mapping[str, object] | None = None) -> None:
        """Tell the server that the workspace is used now, as Coder's commands do each minute. Raises ApiError,
        TransportError."""
        if self._workspace_id is None:
            name = WorkspaceName(self.agent.owner, self.agent.workspace, "")
            self._workspace_id = (await find_workspace(self._api, name))["id"]
        await self._api.post(f"/api/v2/workspaces/{self._workspace_id}/usage", body)

    async def aclose(self) -> None:
        """Leave a workspace that ``await connect(…)`` opened. One of ``async with`` ends with its block: this does
        nothing."""
        if self.on_close is not None:
            await self.on_close()

    async def refresh_agent(self) -> AgentInfo:
        """Ask the server how the agent is now."""
        agent = self.agent = agent_from(
            await self._api.get(f"/api/v2/workspaceagents/{self.agent.id}"), self.agent.workspace, self.agent.owner
        )
        return agent


def load_http() -> ModuleType:
    """workspace_http.py, which stands on the extra ``coder-agent[http]``. Raises ConfigError without it."""
    try:
        return import_module(".workspace_http", __package__)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"an HTTP client needs {error.name}, which is not installed", hint="pip install 'coder-agent[http]'"
        ) from error


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
        node.on_woke = self.link.reconnect
        node.on_link_changed = self.link.link_changed
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
    for a person to read, what takes longer than a second. `runner` runs commands."""

    url: str
    token: str
    node: NodeConfig
    say: Callable[[str], None] = lambda message: None
    runner: CommandRunner | None = None


@asynccontextmanager
async def open_workspace(config: ClientConfig, name: WorkspaceName) -> AsyncIterator[Workspace]:
    """Join the tailnet of one workspace and wait until its agent answers.

    Raises: ApiError (unknown workspace, wrong token), PeerUnreachable (agent not connected, no answer),
    PathRefused (the server's rules forbid the path that was asked for), CoordinationError (the server refuses).
    """
    api = ApiClient(config.url, config.token, config.node.dial)
    agent = await _connected_agent(api, name, config.say)
    info = await api.get(f"/api/v2/workspaceagents/{agent.id}/connection")
    identity = UUID(bytes=os.urandom(16))
    rules = allowed_rules(config.node.rules, rules_of(info))
    hub = EventHub(config.node.emit)
    node_config = replace(
        config.node,
        emit=hub,
        addresses=[overlay_address(CODER_PREFIX, identity)],
        id=node_id(identity),
        direct=config.node.direct and rules.direct is not DirectRule.NEVER,
        rules=rules,
        force_websockets=config.node.force_websockets or info.get("derp_force_websockets", False),
    )
    async with open_node(node_config) as node, background() as tasks:
        session = _Session(node, replace(config, node=node_config), agent)
        session.on_derp_map(from_json(info["derp_map"]))
        tasks.start_soon(session.link.run)
        if unknown := unknown_region(rules, node.derp_map):
            config.say(unknown)
        workspace = Workspace(agent, node, api, session.peers, hub, config.runner)
        async with background() as meanwhile:
            meanwhile.start_soon(_narrate, session, workspace, config.say)
            await _reach(session, workspace)
        tasks.start_soon(workspace.watch().run)
        try:
            yield workspace
            await node.drain()  # before the goodbye: afterwards the agent does not know us any more
        finally:
            hub.close()
            with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE_TIMEOUT):
                await session.link.aclose_gracefully()


async def _connected_agent(api: ApiClient, name: WorkspaceName, say: Callable[[str], None]) -> AgentInfo:
    """Look the agent up; one that was started just now is waited for. Raises ApiError, PeerUnreachable."""
    agent = await find_agent(api, name)
    looks = int(AGENT_TIMEOUT / AGENT_POLL)
    for look in range(looks):
        if agent.status == "connected":
            return agent
        if look * AGENT_POLL == 1:
            say(f"Waiting up to {AGENT_TIMEOUT:.0f} s for the agent of {agent.label} to connect...")
        await anyio.sleep(AGENT_POLL)
        agent = await find_agent(api, name)
    if agent.status != "connected":
        raise agent_unreachable(agent)
    return agent


def rules_of(info: Mapping[str, Any]) -> PathRules:
    """The server's rules in connection information; a stock server only knows `disable_direct_connections`.

    Raises CoordinationError for what is no rule.
    """
    try:
        rules = rules_from_json(info.get("path_rules") or {})
    except ValueError as exc:
        raise CoordinationError(f"the server's path rules make no sense: {exc}") from exc
    if info.get("disable_direct_connections", False):
        rules = replace(rules, direct=DirectRule.NEVER, set_by=rules.set_by or "the deployment")
    return rules


def allowed_rules(wished: PathRules, higher: PathRules) -> PathRules:
    """The wishes below the server's rules. Raises PathRefused if they contradict each other."""
    if refusal := wished.conflict(higher):
        raise PathRefused(refusal, hint="the server's rules win: connect without that wish, or have its rule changed")
    return wished.under(higher)


def unknown_region(rules: PathRules, derp_map: DerpMap) -> str:
    """What a user should hear of a preferred relay region that does not exist; "" if it does, or none is preferred."""
    if not rules.prefer_region or rules.prefer_region in derp_map.regions:
        return ""
    known = ", ".join(f"{number} ({region.region_name})" for number, region in sorted(derp_map.regions.items()))
    return f"warning: there is no relay region {rules.prefer_region} to prefer; the server has {known or 'none'}"


async def _narrate(session: _Session, workspace: Workspace, say: Callable[[str], None]) -> None:
    """Say what is waited for: after a second, and every five."""
    await anyio.sleep(1)
    while True:
        peer = session.peers.get(workspace.agent.id)
        if peer is None:
            say(f"Waiting for the server to introduce the agent of {workspace.agent.label}...")
        elif workspace.path().rules.direct is DirectRule.ONLY:
            say(f"Waiting for a direct path to {workspace.agent.label}: relaying is not allowed...")
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
        rules = workspace.node.engine.magicsock.rules
        if rules.direct is DirectRule.ONLY:
            raise PeerUnreachable(
                f"workspace {agent.label}: no direct path within {CONNECT_TIMEOUT:g} s, and "
                + rules.refusal("the relay is"),
                hint=f"connect without it to be relayed; `coder ping {agent.workspace}` then says what is in the way",
            ) from None
        raise PeerUnreachable(
            f"workspace {agent.label}: its agent is connected to the server but did not answer within "
            f"{CONNECT_TIMEOUT:g} s",
            hint="run `coder ping` with -v to see which relay and which endpoints were tried",
        ) from None
