"""Bring a deployment up, serve it, and take it down in order."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import anyio
import anyio.abc
import anyio.lowlevel
import uvicorn
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from coder_agent.coordination.core import InMemoryCoordinator
from coder_agent.coordination.interface import Coordinator
from coder_agent.errors import ConfigError, PluginContractError
from coder_agent.hooks.interfaces import RelayBackend
from coder_agent.hooks.manager import PluginHost
from coder_agent.hooks.settings import Settings

from .app import build_app
from .deployment import Deployment, utc_now
from .derp_map import LiveDerpMap, build_derp_map
from .options import AccessUrl, HostPort, ServerOptions
from .store.agents import record_seen
from .store.database import open_database
from .store.deployment import open_deployment
from .stun import open_stun
from .upgrade import UpgradableH11Protocol
from .websockets import QuietWebSocketProtocol

logger = logging.getLogger("coder_agent.server")

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
SEEN_INTERVAL = 15.0
"""Seconds between two writes of `last_connected_at` for all connected agents."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections. `http` and `https` are the addresses really bound."""

    deployment: Deployment
    http: HostPort | None
    https: HostPort | None
    stun_port: int | None

    @property
    def access_url(self) -> str:
        """Where users and agents reach it."""
        return self.deployment.access_url


@asynccontextmanager
async def open_server(options: ServerOptions, host: PluginHost, settings: Settings) -> AsyncIterator[Running]:
    """Serve while the block runs; at its end close relay and control connections, then the listeners.

    Raises: ConfigError (port taken, database unusable, bad certificate), PluginError; all before anything is served.
    """
    async with AsyncExitStack() as stack:
        listeners = stack.enter_context(_listeners(options))
        tls = _tls_context(options)
        access_url = _access_url(options, listeners)
        stun_port = await _open_stun(stack, options)
        database = await stack.enter_async_context(open_database(options.database_path))
        async with database.write() as session:
            facts = await open_deployment(session, utc_now())
        deployment = Deployment(
            options=options,
            settings=settings,
            access_url=access_url.text,
            facts=facts,
            database=database,
            coordinator=_coordinator(host, settings),
            derp_map=LiveDerpMap(build_derp_map(options, access_url, stun_port)),
            relay=_relay(options, host, settings),
            authenticators=host.authenticators(settings),
        )
        app = build_app(deployment, _plugin_routes(host, deployment))
        if deployment.relay is not None:
            await stack.enter_async_context(deployment.relay.open())
        servers = [_HttpServer(_config(app, tls if listener.tls else None)) for listener in listeners]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_seen, deployment)
            try:
                async with _serving(servers, listeners):
                    try:
                        yield Running(
                            deployment,
                            next((at.bound for at in listeners if not at.tls), None),
                            next((at.bound for at in listeners if at.tls), None),
                            stun_port,
                        )
                    finally:
                        _say_goodbye(deployment)
            finally:
                tasks.cancel_scope.cancel()
        await _save_seen(deployment)


def _say_goodbye(deployment: Deployment) -> None:
    """End the long-lived connections: peers keep each other (LOST) and come back by themselves."""
    reason = "the server is shutting down"
    deployment.presence.close_all(reason)
    deployment.clients.close_all(reason)
    deployment.coordinator.close()


# ---------------------------------------------------------------- listening


@dataclass(frozen=True, slots=True)
class _Listener:
    socket: socket.socket
    tls: bool

    @property
    def bound(self) -> HostPort:
        name = self.socket.getsockname()
        return HostPort(str(name[0]), int(name[1]))


@contextmanager
def _listeners(options: ServerOptions) -> Iterator[list[_Listener]]:
    wanted = [("http_address", options.http_address, False)]
    if options.tls is not None:
        wanted.append(("tls_address", options.tls.address, True))
    found: list[_Listener] = []
    try:
        for setting, address, tls in wanted:
            if address is not None:
                found.append(_Listener(listen(setting, address), tls))
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


def _tls_context(options: ServerOptions) -> ssl.SSLContext | None:
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


def _access_url(options: ServerOptions, listeners: Sequence[_Listener]) -> AccessUrl:
    """The one configured, else the address of the first listener as seen from this machine."""
    if options.access_url is not None:
        return options.access_url
    first = listeners[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.bound.host, first.bound.host)
    return AccessUrl("https" if first.tls else "http", host, first.bound.port)


async def _open_stun(stack: AsyncExitStack, options: ServerOptions) -> int | None:
    if options.stun_address is None or not options.relay.enable:
        return None
    return await stack.enter_async_context(open_stun(options.stun_address, exact=not options.stun_address_is_default))


# ---------------------------------------------------------------- plugins


def _coordinator(host: PluginHost, settings: Settings) -> Coordinator:
    chosen = host.coordinator_store(settings)
    if chosen is None:
        return InMemoryCoordinator()
    if not callable(getattr(chosen, "connect", None)):
        raise PluginContractError("coder_coordinator_store", "the plugin's coordinator has no method `connect`")
    return chosen  # type: ignore[return-value]  # the hook says `object`: hooks must not import coordination


def _relay(options: ServerOptions, host: PluginHost, settings: Settings) -> RelayBackend | None:
    if not options.relay.enable:
        return None
    backends = host.relay_backends(settings)
    if not backends:
        raise ConfigError(
            "there is no relay: no plugin offers one", hint="install coder-agent-transport-derp, or enable its plugin"
        )
    return backends[0]


def _plugin_routes(host: PluginHost, deployment: Deployment) -> list[BaseRoute]:
    """What plugins add; anything that is no route is left out, with a line in the log."""
    found: list[BaseRoute] = []
    for route in host.server_routes(deployment):
        if isinstance(route, BaseRoute):
            found.append(route)
        else:
            logger.warning("coder_server_routes: %s is not a Starlette route and was left out", type(route).__name__)
    return found


# ---------------------------------------------------------------- uvicorn


def _config(app: ASGIApp, tls: ssl.SSLContext | None) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=UpgradableH11Protocol,
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
    config.ssl = tls
    # At INFO it writes every WebSocket's path with its query, in which there may be tokens.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return config


class _HttpServer(uvicorn.Server):
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
async def _serving(servers: Sequence[_HttpServer], listeners: Sequence[_Listener]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for server, listener in zip(servers, listeners, strict=True):
            await tasks.start(_serve_one, server, listener.socket)
        try:
            yield
        finally:
            for server in servers:
                server.should_exit = True


async def _serve_one(server: _HttpServer, listener: socket.socket, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    server.on_started = task_status.started
    with anyio.CancelScope(shield=True):  # it ends by should_exit, which gives requests their grace
        await server.serve(sockets=[listener])


# ---------------------------------------------------------------- presence


async def _keep_seen(deployment: Deployment) -> None:
    while True:
        await anyio.sleep(SEEN_INTERVAL)
        await _save_seen(deployment)


async def _save_seen(deployment: Deployment) -> None:
    seen = deployment.presence.take_unsaved()
    if seen:
        async with deployment.database.write() as session:
            await record_seen(session, seen)
