"""What observers (`coder_event`) hear about. Never per packet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # annotations only
    from uuid import UUID

    from ..base.keys import NodePublic
    from ..base.paths import PathKind


@dataclass(frozen=True, slots=True)
class PathChanged:
    """The way to a peer changed. `path` is ``ip:port`` or ``derp:<region>``; `latency` in seconds or None."""

    peer: NodePublic
    kind: PathKind
    path: str
    previous: str
    reason: str
    latency: float | None = None


@dataclass(frozen=True, slots=True)
class PathExplained:
    """The verdict about a peer's path changed. `code` is one of verdict/causes.py, `summary` its sentence; each text of
    `fixes` says what would make the path direct."""

    peer: NodePublic
    code: str
    summary: str
    fixes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerChanged:
    """A peer appeared, was updated, lost its coordinator, or went. `change`: added | updated | lost | removed."""

    peer: NodePublic
    change: str


@dataclass(frozen=True, slots=True)
class RelayChanged:
    """A relay connection came up or went down. `reason` says why in words a user can read."""

    region: int
    connected: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ControlChanged:
    """The connection to the coder server came up or went down."""

    connected: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OutsideRefused:
    """Something that the egress policy forbids was tried. `what`: one of base/egress.py Purpose; `where`:
    ``host:port``, with the address found; `who` asked for it ("" = the user); `rule` that forbids it; `count`: attempts
    since this was last told, for what is tried again and again is told once a minute."""

    what: str
    where: str
    who: str
    rule: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class WorkspaceConnection:
    """On a coder server: somebody opened or closed a connection to a workspace. Goes into the connection log.

    `id` is the same at both ends of one connection. `kind`: ssh, vscode, jetbrains, reconnecting_pty, workspace_app,
    port_forwarding, tunnel (a user's program). `target`: the app's slug or the port, if it is one. `user_id` None:
    nobody signed in, or the agent does not know. `status`: exit or HTTP status, once it is closed.
    `rx_bytes` and `tx_bytes`: received by the workspace and sent by it, as far as is known once it is closed; of web
    apps a minute after the last request. Source: coder codersdk/connectionlog.go.
    """

    id: UUID
    opened: bool
    kind: str
    workspace_id: UUID
    agent_name: str
    user_id: UUID | None = None
    ip: str = ""
    target: str = ""
    status: int | None = None
    reason: str = ""
    user_agent: str = ""
    rx_bytes: int | None = None
    tx_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Audited:
    """On a coder server: somebody changed something, signed in or out, or failed to. Never holds a secret.

    `action`: create, write, delete, login, logout; `resource`: user, api_key, workspace, workspace_agent,
    workspace_app, port_share …; `target`: its name; `user`: who it was ("" = nobody known); `status`: the HTTP status
    of the answer; `request_id`: as in the server's log. Source: coder codersdk/audit.go.
    """

    action: str
    resource: str
    target: str
    user: str
    ip: str
    status: int
    request_id: str = ""


Event = (
    PathChanged
    | PathExplained
    | PeerChanged
    | RelayChanged
    | ControlChanged
    | OutsideRefused
    | WorkspaceConnection
    | Audited
)


class EventSink(Protocol):
    """Takes events; must not block or raise."""

    def __call__(self, event: Event, /) -> None: ...
