"""The seams: what plugins implement and what they are handed. Typed Protocols, no behaviour.

Hooks (hookspecs.py) run once, during composition, and return objects that satisfy these protocols; everything
asynchronous happens on the objects. Data-path calls are synchronous, run on the event loop's thread and must not block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from .egress import OPEN, Egress

if TYPE_CHECKING:  # annotations only: `coder --help` imports this module and shall not pay for keys and tasks
    import ssl
    from uuid import UUID

    import anyio.abc

    from ..base.addresses import AddrPort
    from ..base.burst import Burst
    from ..base.derp_map import DerpMap
    from ..base.keys import NodePrivate, NodePublic
    from ..base.nat_facts import NatFacts
    from ..base.node import Node
    from ..base.paths import Path
    from .events import Event, EventSink
    from .server_tailnet import LocalRelay, ServerTailnet
    from .settings import Settings
    from .web import AgentPlace, PortShare, WebApp
    from .web_apps import AppProxy

API_VERSION = 1
"""Version of this file. A plugin module may state ``__coder_api__ = 1``; another number is refused at load."""


# ---------------------------------------------------------------- transports


class PacketSink(Protocol):
    """Where a transport delivers. Called on the loop's thread; a burst is borrowed until the call returns."""

    def on_burst(self, burst: Burst, path: Path) -> None:
        """Ciphertext, disco or STUN packets that came by `path` (DerpPath.key = the sender)."""
        ...

    def on_drained(self) -> None:
        """One wake-up of the transport is over: time to acknowledge, wake the application and send."""
        ...

    def on_writable(self, transport: Transport) -> None:
        """A `send` of this transport that answered False may be tried again."""
        ...

    def on_path_error(self, path: Path, error: OSError) -> None:
        """A send failed for a reason that says something about the path (EHOSTUNREACH, EPERM …)."""
        ...


class Transport(Protocol):
    """Carries ciphertext. Never decides anything; never sees plaintext."""

    name: str
    headroom: int
    """Bytes this transport likes to have before each packet (0 for UDP, 37 for DERP). It copes with less by copying."""

    def send(self, burst: Burst, path: Path) -> bool:
        """Send now, without waiting. True: taken (or lost like any datagram). False: full; nothing was taken, and
        `PacketSink.on_writable` follows when there is room again. Never raises for network reasons.
        """
        ...

    def stats(self) -> Mapping[str, int]:
        """Counters since the start; names are stable."""
        ...


class DirectTransport(Transport, Protocol):
    """Carries UdpPath."""

    def bound_ports(self) -> tuple[int | None, int | None]:
        """Local UDP ports for IPv4 and IPv6; None where that family could not be bound."""
        ...

    def rebind(self) -> None:
        """Reopen the sockets, keeping the ports if possible (after a link change or a telling send error). Extra
        sockets are closed."""
        ...

    def open_extra(self, count: int) -> Sequence[int]:
        """Open up to `count` more IPv4 sockets on ports of the kernel's choice and return their names
        (`UdpPath.local`), fewer where the system has no more. What they receive comes to the same sink."""
        ...

    def close_extra(self, names: Sequence[int]) -> None:
        """Close extra sockets; unknown names are ignored."""
        ...


@runtime_checkable
class MeasuringTransport(Transport, Protocol):
    """A direct transport that can forbid fragmentation, too. With one that cannot, tunnel packets stay at 1280 B."""

    def send_whole(self, burst: Burst, path: Path) -> bool:
        """Send a burst of one packet; neither this machine nor any router may cut it up. False = it cannot be sent
        like that: it is too large for the local link, or there is no way to forbid it here."""
        ...


class RelayTransport(Transport, Protocol):
    """Carries DerpPath; dials regions on demand."""

    def set_map(self, derp_map: DerpMap) -> None:
        """A new relay map: connections to regions that changed or vanished are closed."""
        ...

    def set_home(self, region: int) -> None:
        """Keep a connection to `region` for ever and tell relays which one is home. 0 = none yet."""
        ...

    def forced_websocket(self) -> Mapping[int, str]:
        """Regions that fell back to WebSocket, with the reason (Node.derp_forced_websocket)."""
        ...

    def connected(self, region: int) -> bool:
        """True once ServerInfo of that region has arrived and the connection still lives."""
        ...


@runtime_checkable
class RecoveringTransport(RelayTransport, Protocol):
    """A relay transport that can be told of what may have killed its connections. One that cannot finds out itself,
    by its own time-outs."""

    def reconnect(self, reason: str) -> None:
        """Connections may be dead without a sign (the machine slept): replace those that are needed, close the rest."""
        ...

    def link_changed(self) -> None:
        """The network under us changed: connections whose own address is gone are dead, others may be. Replace the
        former at once, and the latter if the relay does not answer within a few seconds; end every pause."""
        ...


