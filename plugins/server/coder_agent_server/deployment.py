"""The running server: what its routes and RPCs share. Built by `serving.py`, reached through `deployment(request)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import anyio
from starlette.requests import HTTPConnection

from coder_agent.base.node import Node
from coder_agent.coordination.interface import Coordinator
from coder_agent.hooks.events import Event, EventSink
from coder_agent.hooks.interfaces import Authenticator, RelayBackend
from coder_agent.hooks.settings import Settings

from .changes import Changes
from .clients import Clients
from .derp_map import LiveDerpMap
from .documents.agents import AgentView
from .documents.workspaces import TemplateIds
from .front import Tally
from .health.monitor import HealthMonitor
from .limits import RateLimit
from .live.observatory import Observatory
from .options import ServerOptions
from .passwords import Passwords
from .path_reports import ReportBoard
from .presence import Presence
from .resume import ResumeTokens
from .revocation import Revocations
from .store.database import Database
from .store.deployment import DeploymentFacts
from .store.workspaces import touch_workspace
from .tailnet.shared import SharedTailnet
from .version import build_version

REPORTS_PER_MINUTE = 30
"""Path reports that one agent may make; ours make six at most (coder_agent/path_reports.py)."""

TOUCH_STEP = timedelta(minutes=1)
"""`last_used_at` is written at most this often."""
MAX_TOUCHED = 4096
"""Workspaces whose last use is remembered in memory."""


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Deployment:
    """Everything a request may need. `clock` is the wall clock of documents and expiry times."""

    options: ServerOptions
    settings: Settings
    access_url: str
    facts: DeploymentFacts
    database: Database
    coordinator: Coordinator
    derp_map: LiveDerpMap
    relay: RelayBackend | None = None
    app_schemes: frozenset[str] = frozenset()
    """Schemes of app URLs that plugins know, beside http and https (hook `coder_app_proxies`)."""
    authenticators: Sequence[Authenticator] = ()
    clock: Callable[[], datetime] = utc_now
    passwords: Passwords = field(default_factory=Passwords)
    stopping: anyio.Event = field(default_factory=anyio.Event)
    """Set when the server is going away: whatever would go on for ever ends then."""
    observers: list[EventSink] = field(default_factory=list)
    """Who hears what happens (hooks/events.py). Takes events at once, keeps them in bounds, never raises."""
    tailnet: SharedTailnet = field(init=False)
    """Our own node; built with the plugins (serving.py)."""
    _touched: dict[UUID, datetime] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    """Rings when workspaces are registered or deleted."""
    revocations: Revocations = field(default_factory=Revocations)
    tally: Tally = field(default_factory=Tally)
    presence: Presence = field(init=False)
    clients: Clients = field(init=False)
    resume: ResumeTokens = field(init=False)
    templates: TemplateIds = field(init=False)
    version: str = field(init=False)
    api_limit: RateLimit = field(init=False)
    login_limit: RateLimit = field(init=False)
    report_limit: RateLimit = field(init=False)
    health: HealthMonitor = field(init=False)
    paths: ReportBoard = field(default_factory=ReportBoard)
    live: Observatory = field(init=False)
    """What the dashboard shows as it happens."""

    def __post_init__(self) -> None:
        self.presence = Presence(self.clock)
        self.clients = Clients()
        self.live = Observatory(self.clock, self._region_names)
        self.resume = ResumeTokens(self.facts.resume_key, self.facts.id)
        self.templates = TemplateIds.of(self.facts.id)
        self.version = build_version(self.options.name)
        self.api_limit = RateLimit(self.options.api_rate_limit, time.monotonic)
        self.login_limit = RateLimit(self.options.login_rate_limit, time.monotonic)
        self.health = HealthMonitor(self.options.health_refresh, wall=self.clock)
        self.report_limit = RateLimit(REPORTS_PER_MINUTE, time.monotonic)

    def view(self) -> AgentView:
        """The present, for documents about agents."""
        return AgentView(self.clock(), self.presence.last_seen, self.node_of, self.derp_map.current)

    def _region_names(self) -> dict[int, str]:
        return {number: region.region_name for number, region in self.derp_map.current.regions.items()}

    def node_of(self, peer_id: UUID) -> Node | None:
        """What a connected peer last published about itself."""
        return self.coordinator.node(peer_id)

    def knows_key(self, node_key: str) -> bool:
        """Is a node with this key (``nodekey:…``) connected here, or ours, checking a relay?"""
        return node_key in self.health.vouched or any(
            str(peer.node.key) == node_key for peer in self.coordinator.peers() if peer.node is not None
        )

    def emit(self, event: Event) -> None:
        """Tell observers, plugins' and our own. Must not block; one that fails does not hinder the others."""
        for observer in self.observers:
            observer(event)

    async def touch(self, workspace_id: UUID) -> None:
        """Somebody uses this workspace; written at most once a minute."""
        now = self.clock()
        if now - self._touched.get(workspace_id, datetime.min.replace(tzinfo=UTC)) < TOUCH_STEP:
            return
        if len(self._touched) >= MAX_TOUCHED:
            self._touched.clear()
        self._touched[workspace_id] = now
        async with self.database.write() as session:
            await touch_workspace(session, workspace_id, now)

    def remove_agent(self, agent_id: UUID, reason: str) -> None:
        """The agent is gone for good: its connection and its users' end, and peers drop it at once."""
        self.presence.close(agent_id, reason)
        self.paths.forget(agent_id)
        self.coordinator.remove(agent_id, reason)
        self.clients.close_agent(agent_id, reason)
        self.live.agent_removed(agent_id)


def deployment(connection: HTTPConnection) -> Deployment:
    """The server that serves this request."""
    found = connection.app.state.deployment
    assert isinstance(found, Deployment)
    return found
