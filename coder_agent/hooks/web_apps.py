"""The seams of web apps: who answers on a connection of the server, and how an app in a workspace is reached.

Imported for annotations and by the server and its plugins; `coder --help` never pays for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from uuid import UUID

from anyio.abc import ByteStream


class RequestMark(Protocol):
    """What the server gives to a request: its id, and its place in figures and access log."""

    @property
    def identifier(self) -> str:
        """The request's id: also that of every log line of the task that called `TakenConnection.begin`."""
        ...

    @property
    def lines(self) -> bytes:
        """Header lines, each with its line end, that the final answer must carry: the id, and for TLS what
        ``--strict-transport-security`` asks for."""
        ...

    def end(self, status: int) -> None:
        """It was answered with `status`; 0 = it was not."""
        ...


class TakenConnection(Protocol):
    """An HTTP/1.1 connection to a coder server, given to a `ConnectionRoute` with reading paused."""

    @property
    def transport(self) -> object:
        """The asyncio.Transport: set a protocol on it, then resume reading."""
        ...

    @property
    def initial(self) -> bytes:
        """What has arrived, beginning with the request that was claimed."""
        ...

    @property
    def secure(self) -> bool:
        """Does TLS protect it?"""
        ...

    @property
    def client(self) -> tuple[str, int] | None:
        """The peer's address; None on a Unix socket."""
        ...

    def begin(self, method: bytes, target: bytes, named: Mapping[bytes, bytes]) -> RequestMark:
        """A request of this connection is being answered; one that cannot be read has an empty method and target.
        `named`: its headers, by names in lower case. Cheap; `RequestMark.end` must follow, whatever happens."""
        ...

    def give_back(self, data: bytes) -> None:
        """The next request on the connection begins with `data` and is not ours: the server goes on."""
        ...


class ConnectionRoute(Protocol):
    """Answers requests on the connection itself, before routing. `coder_server_routes` may return it among its routes.

    For what ASGI cannot say: trailers, half-close, foreign upgrades, heads exactly as they were sent.
    """

    name: str

    def open(self) -> AbstractAsyncContextManager[None]:
        """Entered before the server listens; on exit every connection is closed."""
        ...

    def claims(self, head: bytes) -> bool:
        """Is the request that begins with `head` (whole up to its empty line, or longer than allowed) ours? Asked for
        every request of the server: it must be quick and must not wait."""
        ...

    def accept(self, connection: TakenConnection) -> None:
        """Take over a connection whose next request was claimed. Must not wait."""
        ...


@dataclass(frozen=True, slots=True)
class AppTarget:
    """Where an app is, for an `AppProxy`. `scheme`, `host` and `port` are those of the app's URL, `port` 0 = none."""

    scheme: str
    host: str
    port: int
    url: str
    agent_id: UUID
    owner: str
    workspace: str
    agent: str
    app: str
    """Its slug, or the number of the port."""


@runtime_checkable
class ReadyStream(Protocol):
    """What streams of `Dial` can do besides: for who keeps many with little data, waking a task for each is much."""

    on_news: Callable[[], None] | None
    """Called when something arrived, there is room again, or the connection ended."""

    def receive_nowait(self) -> bytes | None:
        """What arrived; empty at the end of data, None if there is nothing yet. Raises as `receive`."""
        ...

    def send_nowait(self, item: bytes) -> bool:
        """Queue all of `item`, if there is room for it; else nothing. Raises as `send`."""
        ...


Dial = Callable[[UUID, int], Awaitable[ByteStream]]
"""Connect to a TCP port of a workspace: (agent, port), through the server's tailnet. Raises PeerUnreachable,
TransportBroken."""


class AppProxy(Protocol):
    """Reaches apps whose URL has one of `schemes` (hook `coder_app_proxies`). Ours are `http` and `https`."""

    name: str
    schemes: Collection[str]

    async def connect(self, target: AppTarget, dial: Dial) -> ByteStream:
        """A fresh connection that speaks HTTP/1.1. It is used for several requests one after the other, and for the
        bytes behind a `101`. Raises PeerUnreachable, TransportBroken; given up after 30 s."""
        ...


@runtime_checkable
class PooledProxy(AppProxy, Protocol):
    """An `AppProxy` whose connections must not outlive one request."""

    keep_alive: bool