@runtime_checkable
class WarmTransport(RelayTransport, Protocol):
    """A relay transport that can connect to a region before anything is sent there. With one that cannot, the second
    relay of a node (docs/hostile-networks.md) is dialled when it is needed."""

    def keep_warm(self, region: int) -> None:
        """Data may be sent through `region` from one moment to the next: connect now if need be, and count this as a
        use. Called every few seconds while it holds."""
        ...


@runtime_checkable
class DoubtingTransport(RelayTransport, Protocol):
    """A relay transport that can find out whether a connection still lives."""

    def doubt(self, region: int) -> None:
        """Ask the relay for an answer; a connection on which none comes within two seconds is closed."""
        ...


@dataclass(slots=True)
class DialOptions:
    """How outgoing HTTP, WebSocket and relay connections are made.

    `headers` go on every request, and so do the lines ``Name=value`` that the program `header_command` prints, which
    finds `server_url` in CODER_URL (`coder_agent.http.headers_of` puts them together). `ca_file` adds a CA to the
    system's; `client_cert_file` and `client_key_file` are shown to servers that ask for a certificate. `proxy` is a
    URL, None (as the environment says) or "" (none). `egress` is
    asked before anything is looked up or connected to.
    """

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    insecure: bool = False
    proxy: str | None = field(default=None, repr=False)
    header_command: str = ""
    server_url: str = ""
    client_cert_file: str | None = None
    client_key_file: str | None = None
    egress: Egress = field(default=OPEN, repr=False, compare=False)


@dataclass(slots=True)
class TransportContext:
    """What a transport is opened with."""

    sink: PacketSink
    node_key: NodePrivate
    emit: EventSink
    listen_port: int = 0
    force_websockets: bool = False
    dial: DialOptions = field(default_factory=DialOptions)
    local_relay: LocalRelay | None = None
    """A relay transport reaches this one's region without dialling."""


class TransportFactory(Protocol):
    """What `coder_transports` returns. `kind` says which Path it carries: one transport of each kind is used."""

    name: str
    kind: Literal["direct", "relay"]

    def open(self, context: TransportContext) -> AbstractAsyncContextManager[Transport]:
        """Bind, start tasks (in a task group of its own), yield the transport; close everything on exit."""
        ...


# ---------------------------------------------------------------- NAT traversal


class CandidateKind(StrEnum):
    """Where a candidate endpoint comes from (tailscale magicsock.go determineEndpoints), in order of publication."""

    PORTMAPPED = "portmapped"
    STUN = "stun"
    STUN_LOCAL_PORT = "stun4localport"
    STATIC = "static"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One endpoint at which peers may reach us."""

    addr: AddrPort
    kind: CandidateKind


class CandidateContext(Protocol):
    """What a candidate source may see and do."""

    @property
    def key(self) -> NodePublic:
        """Our own node's key."""
        ...

    @property
    def direct(self) -> DirectTransport:
        """The data socket: STUN must leave through it, for it is that socket's mapping that peers need."""
        ...

    def derp_map(self) -> DerpMap:
        """The relay map in force."""
        ...

    def publish(self, source: str, candidates: Sequence[Candidate]) -> None:
        """Replace all that `source` said before."""
        ...

    def send(self, data: bytes, addr: AddrPort) -> None:
        """Send one datagram through the data socket."""
        ...

    def on_stun(self, handler: Callable[[bytes, AddrPort, float], None]) -> Callable[[], None]:
        """Hand every received STUN packet (data, source, now) to `handler`. Returns the call that unsubscribes."""
        ...

    def report_latency(self, region: int, family: Literal["v4", "v6"], seconds: float) -> None:
        """A relay region's measured latency: chooses the home region and goes into our published node."""
        ...

    def report_mapping_varies(self, varies: bool | None) -> None:
        """Does our NAT give each destination another port? None = not known."""
        ...

    def report_nat(self, facts: NatFacts) -> None:
        """What this source learnt about our network; what it leaves unknown keeps its last value."""
        ...

    def request_rebind(self, reason: str) -> None:
        """The network under us changed (a restarted gateway, say): fresh sockets, look for everything again."""
        ...

    def peers(self) -> Sequence[Node]:
        """The peers that the node knows now."""
        ...

    def on_peers(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call `handler` whenever `peers` has changed. Returns the call that unsubscribes."""
        ...

    def suggest(self, source: str, peer: NodePublic, endpoints: Sequence[AddrPort]) -> None:
        """`source` saw `peer` at these addresses (on the LAN, say): try them. Replaces what it said of that peer; it is
        forgotten with the peer."""
        ...

    async def wait_refresh(self) -> str:
        """Return, with the reason, when candidates should be looked for again (re-STUN triggers). The first call
        returns at once with ``"start"``."""
        ...


class CandidateSource(Protocol):
    """Proposes endpoints of ours (STUN, interfaces, port mapping, mDNS, static configuration)."""

    name: str

    async def run(self, context: CandidateContext) -> None:
        """Publish candidates until cancelled. An exception is logged and the source restarted with back-off."""
        ...


# ---------------------------------------------------------------- services of an agent


class AgentService(Protocol):
    """A service that an agent offers inside the tunnel, on TCP `port` (coder tailnet/conn.go)."""

    name: str
    port: int

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """Serve one connection until it ends. Cancelled when the agent stops; the stream is closed afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """Which workspace an agent serves, as its server says (coder agent/proto/agent.proto, Manifest).

    `directory` may be empty or start with ``~``; `environment` is meant for shells and programs of the workspace.
    Of its node, as soon as there is one: `nat` is what it knows about its own network, `home` its relay region (0 =
    none), `counters` what it sent, received and dropped.
    """

    url: str
    agent_id: UUID
    workspace_id: UUID
    agent_name: str = ""
    workspace_name: str = ""
    owner_username: str = ""
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    nat: NatFacts | None = None
    home: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)


