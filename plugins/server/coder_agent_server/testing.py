"""For tests, of this package and of plugins that add routes: a whole server on loopback, and people to sign in.

Needs httpx2, which the server itself does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from coder_agent.base.addresses import AddrPort
from coder_agent.hooks import hookimpl
from coder_agent.hooks.interfaces import RelayBackend, WebSocketLike
from coder_agent.hooks.manager import PluginHost, build_plugin_manager
from coder_agent.hooks.settings import Settings, load_settings

from .options import ServerOptions, resolve_options
from .passwords import Passwords
from .serving import Running, open_server
from .settings import ServerSettings

PASSWORD = "correct horse battery"


class EchoRelay:
    """A relay that sends everything back: what matters here is the door, not the room behind it."""

    name = "echo"

    def __init__(self) -> None:
        self.remotes: list[AddrPort | None] = []
        self.transports: set[asyncio.Transport] = set()

    def upgrade_head(self) -> bytes:
        """The head of the answer."""
        return b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Close everything at the end."""
        yield
        for transport in self.transports:
            transport.abort()

    def accept(self, transport: object, initial: bytes, remote: AddrPort | None) -> None:
        """Greet, then echo."""
        assert isinstance(transport, asyncio.Transport)
        self.remotes.append(remote)
        self.transports.add(transport)
        transport.set_protocol(_Echo(transport))
        transport.write(b"ready:" + initial)

    async def accept_websocket(self, socket: WebSocketLike, remote: AddrPort | None) -> None:
        """Echo."""
        self.remotes.append(remote)
        while (data := await socket.receive()) is not None:
            await socket.send(data)

    def metrics(self) -> Mapping[str, int]:
        """One."""
        return {"clients": len(self.transports)}


class _Echo(asyncio.Protocol):
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class RelayPlugin:
    """The plugin that offers it."""

    def __init__(self, relay: EchoRelay) -> None:
        self._relay = relay

    @hookimpl
    def coder_relay_backends(self, settings: Settings) -> Sequence[RelayBackend]:
        """The hook."""
        return [self._relay]


@dataclass
class Server:
    """A running server and how to start it again on the same data."""

    running: Running
    relay: EchoRelay

    @property
    def url(self) -> str:
        """The access URL."""
        return self.running.access_url

    @property
    def address(self) -> tuple[str, int]:
        """Where HTTP is."""
        at = self.running.http
        assert at is not None
        return at.host, at.port


def make_options(data_dir: Path, **settings: Any) -> ServerOptions:
    """Options for tests: any free port; no STUN and no rate limit (tests poll) unless asked for."""
    quiet = {"http_address": "127.0.0.1:0", "stun_address": "disable", "api_rate_limit": -1}
    chosen = {**quiet, "data_dir": str(data_dir), **settings}
    return resolve_options(ServerSettings(**chosen), lambda: data_dir)


def make_host(*plugins: tuple[str, object]) -> PluginHost:
    """Only these plugins."""
    return build_plugin_manager(discover=False, extra=plugins)


@asynccontextmanager
async def run_server(data_dir: Path, *plugins: tuple[str, object], **settings: Any) -> AsyncIterator[Server]:
    """A server until the end of the block, with passwords that are quick to check."""
    relay = EchoRelay()
    host = make_host(("relay", RelayPlugin(relay)), *plugins)
    async with open_server(make_options(data_dir, **settings), host, load_settings(host)) as running:
        running.deployment.passwords = Passwords(PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64),)))
        yield Server(running, relay)


class Api(httpx2.AsyncClient):
    """An HTTP client of one user."""

    def __init__(self, url: str, token: str = "") -> None:
        super().__init__(base_url=url, headers={"Coder-Session-Token": token} if token else {})
        self.token = token


@asynccontextmanager
async def first_user(url: str, name: str = "alice") -> AsyncIterator[Api]:
    """Make the first user and sign in."""
    body = {"email": f"{name}@example.org", "username": name, "password": PASSWORD, "trial": False}
    async with Api(url) as anonymous:
        assert (await anonymous.post("/api/v2/users/first", json=body)).status_code == 201
    async with sign_in(url, name) as api:
        yield api


@asynccontextmanager
async def another_user(owner: Api, url: str, name: str) -> AsyncIterator[Api]:
    """Let the owner make a user, who signs in."""
    body = {"email": f"{name}@example.org", "username": name, "password": PASSWORD}
    assert (await owner.post("/api/v2/users", json=body)).status_code == 201
    async with sign_in(url, name) as api:
        yield api


@asynccontextmanager
async def sign_in(url: str, name: str) -> AsyncIterator[Api]:
    """Sign in with the password that everybody here has."""
    async with Api(url) as anonymous:
        reply = await anonymous.post("/api/v2/users/login", json={"email": f"{name}@example.org", "password": PASSWORD})
        assert reply.status_code == 201, reply.text
    async with Api(url, reply.json()["session_token"]) as api:
        yield api


async def eventually(check: Callable[[], Awaitable[object]], *, timeout: float = 10.0) -> None:
    """Return once `check()` answers something true. For what another process or connection brings about."""
    with anyio.fail_after(timeout):
        while not await check():  # noqa: ASYNC110 - there is no event: the answer is on the other side of HTTP
            await anyio.sleep(0.01)
