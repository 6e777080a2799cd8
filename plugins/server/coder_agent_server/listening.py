"""Sockets and uvicorn: what it takes to serve ASGI applications on several addresses until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import anyio.abc
import uvicorn
from starlette.types import ASGIApp

from coder_agent.errors import ConfigError
from coder_agent.hooks.web_apps import ConnectionRoute
from coder_agent.tls_server import TlsGate

from .connection_routes import protocol_for
from .options import HostPort, ServerOptions
from .request_marks import Marker
from .websockets import QuietWebSocketProtocol

BACKLOG = 1024
"""Connections that may wait to be accepted."""
GRACE_SECONDS = 2
"""How long requests in progress may take when the server stops."""
WEBSOCKET_PING_SECONDS = 15.0
"""Source: coder coderd/httpapi/websocket.go. Proxies cut silent connections, usually after a minute."""
WEBSOCKET_PONG_SECONDS = 30.0
MAX_WEBSOCKET_MESSAGE = 4 << 20
"""What stock agents read at most, too. Source: coder codersdk/agentsdk."""
MAX_HEAD_BYTES = 64 << 10
"""Longest request head: cookies and resume tokens need a few kilobytes."""

Kind = Literal["http", "https", "metrics"]


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound and listening socket."""

    socket: socket.socket
    kind: Kind
    path: Path | None = None
    """File to remove at the end, of a unix socket that we made."""

    @property
    def is_ip(self) -> bool:
        """TCP; else a unix socket, which has no address for others."""
        return self.socket.family != UNIX

    @property
    def bound(self) -> HostPort:
        """Where it really is: the port may have been 0."""
        name = self.socket.getsockname()
        return HostPort(str(name[0]), int(name[1]))


UNIX = getattr(socket, "AF_UNIX", None)


@contextmanager
def open_listeners(options: ServerOptions, inherited: Sequence[Listener] = ()) -> Iterator[list[Listener]]:
    """Everything that `options` wants to listen on; what was `inherited` (activation.py) takes the place of an address
    of its kind. Raises ConfigError."""
    wanted: list[tuple[str, HostPort | None, Kind]] = [
        ("http_address", options.http_address, "http"),
        ("tls_address", options.tls.address if options.tls is not None else None, "https"),
        ("prometheus_address", options.metrics_address, "metrics"),
    ]
    found: list[Listener] = list(inherited)
    given = {listener.kind for listener in found}
    if "https" in given and options.tls is None:
        raise ConfigError("a socket for HTTPS was handed over, but TLS is off", hint="set --tls-enable")
    try:
        for setting, address, kind in wanted:
            if address is not None and kind not in given:
                found.append(Listener(listen(setting, address), kind))
        if options.http_socket is not None:
            found.append(Listener(listen_unix(options.http_socket), "http", options.http_socket))
        yield found
    finally:
        for listener in found:
            listener.socket.close()
            if listener.path is not None:
                listener.path.unlink(missing_ok=True)


def listen_unix(path: Path) -> socket.socket:
    """A listening unix socket for this user and his group. What a dead server left there is replaced.

    Raises ConfigError. It is made under another name and renamed, so that nobody can connect before its mode is right.
    """
    if UNIX is None:
        raise ConfigError("http_socket: this system has no unix sockets", hint="use --http-address")
    found = socket.socket(UNIX, socket.SOCK_STREAM)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        if path.is_socket() and _answers(path):
            raise ConfigError(f"another server listens on {path}", hint="stop it, or choose another --http-socket")
        if path.exists() and not path.is_socket():
            raise ConfigError(f"http_socket: {path} exists and is no socket", hint="choose another --http-socket")
        found.setblocking(False)
        found.bind(str(fresh))
        fresh.chmod(0o660)
        found.listen(BACKLOG)
        fresh.replace(path)
    except (OSError, ConfigError) as exc:
        found.close()
        fresh.unlink(missing_ok=True)
        if isinstance(exc, ConfigError):
            raise
        raise ConfigError(
            f"cannot listen on {path}: {exc.strerror or exc}", hint="choose another place with --http-socket"
        ) from exc
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def listen(setting: str, address: HostPort) -> socket.socket:
    """A listening TCP socket. Raises ConfigError naming `setting`."""
    flag = setting.replace("_", "-")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise ConfigError(f"{setting}: {address.host!r} is not an address of this machine: {exc.strerror}") from exc
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # restart at once, even while old connections are in TIME_WAIT
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.setblocking(False)
        found.bind(target)
        found.listen(BACKLOG)
    except OSError as exc:
        found.close()
        raise ConfigError(
            f"cannot listen on {address}: {exc.strerror or exc}",
            hint=f"stop what uses it, or choose another address with --{flag}",
        ) from exc
    return found


# ---------------------------------------------------------------- uvicorn


def over_tls(tls: ssl.SSLContext, protocol: Callable[..., asyncio.Protocol]) -> Callable[..., asyncio.BaseProtocol]:
    """`protocol` behind TLS whose connections share a buffer: with asyncio's own, each relayed client costs 256 KiB."""
    gates: list[TlsGate] = []

    def make(**shared: object) -> asyncio.BaseProtocol:
        if not gates:  # uvicorn gives every connection of a server the same
            gates.append(TlsGate(tls, lambda: protocol(**shared)))
        return gates[0].protocol()

    return make


def http_config(
    app: ASGIApp,
    tls: ssl.SSLContext | None,
    connection_routes: Sequence[ConnectionRoute] = (),
    marker: Marker | None = None,
) -> uvicorn.Config:
    """uvicorn, told to be quiet, bounded, and to use our protocols."""
    config = uvicorn.Config(
        app,
        http=protocol_for(connection_routes, marker),
        ws=QuietWebSocketProtocol,
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        ws_ping_interval=WEBSOCKET_PING_SECONDS,
        ws_ping_timeout=WEBSOCKET_PONG_SECONDS,
        ws_per_message_deflate=False,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    config.load()
    if tls is not None:
        config.http_protocol_class = over_tls(tls, config.http_protocol_class)  # type: ignore[assignment]
    # At INFO it writes every WebSocket's path with its query, in which there may be tokens.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return config


class HttpServer(uvicorn.Server):
    """uvicorn without its own idea of signals: whoever runs us decides when to stop."""

    on_started: Callable[[], None] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.on_started is not None:
            self.on_started()


@asynccontextmanager
async def serving(servers: Sequence[HttpServer], listeners: Sequence[Listener]) -> AsyncIterator[None]:
    """Serve during the block; at its end finish what is in progress, within GRACE_SECONDS."""
    async with anyio.create_task_group() as tasks:
        for server, listener in zip(servers, listeners, strict=True):
            await tasks.start(_serve_one, server, listener.socket)
        try:
            yield
        finally:
            for server in servers:
                server.should_exit = True


async def _serve_one(server: HttpServer, listener: socket.socket, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    server.on_started = task_status.started
    with anyio.CancelScope(shield=True):  # it ends by should_exit, which gives requests their grace
        await server.serve(sockets=[listener])