@runtime_checkable
class LivingService(AgentService, Protocol):
    """An agent service that outlives its connections (it keeps shells, say), or that must know whom it serves."""

    def open(self, facts: Callable[[], AgentFacts]) -> AbstractAsyncContextManager[None]:
        """Entered before the first `serve`, left after the last one was cancelled: end there what must not survive the
        agent, under a shield, for the agent is being cancelled, and within five seconds. `facts` answers what the
        server said last."""
        ...


# ---------------------------------------------------------------- server side


class DerpMapSource(Protocol):
    """Says which relays there are beside a coder server's own: from a file, a URL, a service discovery.

    `refresh`: seconds between two looks; 0 = only at the start and when the server is told to reload (SIGHUP).
    """

    name: str
    refresh: float

    async def fetch(self) -> DerpMap:
        """The map now. Given up after 15 s. While this fails, what it last said stays in force, across restarts of the
        server too. Raises CoderAgentError: ConfigError if only the operator can mend it, which stops a starting server.
        """
        ...


class RelayBackend(Protocol):
    """A relay that runs inside a coder server."""

    name: str

    def upgrade_head(self) -> bytes:
        """The whole 101 response head for `Upgrade: DERP` without fast start."""
        ...

    def open(self) -> AbstractAsyncContextManager[None]:
        """Start; on exit close all sessions."""
        ...

    def accept(self, transport: object, initial: bytes, remote: AddrPort | None) -> None:
        """Take over a connection (an asyncio.Transport) whose head was answered; `initial` = bytes behind the head."""
        ...

    async def accept_websocket(self, socket: WebSocketLike, remote: AddrPort | None) -> None:
        """Serve one accepted WebSocket (subprotocol ``derp``) until it closes."""
        ...

    def metrics(self) -> Mapping[str, int]:
        """Counters: clients, frames, bytes, drops by reason."""
        ...


@runtime_checkable
class ExtendsChain(Protocol):
    """A RelayBackend that puts something behind the TLS certificate of its server, such as DERP's fast start does."""

    def load_chain(self, context: ssl.SSLContext, cert_file: str, key_file: str) -> None:
        """As `context.load_cert_chain`, and more behind the chain. Called again every ten days and on SIGHUP, also with
        the context in use. Raises OSError."""
        ...


