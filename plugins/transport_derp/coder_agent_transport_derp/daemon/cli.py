"""``coder derp``: flags over settings, then relay until told to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import anyio
import typer

from coder_agent.cli.serving import flag, stop_signal
from coder_agent.hooks.interfaces import DialOptions
from coder_agent.hooks.settings import Settings

from ..settings import DerpSettings
from .options import RelayProgramOptions, resolve
from .settings import RelayProgramSettings


def derp(
    ctx: typer.Context,
    address: Annotated[str | None, flag("host:port [0.0.0.0:443 with TLS, else 127.0.0.1:3340]")] = None,
    tls_cert_file: Annotated[str | None, flag("PEM file: certificate and chain; read again on SIGHUP")] = None,
    tls_key_file: Annotated[str | None, flag("PEM file: private key")] = None,
    key_file: Annotated[str | None, flag("the relay's own key; made if missing [a new key at every start]")] = None,
    stun_address: Annotated[str | None, flag("host:port for STUN (UDP), or `disable` [same host, 3478]")] = None,
    mesh_with: Annotated[str | None, flag("the region's other relays, host names or URLs, by commas")] = None,
    verify_url: Annotated[str | None, flag("ask this URL about every client, as stock derper does")] = None,
    verify_fail_open: Annotated[
        bool | None, flag("let clients in while it does not answer", "--verify-fail-open/--no-verify-fail-open")
    ] = None,
    coder_url: Annotated[str | None, flag("admit only peers that this coder server knows")] = None,
    metrics_address: Annotated[str | None, flag("host:port for Prometheus figures [none]")] = None,
    drain_seconds: Annotated[float | None, flag("go on relaying for so long after SIGTERM [10]")] = None,
) -> None:
    """Run a DERP relay: no coder server, no database.

    Secrets (the mesh key, a token that clients must show) are settings: plugins.transport_derp.relay_mesh_key and
    plugins.derp.token, from the configuration file or CODER_PLUGIN_… variables.
    """
    given = {
        "address": address,
        "tls_cert_file": tls_cert_file,
        "tls_key_file": tls_key_file,
        "stun_address": stun_address,
        "mesh_with": None if mesh_with is None else [one.strip() for one in mesh_with.split(",") if one.strip()],
        "verify_url": verify_url,
        "verify_fail_open": verify_fail_open,
        "coder_url": coder_url,
        "metrics_address": metrics_address,
        "drain_seconds": drain_seconds,
    }
    settings: Settings = ctx.obj.settings.with_flags("derp", given)
    settings = settings.with_flags("transport_derp", {"relay_key_file": key_file})
    options = resolve(settings.section("derp", RelayProgramSettings), settings.section("transport_derp", DerpSettings))
    settings.egress.trust(settings.section("derp", RelayProgramSettings).coder_url)
    log = logging.getLogger("coder_agent_transport_derp")
    log.setLevel(min(logging.INFO, log.getEffectiveLevel()))

    def limits() -> DerpSettings:
        again = replace(ctx.obj)  # a program's settings are read once and kept: a copy reads the file anew
        again.host = ctx.obj.host
        section: DerpSettings = again.settings.section("transport_derp", DerpSettings)
        return section

    anyio.run(run_relay, options, settings.network.dial_options(), limits)


async def run_relay(
    options: RelayProgramOptions, dial: DialOptions, limits: Callable[[], DerpSettings] | None = None
) -> None:
    """Relay until SIGINT or SIGTERM, then drain; a second signal ends the process at once."""
    from .program import open_relay, raise_file_limit

    raise_file_limit()
    async with open_relay(options, dial, limits) as program:
        scheme = "https" if options.cert_file else "http"
        typer.echo(f"Relaying at {scheme}://{program.address}/derp")
        if program.stun is not None:
            typer.echo(f"Started STUN responder at udp port {program.stun.port}")
        if program.metrics is not None:
            typer.echo(f"Started Prometheus listener at http://{program.metrics}/metrics")
        typer.echo(f"The relay's key is {program.relay.core.public.raw.hex()}")
        if not options.token and not options.verify_url:
            typer.echo("Everybody who can reach this relay may use it: see --verify-url, --coder-url.", err=True)
        async with stop_signal(program.reload) as stop:
            await stop.wait()
        typer.echo(f"Draining for at most {options.drain:g} s; once more to stop at once.", err=True)
        await program.drain()
