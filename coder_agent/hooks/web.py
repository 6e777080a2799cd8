"""What a coder server tells its plugins about people, workspaces, apps and shared ports (`ServerContext`).

Values only. Who may open what is decided in one place, `may_open`; a server's look-ups have applied it already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from .interfaces import Identity

OWNER_ROLE = "owner"
"""Role of those who run the deployment. Everybody has `MEMBER_ROLE`."""
MEMBER_ROLE = "member"

SCOPE_ALL = "all"
"""A key that may do whatever its user may."""
SCOPE_APPS = "application_connect"
"""A key that opens web apps and nothing else. Source: coder coderd/database/models.go, APIKeyScope."""


class SharingLevel(StrEnum):
    """Who may open an app or a port. There is one organization: `organization` and `authenticated` mean the same.

    Source: coder codersdk/workspaceapps.go.
    """

    OWNER = "owner"
    ORGANIZATION = "organization"
    AUTHENTICATED = "authenticated"
    PUBLIC = "public"


class AppHealth(StrEnum):
    """What an agent says about an app. `DISABLED`: there is no health check."""

    DISABLED = "disabled"
    INITIALIZING = "initializing"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class CorsBehavior(StrEnum):
    """Who answers cross-origin questions about an app: the server ("simple") or the app itself ("passthru").

    Source: coder coderd/database/models.go, CorsBehavior.
    """

    SIMPLE = "simple"
    PASSTHRU = "passthru"


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """How an agent finds out whether an app works. `interval` in seconds; after `threshold` failures it is unhealthy.
    An empty `url` = not at all."""

    url: str = ""
    interval: int = 0
    threshold: int = 0


@dataclass(frozen=True, slots=True)
class WebApp:
    """An app of a workspace. `url` is as the agent sees it (``http://localhost:8080``); with `external` it is a link
    for the browser; with `command` it is a command for the terminal. `trusted`: the owner lets the app share the
    server's origin (no CSP sandbox on paths)."""

    id: UUID
    agent_id: UUID
    slug: str
    display_name: str
    url: str
    icon: str = ""
    command: str = ""
    external: bool = False
    subdomain: bool = False
    sharing_level: SharingLevel = SharingLevel.OWNER
    healthcheck: Healthcheck = field(default_factory=Healthcheck)
    health: AppHealth = AppHealth.DISABLED
    hidden: bool = False
    order: int = 0
    open_in: str = "slim-window"
    cors_behavior: CorsBehavior = CorsBehavior.SIMPLE
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class PortShare:
    """A port that its owner has opened to others. `protocol`: ``http`` or ``https``, as the program there speaks.
    `trusted` as in `WebApp`."""

    port: int
    sharing_level: SharingLevel
    protocol: str = "http"
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class AgentPlace:
    """An agent, where it belongs, and what it offers. `status`: connecting, connected, disconnected, timeout."""

    agent_id: UUID
    agent_name: str
    workspace_id: UUID
    workspace_name: str
    owner_id: UUID
    owner_name: str
    status: str
    last_seen: datetime | None = None
    operating_system: str = ""
    apps: tuple[WebApp, ...] = ()
    shares: tuple[PortShare, ...] = ()

    @property
    def label(self) -> str:
        """``owner/workspace.agent``, for people."""
        return f"{self.owner_name}/{self.workspace_name}.{self.agent_name}"

    def app(self, slug: str) -> WebApp | None:
        """The app with this slug."""
        return next((app for app in self.apps if app.slug == slug), None)

    def share(self, port: int) -> PortShare | None:
        """How `port` is shared; None = it is its owner's alone."""
        return next((share for share in self.shares if share.port == port), None)


def may_use(visitor: Identity | None, owner_id: UUID) -> bool:
    """May this visitor reach everything in a workspace of `owner_id`: shells, ports, files? Needs a key of full scope;
    those who run the deployment may."""
    if visitor is None or visitor.scope != SCOPE_ALL:
        return False
    return visitor.user_id == owner_id or OWNER_ROLE in visitor.roles


def may_open(visitor: Identity | None, owner_id: UUID, level: SharingLevel) -> bool:
    """May this visitor open an app or port of `owner_id` that is shared at `level`? A key for apps will do."""
    if level is SharingLevel.PUBLIC:
        return True
    if visitor is None or visitor.user_id is None or visitor.scope not in (SCOPE_ALL, SCOPE_APPS):
        return False
    if level is not SharingLevel.OWNER:
        return True
    return visitor.user_id == owner_id or OWNER_ROLE in visitor.roles
