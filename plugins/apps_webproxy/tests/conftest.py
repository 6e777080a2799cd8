"""A server's front door without the server: the route on a real socket, people and apps from dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import anyio
import pytest
from coder_agent_apps_webproxy.proxy import AppRoute
from coder_agent_apps_webproxy.settings import WebproxySettings
from starlette.requests import HTTPConnection

from coder_agent.hooks import Identity, Settings
from coder_agent.hooks.events import Event
from coder_agent.hooks.web import (
    SCOPE_ALL,
    AgentPlace,
    PortShare,
    SharingLevel,
    WebApp,
    may_open,
)
from coder_agent.hooks.web_apps import AppProxy
from coder_agent.testing.loopback_tailnet import LoopbackTailnet

NAMESPACE = UUID("5d7c1c40-0d0f-4a1a-9a49-0c6c3c2f6b10")
WILDCARD = "*.apps.test"
DASHBOARD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndashboard"


def user_id(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


def token_of(name: str) -> str:
    """A session token in the form of real ones: 10-22."""
    return f"{name:0<10}-{name:x<22}"


@dataclass
class FakeServer:
    """What the proxy needs of a server (`ServerContext`)."""

    access_url: str = "http://coder.test"
    wildcard_access_url: str = WILDCARD
    settings: Settings = field(default_factory=Settings)
    tailnet: LoopbackTailnet = field(default_factory=LoopbackTailnet)
    proxies: Sequence[AppProxy] = ()
    keys: dict[str, Identity] = field(default_factory=dict)
    place: AgentPlace = field(init=False)
    asked: int = 0
    used_places: list[AgentPlace] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        owner = user_id("alice")
        self.place = AgentPlace(
            uuid5(owner, "agent"), "main", uuid5(owner, "dev"), "dev", owner, "alice", "connected",
            datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        )  # fmt: skip
        for name, roles in (("alice", {"member"}), ("bob", {"member"}), ("root", {"member", "owner"})):
            self.sign_in(name, roles)

    def sign_in(self, name: str, roles: set[str], scope: str = SCOPE_ALL, key: str = "") -> str:
        token = key or token_of(name)
        self.keys[token] = Identity(str(user_id(name)), name, "", user_id(name), frozenset(roles), scope, token[:10])
        return token

    def add_app(self, slug: str, port: int, level: SharingLevel = SharingLevel.OWNER, **more: Any) -> None:
        url = more.pop("url", f"http://localhost:{port}")
        app = WebApp(uuid5(NAMESPACE, slug), self.place.agent_id, slug, slug, url, sharing_level=level, **more)
        self.place = replace(self.place, apps=(*self.place.apps, app))

    def share(self, port: int, level: SharingLevel, **more: Any) -> None:
        self.place = replace(self.place, shares=(*self.place.shares, PortShare(port, level, **more)))

    def app_proxies(self) -> Sequence[AppProxy]:
        return self.proxies

    def believe_proxies(self, scope: dict[str, object]) -> None:
        pass

    def secret(self, purpose: str) -> bytes:
        return purpose.encode().ljust(64, b"!")

    async def authenticate(self, connection: object, *, token: str | None = None) -> Identity | None:
        assert isinstance(connection, HTTPConnection)
        self.asked += 1
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        shown = token if token is not None else (
            connection.cookies.get("coder_session_token")
            or connection.query_params.get("coder_session_token")
            or connection.headers.get("coder-session-token")
            or (bearer if scheme.lower() == "bearer" else "")
        )  # fmt: skip
        return self.keys.get(shown or "")

    async def issue_key(self, visitor: Identity, scope: str, lifetime: float) -> str:
        if visitor.scope not in (SCOPE_ALL, scope):
            raise ValueError("a narrower key makes no other")
        return self.sign_in(visitor.username, set(visitor.roles), scope, token_of(f"k{visitor.username}"))

    async def find_app(
        self, owner: str, workspace: str, agent: str | None, slug: str, *, visitor: Identity | None
    ) -> tuple[AgentPlace, WebApp] | None:
        app = self.place.app(slug) if self._is_here(owner, workspace, agent) else None
        if app is None or not may_open(visitor, self.place.owner_id, app.sharing_level):
            return None
        return self.place, app

    async def find_port(
        self, owner: str, workspace: str, agent: str | None, port: int, *, visitor: Identity | None
    ) -> tuple[AgentPlace, PortShare] | None:
        share = self.place.share(port) or PortShare(port, SharingLevel.OWNER)
        if not self._is_here(owner, workspace, agent):
            return None
        return (self.place, share) if may_open(visitor, self.place.owner_id, share.sharing_level) else None

    async def used(self, place: AgentPlace) -> None:
        self.used_places.append(place)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def _is_here(self, owner: str, workspace: str, agent: str | None) -> bool:
        return (owner.lower(), workspace, agent or "main") == ("alice", "dev", "main")


@dataclass
class Mark:
    """Of one request."""

    identifier: str
    lines: bytes
    ended: list[int]

    def end(self, status: int) -> None:
        self.ended.append(status)


class Door(asyncio.Protocol):
    """Asks the route about each head, as the server does; everything else is the dashboard's."""

    def __init__(self, route: AppRoute) -> None:
        self.route = route
        self.buffer = b""
        self.secure = False
        self.client = ("192.0.2.7", 4711)
        self.marked: list[tuple[bytes, bytes]] = []
        self.ended: list[int] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if b"\r\n\r\n" not in self.buffer and len(self.buffer) < 70_000:
            return
        self.initial, self.buffer = self.buffer, b""
        if self.route.claims(self.initial):
            self.transport.pause_reading()
            self.route.accept(self)
        else:
            self.transport.write(DASHBOARD)
            if b"Connection: close" in self.initial:
                self.transport.close()

    def begin(self, method: bytes, target: bytes, named: Mapping[bytes, bytes]) -> Mark:
        self.marked.append((method, target))
        identifier = f"door-{len(self.marked)}"
        return Mark(identifier, f"X-Coder-Request-Id: {identifier}\r\n".encode(), self.ended)

    def give_back(self, data: bytes) -> None:
        self.transport.set_protocol(self)
        self.transport.resume_reading()
        if data:
            self.data_received(data)


