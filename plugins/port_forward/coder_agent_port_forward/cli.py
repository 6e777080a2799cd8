"""`coder port-forward`: parse, run, stop."""

from __future__ import annotations

import sys
from typing import Annotated

import anyio
import typer

from coder_agent.api import client_config
from coder_agent.cli.arguments import WorkspaceArgument
from coder_agent.cli.context import Cli
from coder_agent.cli.output import Output, OutputOption, note
from coder_agent.cli.serving import raise_descriptor_limit, stop_signal
from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName

from .display import choose
from .grammar import EXAMPLES, Forward, parse_forwards, parse_reverse, parse_socks
from .plugin import NAME
from .session import Session, Wanted
from .settings import PortForwardSettings

DESCRIPTORS_BESIDE = 128
"""Files and sockets that this program needs beside one for each connection."""
SPEC = "[ADDRESS:]PORT[-END][:PORT[-END]]"


def port_forward(
    ctx: typer.Context,
    workspace: WorkspaceArgument,
    tcp: Annotated[
        list[str] | None,
        typer.Option("--tcp", "-p", metavar=SPEC, envvar="CODER_PORT_FORWARD_TCP", help="local port to a TCP port"),
    ] = None,
    udp: Annotated[
        list[str] | None,
        typer.Option("--udp", metavar=SPEC, envvar="CODER_PORT_FORWARD_UDP", help="local port to a UDP port"),
    ] = None,
    reverse: Annotated[
        list[str] | None,
        typer.Option(
            "--reverse",
            "-R",
            metavar="PORT[:PORT]",
            envvar="CODER_PORT_FORWARD_REVERSE",
            help="a port of the workspace that leads to a TCP port of this machine",
        ),
    ] = None,
    socks: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS:]PORT",
            envvar="CODER_PORT_FORWARD_SOCKS",
            help="SOCKS5 and HTTP proxy to every port of the workspace, and to hosts that its agent allows",
        ),
    ] = None,
    disable_autostart: Annotated[
        bool, typer.Option(envvar="CODER_SSH_DISABLE_AUTOSTART", help="accepted, for scripts: nothing is ever started")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Reach ports of a workspace as ports of this machine, until Ctrl-C.

    Several forwards: repeat an option, or separate with commas. Without an address, both loopback addresses are
    listened on. In the workspace, programs are reached on 127.0.0.1 or ::1, wherever they listen.
    """
    cli: Cli = ctx.obj
    settings = cli.settings.section(NAME, PortForwardSettings)
    wanted = Wanted(
        forwards=tuple(parse_forwards(_listed(tcp), _listed(udp))),
        reverse=tuple(parse_reverse(_listed(reverse))),
        socks=parse_socks(socks) if socks else None,
        max_connections=_limit(settings.max_connections),
    )
    if not (wanted.forwards or wanted.reverse or wanted.socks):
        raise ConfigError("nothing to forward", hint=f"give --tcp or --udp with {EXAMPLES}")
    _warn(wanted.forwards, wanted.socks)
    display = choose(output is Output.JSON)
    session = Session(client_config(cli, say=note), WorkspaceName.parse(workspace), wanted, display)
    try:
        anyio.run(_run, session)
    finally:
        display.close()


async def _run(session: Session) -> None:
    async with stop_signal(lambda: None) as stop:
        await session.run(stop)


def _listed(texts: list[str] | None) -> list[str]:
    return list(texts or ())


def _limit(wish: int) -> int:
    """No more connections than the system has sockets for us; fewer than wished for is said."""
    allowed = raise_descriptor_limit()
    limit = max(1, min(wish, allowed - DESCRIPTORS_BESIDE))
    if limit < wish:
        note(
            f"warning: this program may open {allowed} files, so it holds at most {limit} connections at once, "
            f"not {wish}; raise the limit for more (ulimit -Hn)"
        )
    return limit


def _warn(forwards: tuple[Forward, ...], socks: Forward | None) -> None:
    """An address beyond loopback opens the workspace to the network; that is allowed, and said."""
    for forward in (*forwards, *([socks] if socks else [])):
        if forward.address is not None and not forward.address.is_loopback:
            print(f"warning: whoever reaches {forward.local_host}:{forward.local} uses your workspace", file=sys.stderr)
