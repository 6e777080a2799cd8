"""`coder netcheck`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import anyio
import typer

from coder_agent.base.derp_map import DerpMap, viewed_from
from coder_agent.base.derp_map_json import from_json
from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, OutputOption, note, print_json, print_table
from coder_agent.errors import ConfigError, RemoteProtocolError, TransportBroken
from coder_agent.http import ApiClient

from ..settings import NatSettings
from . import text
from .document import client_report
from .relay import Effort
from .report import NetcheckReport
from .runner import Wishes, run_netcheck

MAP_TIMEOUT = 3.0
"""Seconds for the server to say what its relays are."""
WITHOUT_SERVER = "(`coder netcheck --derp-map FILE` checks without a server)"
QUIET = 1.0
"""Seconds after which the user is told that something is going on."""


def netcheck(
    ctx: typer.Context,
    derp_map: Annotated[
        Path | None, typer.Option("--derp-map", metavar="FILE", help="relay map (JSON) instead of the server's")
    ] = None,
    report_to: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="also write a report that `coder lab replay` reads")
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact/--no-redact", help="leave addresses and names out of the report")
    ] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check this network: UDP, NAT, IPv6, port mapping, relays and how far away they are.

    Exit code 1 if no relay and no STUN server could be reached at all.
    """
    cli: Cli = ctx.obj
    settings = cli.settings.section("nat_traversal", NatSettings)
    wishes = Wishes(
        dial=cli.dial_options(),
        protocols=frozenset(protocol.value for protocol in settings.mapping_protocols()),
        captive_urls=settings.captive_portal_urls,
    )
    known = None if derp_map is None else read_map(derp_map)
    report = anyio.run(_check, cli, known, wishes)
    if output is Output.JSON:
        print_json(client_report(report))
    else:
        _print(report)
    if report_to is not None:
        from .report_file import write_report  # here: most runs write none, and it brings the judge along

        write_report(report, report_to, redacted=redact)
        inside = "no address, name or key in it" if redact else "with addresses and names; --redact leaves them out"
        note(f"report written to {report_to} ({inside}); `coder lab replay {report_to}` rebuilds this network")
    if not report.reachable:
        raise typer.Exit(1)


async def _check(cli: Cli, known: DerpMap | None, wishes: Wishes) -> NetcheckReport:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_say_something)
        derp_map, websocket = (known, False) if known is not None else await _ask_server(cli)
        report = await run_netcheck(derp_map, replace(wishes, effort=Effort(websocket=websocket)))
        tasks.cancel_scope.cancel()
    return report


async def _say_something() -> None:
    await anyio.sleep(QUIET)
    note("Checking the network; this takes up to five seconds …")


async def _ask_server(cli: Cli) -> tuple[DerpMap, bool]:
    """The server's relay map as a node here would see it, and whether relays are only to be used by WebSocket."""
    try:
        url, token = cli.url(), cli.token()
    except ConfigError as error:
        raise ConfigError(error.message, hint=f"{error.hint} {WITHOUT_SERVER}") from error
    api = ApiClient(url, token, cli.dial_options())
    try:
        document = await api.get("/api/v2/workspaceagents/connection", timeout=MAP_TIMEOUT)
    except TransportBroken as error:
        hint = error.hint or "check the URL and your connection"
        raise TransportBroken(error.message, hint=f"{hint} {WITHOUT_SERVER}") from error
    if not isinstance(document, dict):
        raise RemoteProtocolError(f"{url} does not answer as a coder server does", hint="check the URL")
    derp_map = viewed_from(from_json(document.get("derp_map")), url)
    return _checked(derp_map, url), bool(document.get("derp_force_websockets"))


def read_map(path: Path) -> DerpMap:
    """A relay map from a file. Raises ConfigError."""
    try:
        derp_map = from_json(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot read the relay map {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a relay map: it is not JSON") from error
    except RemoteProtocolError as error:
        raise ConfigError(f"{path} is not a relay map: {error.message}") from error
    return _checked(derp_map, str(path))


def _checked(derp_map: DerpMap, where: str) -> DerpMap:
    if not any(region.nodes for region in derp_map.regions.values()):
        raise ConfigError(
            f"the relay map of {where} has no regions: there is nothing to check against",
            hint="the server's administrator enables its relay or names others",
        )
    return derp_map


def _print(report: NetcheckReport) -> None:
    print_table(["check", "result"], text.checks(report))
    print()
    print_table(["region", "udp ipv4", "udp ipv6", "relay", "home", "remark"], text.region_rows(report))
    print()
    print_table(["interface", "mtu", "addresses"], text.interface_rows(report))
    for warning in text.warnings(report):
        note(f"warning: {warning}")