@dataclass
class Place:
    """The front door's address, and what stands behind it."""

    server: FakeServer
    route: AppRoute
    port: int

    async def raw(self, data: bytes, *, timeout: float = 30.0, eof: bool = False) -> bytes:
        """Send bytes, read until the end."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            await stream.send(data)
            if eof:
                await stream.send_eof()
            received = b""
            with anyio.fail_after(timeout):
                try:
                    while True:
                        received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return received

    async def get(self, target: str, *, user: str = "", host: str = "coder.test", headers: str = "") -> Reply:
        """One GET on a connection of its own. `user`: whose session cookie."""
        cookie = f"Cookie: coder_session_token={token_of(user)}\r\n" if user else ""
        return Reply.parse(
            await self.raw(
                f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{cookie}{headers}\r\n".encode("latin-1")
            )
        )


@dataclass
class Reply:
    """A response, read simply."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> Reply:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return cls(int(first.split(" ")[1]) if first else 0, headers, body)

    def __getitem__(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@asynccontextmanager
async def open_place(server: FakeServer, **settings: Any) -> AsyncIterator[Place]:
    route = AppRoute(server, WebproxySettings(**settings), server.proxies)  # type: ignore[arg-type]  # part of it
    loop = asyncio.get_running_loop()
    async with route.open():
        listener = await loop.create_server(lambda: Door(route), "127.0.0.1", 0)
        try:
            yield Place(server, route, listener.sockets[0].getsockname()[1])
        finally:
            listener.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
async def place(server: FakeServer) -> AsyncIterator[Place]:
    async with open_place(server) as found:
        yield found


@pytest.fixture
def opened(server: FakeServer) -> Callable[..., AbstractAsyncContextManager[Place]]:
    """A front door with settings of the test's own."""
    return lambda **settings: open_place(server, **settings)
