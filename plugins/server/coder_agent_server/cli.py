"""``coder server``: flags over settings, then serve until told to stop."""

from __future__ import annotations

import logging
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from coder_agent.cli.serving import flag, stop_signal
from coder_agent.hooks.manager import PluginHost
from coder_agent.hooks.settings import Settings

from .json_log import log_as_json
from .options import ServerOptions, is_only_local, resolve_options
from .settings import ServerSettings

if TYPE_CHECKING:
    from .serving import Running


def server(
    ctx: typer.Context,
    access_url: Annotated[str | None, flag("URL at which users and agents reach this server")] = None,
    wildcard_access_url: Annotated[
        str | None, flag("host pattern of subdomain apps, such as *.apps.example.com")
    ] = None,
    http_address: Annotated[str | None, flag("host:port for HTTP [127.0.0.1:3000]; empty = no HTTP")] = None,
    tls_enable: Annotated[bool | None, flag("serve HTTPS too", "--tls-enable/--no-tls-enable")] = None,
    tls_address: Annotated[str | None, flag("host:port for HTTPS [127.0.0.1:3443]")] = None,
    tls_cert_file: Annotated[list[str] | None, flag("PEM file: certificate and chain; several by host name")] = None,
    tls_key_file: Annotated[list[str] | None, flag("PEM file: private key; as many")] = None,
    tls_min_version: Annotated[str | None, flag("oldest TLS spoken: tls12 or tls13 [tls12]")] = None,
    http_socket: Annotated[str | None, flag("path of a unix socket for HTTP")] = None,
    redirect_to_access_url: Annotated[
        bool | None, flag("send other hosts there", "--redirect-to-access-url/--no-redirect-to-access-url")
    ] = None,
    proxy_trusted_headers: Annotated[
        list[str] | None, flag("header in which a reverse proxy names the visitor, such as X-Forwarded-For")
    ] = None,
    proxy_trusted_origins: Annotated[list[str] | None, flag("network (CIDR) of such proxies")] = None,
    secure_auth_cookie: Annotated[
        bool | None, flag("session cookie over HTTPS only", "--secure-auth-cookie/--no-secure-auth-cookie")
    ] = None,
    strict_transport_security: Annotated[
        int | None, flag("seconds for which browsers shall insist on HTTPS [0: they are not told]")
    ] = None,
    log_json: Annotated[str | None, flag("file for log lines as JSON, or /dev/stderr")] = None,
    data_dir: Annotated[str | None, flag("folder for the database")] = None,
    derp_server_enable: Annotated[
        bool | None, flag("embedded relay [on]", "--derp-server-enable/--no-derp-server-enable")
    ] = None,
    derp_server_region_id: Annotated[int | None, flag("its region id [999]")] = None,
    derp_server_region_code: Annotated[str | None, flag("its short name [coder]")] = None,
    derp_server_region_name: Annotated[str | None, flag("its name [Coder Embedded Relay]")] = None,
    derp_server_stun_addresses: Annotated[
        str | None, flag("STUN servers for clients, separated by commas, or `disable` [none]")
    ] = None,
    derp_config_url: Annotated[str | None, flag("URL of a JSON relay map, used beside the embedded relay")] = None,
    derp_config_path: Annotated[str | None, flag("file with a JSON relay map; read again on SIGHUP")] = None,
    derp_force_websockets: Annotated[
        bool | None, flag("relay over WebSocket only", "--derp-force-websockets/--no-derp-force-websockets")
    ] = None,
    block_direct_connections: Annotated[
        bool | None, flag("relay only", "--block-direct-connections/--no-block-direct-connections")
    ] = None,
    require_direct_connections: Annotated[
        bool | None, flag("no relay for data", "--require-direct-connections/--no-require-direct-connections")
    ] = None,
    derp_prefer_region: Annotated[int | None, flag("relay region for everybody who can use it [nearest]")] = None,
    block_ipv6: Annotated[bool | None, flag("direct over IPv4 only", "--block-ipv6/--no-block-ipv6")] = None,
    stun_address: Annotated[
        str | None, flag("host:port of the embedded STUN responder (UDP), or `disable` [HTTP host, 3478]")
    ] = None,
    health_check_refresh: Annotated[str | None, flag("how long a health report is good enough [10m]")] = None,
    health_check_threshold_database: Annotated[
        str | None, flag("warn of a database that takes longer to answer [15ms]")
    ] = None,
    prometheus_enable: Annotated[
        bool | None, flag("serve /metrics", "--prometheus-enable/--no-prometheus-enable")
    ] = None,
    prometheus_address: Annotated[str | None, flag("host:port for /metrics [127.0.0.1:2112]")] = None,
) -> None:
    """Start a coder server: API, sign-in, coordination, relay and STUN behind one address.

    Data is kept in SQLite in --data-dir; PostgreSQL (--postgres-url) is not available yet.
    """
    given = {
        "access_url": access_url,
        "wildcard_access_url": wildcard_access_url,
        "http_address": http_address,
        "tls_enable": tls_enable,
        "tls_address": tls_address,
        "tls_cert_file": tls_cert_file or None,
        "tls_key_file": tls_key_file or None,
        "tls_min_version": tls_min_version,
        "http_socket": http_socket,
        "redirect_to_access_url": redirect_to_access_url,
        "proxy_trusted_headers": proxy_trusted_headers or None,
        "proxy_trusted_origins": proxy_trusted_origins or None,
        "secure_auth_cookie": secure_auth_cookie,
        "strict_transport_security": strict_transport_security,
        "log_json": log_json,
        "data_dir": data_dir,
        "derp_server_enable": derp_server_enable,
        "derp_server_region_id": derp_server_region_id,
        "derp_server_region_code": derp_server_region_code,
        "derp_server_region_name": derp_server_region_name,
        "derp_server_stun_addresses": None if derp_server_stun_addresses is None else [derp_server_stun_addresses],
        "derp_config_url": derp_config_url,
        "derp_config_path": derp_config_path,
        "derp_force_websockets": derp_force_websockets,
        "block_direct_connections": block_direct_connections,
        "require_direct_connections": require_direct_connections,
        "derp_prefer_region": derp_prefer_region,
        "block_ipv6": block_ipv6,
        "stun_address": stun_address,
        "health_check_refresh": health_check_refresh,
        "health_check_threshold_database": health_check_threshold_database,
        "prometheus_enable": prometheus_enable,
        "prometheus_address": prometheus_address,
    }
    settings: Settings = ctx.obj.settings.with_flags("server", given)
    section = settings.section("server", ServerSettings)
    options = resolve_options(section, default_data_dir)
    log = logging.getLogger("coder_agent.server")
    if section.log_json:
        log_as_json(section.log_json)
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))  # who came and went is what a server's log is for
    anyio.run(run_server, options, ctx.obj.host, settings)


