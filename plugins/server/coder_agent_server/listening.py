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

    @property
    def bound(self) -> HostPort:
        """Where it really is: the port may have been 0."""
        name = self.socket.getsockname()
        return HostPort(str(name[0]), int(name[1]))


@contextmanager
def open_listeners(options: ServerOptions) -> Iterator[list[Listener]]:
    """Everything that `options` wants to listen on. Raises ConfigError."""
    wanted: list[tuple[str, HostPort | None, Kind]] = [
        ("http_address", options.http_address, "http"),
        ("tls_address", options.tls.address if options.tls is not None else None, "https"),
        ("prometheus_address", options.metrics_address, "metrics"),
    ]
    found: list[Listener] = []
    try:
        for setting, address, kind in wanted:
            if address is not None:
                found.append(Listener(listen(setting, address), kind))
        yield found
    finally:
        for listener in found:
            listener.socket.close()


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


def tls_context(options: ServerOptions) -> ssl.SSLContext | None:
    """Certificate and key, loaded. Raises ConfigError."""
    if options.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # the relay's upgrade does not exist in HTTP/2
    try:
        context.load_cert_chain(options.tls.cert_file, options.tls.key_file)
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "reason", None) or exc.strerror or str(exc)
        raise ConfigError(
            f"cannot use the certificate {options.tls.cert_file} with the key {options.tls.key_file}: {reason}",
            hint="both must be PEM files, and the key must belong to the certificate",
        ) from exc
    return context


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
    app: ASGIApp, tls: ssl.SSLContext | None, connection_routes: Sequence[ConnectionRoute] = ()
) -> uvicorn.Config:
    """uvicorn, told to be quiet, bounded, and to use our protocols."""
    config = uvicorn.Config(
        app,
        http=protocol_for(connection_routes),
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
