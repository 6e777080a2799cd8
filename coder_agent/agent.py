"""The workspace's side: keep a tailnet node for the server's users, offer services, forward to loopback.

Composition root: builds a node from plugins, a control link from URL and token, and joins them.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from uuid import UUID

import anyio

from .activity import Activity
from .agent_api import AgentApi, with_manifest
from .base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, node_id, overlay_address
from .base.coordinate import CONNECTION_ENDED, UpdateKind
from .base.derp_map import DerpMap, viewed_from
from .base.node import Node
from .base.path_rules import NO_RULES, PathRules
from .base.port_set import ALL_PORTS, PortSet
from .hooks.events import ControlChanged, Event, RelayChanged
from .hooks.interfaces import AgentFacts, AgentService, LivingService
from .node import NodeConfig, TailnetNode, open_node
from .path_reports import PathReporter
from .peers import PeerBook
from .runtime.agent_link import Manifest
from .runtime.control_link import AgentMode, ControlLink
from .runtime.loopback import Loopback, forward_loopback
from .runtime.mounts import Mounts
from .runtime.start_scripts import run_scripts
from .vigil import Vigil

log = logging.getLogger(__name__)

FIRST_FORWARDED_PORT = 9
"""Ports below are services of the agent itself; all others are forwarded to loopback (coder tailnet/conn.go)."""
GOODBYE_TIMEOUT = 5.0
"""Seconds for the server to take our leave."""


@dataclass(slots=True)
class AgentConfig:
    """What `coder-agent run` needs. `node` carries plugins and dial options; its addresses come from the manifest."""

    url: str
    token: str
    node: NodeConfig
    services: Sequence[AgentService] = ()
    forward_ports: PortSet = ALL_PORTS
    version: str = ""
    apps: Sequence[Mapping[str, object]] = ()
    """Apps that the configuration declares; the server is told."""
    on_ready: Callable[[Manifest], None] = field(default=lambda manifest: None)


class Agent:
    """One agent. `run` until cancelled; every failure of the network is retried for ever."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._node: TailnetNode | None = None
        self._book: PeerBook | None = None
        self._vigil: Vigil | None = None
        self._manifest: Manifest | None = None
        self._manifest_came = anyio.Event()
        self._early: list[tuple[UUID, UpdateKind, Node | None, str]] = []
        self._derp_map: DerpMap | None = None
        self._api = AgentApi(config.url, config.token, config.node.dial)
        self._reporter = PathReporter(self._api)
        self._activity = Activity()
        self._server_rules = NO_RULES
        self._rules_wanted = anyio.Event()
        self._apps_wanted = anyio.Event()
        self._refused = ""
        self._unacknowledged: set[UUID] = set()
        self._loopback: Loopback | None = None
        self._link = ControlLink(
            config.url,
            config.token,
            mode=AgentMode(config.version, self._activity.stats),
            sink=self,
            dial=config.node.dial,
        )

    async def run(self) -> None:
        """Connect, serve, and stay connected. Ends only by cancellation or an error that no retry can mend."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._link.run)
            tasks.start_soon(self._declare_apps)
            await self._manifest_came.wait()
            assert self._manifest is not None
            await self._ask_rules()  # before there is a socket: what they forbid must not happen even once
            async with self._living_services(), open_node(self._node_config(self._manifest)) as node:
                self._attach(node)
                tasks.start_soon(self._sweep)
                tasks.start_soon(self._follow_rules)
                tasks.start_soon(self._run_start_scripts, self._manifest)
                self._config.on_ready(self._manifest)
                try:
                    await anyio.sleep_forever()
                finally:
                    if self._loopback is not None:
                        self._loopback.close()
                    with anyio.CancelScope(shield=True), anyio.move_on_after(GOODBYE_TIMEOUT):
                        await self._link.aclose_gracefully()

    # ------------------------------------------------------------ runtime.control_link.ControlSink

    def on_manifest(self, manifest: Manifest) -> None:
        """Who we are. After a reconnect it comes again and updates what may change."""
        self._manifest = manifest
        self._manifest_came.set()
        self._rules_wanted.set()
        self._apply_rules()
        self.on_derp_map(manifest.derp_map)
        if self._node is not None:
            self._add_addresses(self._node, manifest.agent_id)

    def on_derp_map(self, derp_map: DerpMap) -> None:
        """A relay map; the embedded relay is where we reach the server, not where it thinks it is."""
        derp_map = viewed_from(derp_map, self._config.url)
        if derp_map != self._derp_map:
            log.info("relay map: regions %s", ", ".join(map(str, sorted(derp_map.regions))) or "none")
        self._derp_map = derp_map
        if self._node is not None:
            self._node.set_derp_map(derp_map)

    def on_peer_update(self, peer: UUID, kind: UpdateKind, node: Node | None, reason: str) -> None:
        """A user's node came, changed or went."""
        if self._book is None:
            self._early.append((peer, kind, node, reason))
        else:
            self._book.update(peer, kind, node, reason)
            if self._vigil is not None and kind is UpdateKind.LOST and reason == CONNECTION_ENDED:
                self._vigil.begin(peer)

    def on_linked(self) -> None:
        """The server has us."""
        log.info("connected to %s", self._config.url)
        self._config.node.emit(ControlChanged(True))
        self._reporter.linked()
        self._apps_wanted.set()
        if self._node is not None:
            self._link.update_self(self._node.self_node())

    def on_link_lost(self, reason: str) -> None:
        """The server is gone; conversations go on without it."""
        log.warning("lost the connection to %s: %s", self._config.url, reason)
        self._config.node.emit(ControlChanged(False, reason))
        if self._book is not None:
            self._book.all_lost()

    # ------------------------------------------------------------ inside

    def _facts(self) -> AgentFacts:
        manifest = self._manifest
        assert manifest is not None
        facts = AgentFacts(
            url=self._config.url,
            agent_id=manifest.agent_id,
            workspace_id=manifest.workspace_id,
            agent_name=manifest.agent_name,
            workspace_name=manifest.workspace_name,
            owner_username=manifest.owner_username,
            directory=manifest.directory,
            environment=manifest.environment,
        )
        node = self._node
        return facts if node is None else replace(facts, nat=node.nat_facts, home=node.home, counters=node.counters())

    @asynccontextmanager
    async def _living_services(self) -> AsyncIterator[None]:
        """Open the services that outlive their connections. They shield what they do at the close themselves."""
        async with AsyncExitStack() as opened:
            for service in self._config.services:
                if isinstance(service, LivingService):
                    await opened.enter_async_context(service.open(self._facts))
            yield

    def _node_config(self, manifest: Manifest) -> NodeConfig:
        config = self._config.node
        return replace(
            config,
            addresses=(),
            id=node_id(manifest.agent_id),
            rules=self._rules(),
            emit=self._emit,
            force_websockets=config.force_websockets or manifest.derp_force_websockets,
        )

    def _attach(self, node: TailnetNode) -> None:
        assert self._manifest is not None
        self._node = node
        self._book = PeerBook(node, acknowledge=self._acknowledge)
        self._vigil = Vigil(node, self._book)
        self._loopback = forward_loopback(node, self._may_forward, Mounts())
        for service in self._config.services:
            node.listen_tcp(service.port, self._activity.counted(service.port, service.serve))
        self._activity.watch(node, self._book.known)
        node.start_soon(self._reporter.run, node, self._book.known)
        node.on_self_changed = self._link.update_self
        node.on_woke = self._link.reconnect
        node.on_link_changed = self._link.link_changed
        self._add_addresses(node, self._manifest.agent_id)
        if self._derp_map is not None:
            node.set_derp_map(self._derp_map)
        for update in self._early:
            self._book.update(*update)
        self._early.clear()

    def _add_addresses(self, node: TailnetNode, agent_id: UUID) -> None:
        for prefix in (TAILSCALE_PREFIX, CODER_PREFIX):
            node.add_address(overlay_address(prefix, agent_id))

    async def _sweep(self) -> None:
        assert self._book is not None
        await self._book.sweep()

    def _acknowledge(self, peer: UUID) -> None:
        """Its handshake will be answered; but not before we are at our relay, where it would arrive: what a peer sends
        too early is lost, and costs it the five seconds until it tries again."""
        node = self._node
        if node is None or node.is_reachable:
            self._link.ready_for_handshake(peer)
        else:
            self._unacknowledged.add(peer)

    def _emit(self, event: Event) -> None:
        if isinstance(event, RelayChanged) and event.connected:
            waiting, self._unacknowledged = self._unacknowledged, set()
            for peer in waiting:
                self._link.ready_for_handshake(peer)
        self._reporter.heard(event)
        self._config.node.emit(event)

    async def _declare_apps(self) -> None:
        """On each connection, for the server may be another one. If it learns something, it makes us connect again, and
        the manifest names the apps."""
        while True:
            await self._apps_wanted.wait()
            self._apps_wanted = anyio.Event()
            await self._api.declare_apps(self._config.apps)

    async def _run_start_scripts(self, manifest: Manifest) -> None:
        """Once in our life; users may come in meanwhile, but those who shall wait for them hear when they are done."""
        reporter = self._link.reporter
        if manifest.start_scripts and reporter is not None:
            variables = {
                **manifest.environment,
                "CODER_AGENT_URL": self._config.url,
                "CODER_WORKSPACE_NAME": manifest.workspace_name,
                "CODER_WORKSPACE_OWNER_NAME": manifest.owner_username,
                "CODER_WORKSPACE_AGENT_NAME": manifest.agent_name,
                "CODER_WORKSPACE_ID": str(manifest.workspace_id),
            }
            endings = await run_scripts(manifest.start_scripts, reporter, manifest.directory, variables)
            reporter.scripts_ended(endings)

    # ------------------------------------------------------------ path rules

    async def _ask_rules(self) -> None:
        self._rules_wanted = anyio.Event()
        rules = await self._api.path_rules()
        if rules is not None:
            self._server_rules = rules
            self._apply_rules()

    async def _follow_rules(self) -> None:
        """A server whose rules changed ends our connection; with the next manifest they are asked for."""
        while True:
            await self._rules_wanted.wait()
            await self._ask_rules()

    def _rules(self) -> PathRules:
        """Ours below the server's."""
        assert self._manifest is not None
        ours = self._config.node.rules
        server = with_manifest(self._server_rules, self._manifest.disable_direct_connections)
        refusal = ours.conflict(server)
        if refusal != self._refused:
            self._refused = refusal
            if refusal:
                log.warning("%s: the server's rule holds", refusal)
        return ours.under(server)

    def _apply_rules(self) -> None:
        if self._node is not None and self._config.node.direct:
            self._node.set_rules(self._rules())

    def _may_forward(self, port: int) -> bool:
        """Does our policy let users reach this port of loopback?"""
        return port >= FIRST_FORWARDED_PORT and port in self._config.forward_ports