def default_data_dir() -> Path:
    """Where data lives when nobody says: the user's own folder for programs' data."""
    from platformdirs import user_data_path

    return user_data_path("coder-agent", appauthor=False)


async def run_server(options: ServerOptions, host: PluginHost, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. A second one ends the process at once."""
    from .serving import open_server

    async with open_server(options, host, settings) as running:
        async with stop_signal(running.reload) as stop:
            await _announce(running, options)
            await stop.wait()
        typer.echo("Stopping; once more to stop at once.", err=True)


async def _announce(running: Running, options: ServerOptions) -> None:
    for kind, scheme, address in (
        ("HTTP", "http", running.http),
        ("HTTPS", "https", running.https),
        ("Prometheus", "http", running.metrics),
    ):
        if address is not None:
            typer.echo(f"Started {kind} listener at {scheme}://{address}")
    if running.stun is not None:
        typer.echo(f"Started STUN responder at udp port {running.stun.port}")
    if options.access_url is None:
        typer.echo(
            f"No access URL: serving on {running.access_url}, for this machine only. Set --access-url for others.",
            err=True,
        )
    elif await _only_local(options):
        typer.echo(
            f"warning: the access URL {running.access_url} leads to this machine only: others cannot reach it", err=True
        )
    elif running.stun is not None and ip_address(running.stun.host).is_loopback:
        typer.echo(
            f"warning: STUN listens on {running.stun} only: nodes behind NAT will stay relayed."
            " Set --stun-address 0.0.0.0:3478.",
            err=True,
        )
    typer.echo(f"View the Web UI: {running.access_url}")


async def _only_local(options: ServerOptions) -> bool:
    """Resolving may hang where there is no DNS: a warning is not worth more than two seconds."""
    assert options.access_url is not None
    with anyio.move_on_after(2.0):
        return await anyio.to_thread.run_sync(is_only_local, options.access_url, abandon_on_cancel=True)
    return False
