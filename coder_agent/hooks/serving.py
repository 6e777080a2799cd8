"""What extends a server: sources of relay maps, relays, ways to sign in, and what routes are handed.

Part of interfaces.py, by which plugins import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # annotations only: `coder --help` imports this module and shall not pay for keys and tasks
    import ssl
    from uuid import UUID

    import anyio.abc

    from ..base.addresses import AddrPort
    from ..base.derp_map import DerpMap
    from .events import Event
    from .server_tailnet import ServerTailnet
    from .settings import Settings
    from .web import AgentPlace, PortShare, WebApp
    from .web_apps import AppProxy


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