class WebSocketLike(Protocol):
    """The part of a WebSocket that a relay needs. `receive` returns None when the peer closed."""

    async def receive(self) -> bytes | None: ...
    async def send(self, data: bytes) -> None: ...
    async def close(self, code: int = 1000) -> None: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is. `subject` is stable and unique within the authenticator that says so.

    For a visitor whom the server itself knows (`ServerContext.authenticate`) `user_id` is the account, `roles` are
    hooks/web.py OWNER_ROLE and MEMBER_ROLE, `scope` is what the key may be used for (SCOPE_ALL, SCOPE_APPS, or another
    of the server's), `key_id` the public half of that key.
    """

    subject: str
    username: str
    email: str = ""
    user_id: UUID | None = None
    roles: frozenset[str] = frozenset()
    scope: str = "all"
    key_id: str = ""


class Authenticator(Protocol):
    """A way to sign in with a name and a secret (the server's own accounts are asked first)."""

    name: str

    async def authenticate(self, login: str, secret: str) -> Identity | None:
        """Who this is; None = not mine or wrong. Takes the same time for unknown logins as for wrong secrets."""
        ...


class ServerContext(Protocol):
    """What a server hands to `coder_server_routes`."""

    @property
    def settings(self) -> Settings:
        """The effective configuration."""
        ...

    @property
    def access_url(self) -> str:
        """The one address at which users and agents reach the server, without a trailing slash."""
        ...

    @property
    def tailnet(self) -> ServerTailnet:
        """The way into workspaces for everything that the server itself serves: one node for all web traffic."""
        ...

    @property
    def wildcard_access_url(self) -> str:
        """Host pattern of subdomain apps, ``*.apps.example.com[:port]`` in lower case; empty = there are none."""
        ...

    @property
    def stopping(self) -> anyio.Event:
        """Set when the server is going away: whatever would go on for ever ends then."""
        ...

    def secret(self, purpose: str) -> bytes:
        """64 secret bytes for `purpose`, the same in every process that serves this deployment, for ever."""
        ...

    async def authenticate(self, connection: object, *, token: str | None = None) -> Identity | None:
        """Who makes this request (a Starlette `Request` or `WebSocket`): by session cookie, query, header or Bearer, in
        Coder's order, or by `token` instead. None = nobody, or a key that is not valid. Origin and CSRF are not
        checked: `refuse_cross_site` does."""
        ...

    def refuse_cross_site(self, connection: object) -> bool:
        """Does this request carry our cookie but come from another site's page? Then it must not be served."""
        ...

    def believe_proxies(self, scope: dict[str, object]) -> None:
        """Put what trusted reverse proxies say of a request (address, scheme) into an ASGI scope that a
        `ConnectionRoute` made, and remove what others say. Requests that come as such have passed this already."""
        ...

    def app_proxies(self) -> Sequence[AppProxy]:
        """What plugins offer by `coder_app_proxies`."""
        ...

    def client_address(self, connection: object) -> str:
        """Where the visitor is: the peer's address, or what a trusted reverse proxy says."""
        ...

    async def find_agent(
        self, owner: str, workspace: str, agent: str | None = None, *, visitor: Identity | None
    ) -> AgentPlace | None:
        """An agent that `visitor` may use in every way (`hooks.web.may_use`). `owner`: a user's name or id, or ``me``;
        `agent` None = the only one. None = there is none, or it is forbidden: nobody can tell which."""
        ...

    async def find_agent_by_id(self, agent_id: UUID, *, visitor: Identity | None) -> AgentPlace | None:
        """The same for routes that name an agent by its id (``/api/v2/workspaceagents/{agent}/…``)."""
        ...

    async def find_app(
        self, owner: str, workspace: str, agent: str | None, slug: str, *, visitor: Identity | None
    ) -> tuple[AgentPlace, WebApp] | None:
        """An app that `visitor` may open. `agent` None = whichever has it. None as in `find_agent`."""
        ...

    async def find_port(
        self, owner: str, workspace: str, agent: str | None, port: int, *, visitor: Identity | None
    ) -> tuple[AgentPlace, PortShare] | None:
        """A port that `visitor` may open. What is not shared has the level `owner`. None as in `find_agent`."""
        ...

    def watch_key(self, visitor: Identity, close: Callable[[str], None]) -> Callable[[], None]:
        """Call `close` with a reason, once, when the visitor's key is revoked: what goes on for long must end then.
        `close` must not wait. Returns the call that ends the watch."""
        ...

    async def issue_key(self, visitor: Identity, scope: str, lifetime: float) -> str:
        """A new key of `visitor` with this scope, good for `lifetime` seconds at most: it ends with the visitor's own
        key. Raises ValueError if the visitor's scope does not cover it."""
        ...

    async def used(self, place: AgentPlace) -> None:
        """Somebody uses this workspace. Written at most once a minute."""
        ...

    def emit(self, event: Event) -> None:
        """Tell observers (`coder_event`), such as the connection log, of what happened (hooks/events.py)."""
        ...


# ---------------------------------------------------------------- commands, settings


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command, described without importing what it runs (start-up time is a feature).

    `target` is ``module:function``; the function is an ordinary typer command, sync or async, and finds the `Cli`
    object (settings, plugins, credentials) in ``typer.Context.obj``. `program`: which of our two programs. `group`:
    the command is reached as ``coder GROUP NAME``. `hidden` commands work but are not listed.
    """

    name: str
    help: str
    target: str
    program: Literal["coder", "coder-agent"] = "coder"
    group: str = ""
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class SettingsSpec:
    """A plugin's own section ``[plugins.NAME]``. `target` is ``module:Model``, a pydantic model with defaults.

    A field may name further environment variables beside ``CODER_PLUGIN_<NAME>__<KEY>`` with
    ``Field(json_schema_extra={"env": "CODER_ACCESS_URL"})``.
    """

    plugin: str
    target: str
