"""Bring a deployment up, serve it, and take it down in order."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import cast

import anyio
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from coder_agent.coordination.core import InMemoryCoordinator
from coder_agent.coordination.interface import Coordinator
from coder_agent.errors import ConfigError, PluginContractError
from coder_agent.hooks.interfaces import RelayBackend
from coder_agent.hooks.manager import PluginHost
from coder_agent.hooks.settings import Settings
from coder_agent.hooks.web_apps import ConnectionRoute

from .activation import inherited_listeners
from .app import build_app, front_rules
from .certificates import Certificates
from .connection_log import ConnectionLogWriter
from .context import RoutesContext
from .deployment import Deployment, utc_now
from .derp_map import LiveDerpMap, build_derp_map
from .derp_map_keeper import DerpMapKeeper, without_stun
from .health.assembly import furnish
from .listening import HttpServer, Kind, Listener, http_config, open_listeners, serving
from .options import AccessUrl, HostPort, ServerOptions
from .request_marks import Marker
from .store.agents import record_seen
from .store.database import Database, open_database
from .store.deployment import open_deployment
from .stun import open_stun
from .tailnet.assembly import shared_tailnet
from .tls import tls_context

logger = logging.getLogger("coder_agent.server")

SEEN_INTERVAL = 15.0
"""Seconds between two writes of `last_connected_at` for all connected agents."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections. The addresses are those really bound."""

    deployment: Deployment
    http: HostPort | None
    https: HostPort | None
    metrics: HostPort | None
    stun: HostPort | None
    reload: Callable[[], None]
    """Read the relay map's sources and the certificate again (SIGHUP)."""

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
        listeners = stack.enter_context(open_listeners(options, inherited_listeners(os.environ)))
        tls = tls_context(options.tls) if options.tls is not None else None
        access_url = _access_url(options, listeners)
        stun = await _open_stun(stack, options)
        database = await stack.enter_async_context(open_database(options.database_path))
        egress = settings.egress
        egress.trust(access_url.text)
        no_stun = options.block_direct or options.relay.stun_disabled
        keeper = DerpMapKeeper(
            own=egress.inside(build_derp_map(options, access_url, stun.port if stun else None)),
            sources=host.derp_map_sources(settings),
            folder=options.data_dir,
            adapt=lambda part: egress.inside(without_stun(part) if no_stun else part),
        )
        deployment = await _deploy(options, host, settings, access_url, database, await keeper.start())
        furnish(deployment, host, keeper.failures)
        log = ConnectionLogWriter(database, deployment.clock, deployment.live.workspace_changed)
        deployment.observers.append(log)
        certificates = Certificates(tls, options.tls, deployment.relay) if tls and options.tls else None
        if certificates is not None:
            certificates.start()
        routes, connection_routes = _plugin_routes(host, deployment)
        app = build_app(deployment, routes)
        marker = Marker(front_rules(deployment), deployment.tally)
        if deployment.relay is not None:
            await stack.enter_async_context(deployment.relay.open())
        apps: dict[Kind, ASGIApp] = {"http": app, "https": app}
        if any(listener.kind == "metrics" for listener in listeners):
            from .metrics import build_metrics_app

            apps["metrics"] = build_metrics_app(deployment)
        servers = [
            HttpServer(
                http_config(
                    apps[at.kind],
                    tls if at.kind == "https" else None,
                    connection_routes if at.kind != "metrics" else (),
                    marker,
                )
            )
            for at in listeners
        ]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_keep_seen, deployment)
            tasks.start_soon(keeper.run)
            tasks.start_soon(deployment.tailnet.run)
            tasks.start_soon(log.run)
            if certificates is not None:
                tasks.start_soon(certificates.run)
            tasks.start_soon(partial(deployment.health.run, deployment.stopping, background=_is_watched(options)))
            try:
                async with serving(servers, listeners), AsyncExitStack() as taken:
                    for route in connection_routes:
                        await taken.enter_async_context(route.open())
                    try:
                        bound = {listener.kind: listener.bound for listener in listeners if listener.is_ip}
                        reload = partial(_reload, keeper, certificates)
                        yield Running(
                            deployment, bound.get("http"), bound.get("https"), bound.get("metrics"), stun, reload
                        )
                    finally:
                        _say_goodbye(deployment)
            finally:
                tasks.cancel_scope.cancel()
        await _save_seen(deployment)
        await log.flush()


def _reload(keeper: DerpMapKeeper, certificates: Certificates | None) -> None:
    keeper.reload()
    if certificates is not None:
        certificates.reload()


async def _deploy(
    options: ServerOptions,
    host: PluginHost,
    settings: Settings,
    access_url: AccessUrl,
    database: Database,
    derp_map: LiveDerpMap,
) -> Deployment:
    async with database.write() as session:
        facts = await open_deployment(session, utc_now())
    deployment = Deployment(
        options=options,
        settings=settings,
        access_url=access_url.text,
        facts=facts,
        database=database,
        coordinator=_coordinator(host, settings),
        derp_map=derp_map,
        relay=_relay(options, host, settings),
        authenticators=host.authenticators(settings),
        observers=[host.emit],
    )
    deployment.tailnet = shared_tailnet(deployment, host)
    return deployment


def _say_goodbye(deployment: Deployment) -> None:
    """End the long-lived connections: peers keep each other (LOST) and come back by themselves."""
    reason = "the server is shutting down"
    deployment.stopping.set()
    deployment.presence.close_all(reason)
    deployment.clients.close_all(reason)
    deployment.coordinator.close()


def _is_watched(options: ServerOptions) -> bool:
    """Does somebody scrape our figures, among them the last report's? Then there shall be one, without being asked."""
    return options.metrics_address is not None


# ---------------------------------------------------------------- addresses


def _access_url(options: ServerOptions, listeners: Sequence[Listener]) -> AccessUrl:
    """The one configured, else the address of the first listener as seen from this machine."""
    if options.access_url is not None:
        return options.access_url
    first = next(listener for listener in listeners if listener.is_ip)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(first.bound.host, first.bound.host)
    return AccessUrl("https" if first.kind == "https" else "http", host, first.bound.port)


async def _open_stun(stack: AsyncExitStack, options: ServerOptions) -> HostPort | None:
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


def _plugin_routes(host: PluginHost, deployment: Deployment) -> tuple[list[BaseRoute], list[ConnectionRoute]]:
    """What plugins add; anything that is no route is left out, with a line in the log."""
    found: list[BaseRoute] = []
    on_connections: list[ConnectionRoute] = []
    proxies = host.app_proxies(deployment.settings)
    deployment.app_schemes = frozenset(scheme.lower() for proxy in proxies for scheme in proxy.schemes)
    for route in host.server_routes(RoutesContext(deployment, proxies)):
        if isinstance(route, BaseRoute):
            found.append(route)
        elif all(callable(getattr(route, name, None)) for name in ("open", "claims", "accept")):
            on_connections.append(cast("ConnectionRoute", route))
        else:
            logger.warning("coder_server_routes: %s is not a Starlette route and was left out", type(route).__name__)
    return found, on_connections


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
