"""`coder-agent run`: be a workspace."""

from __future__ import annotations

import logging
import signal
from typing import Annotated

import anyio
import anyio.abc
import typer

from .. import __version__
from ..agent import Agent, AgentConfig
from ..base.port_set import PortSet
from ..compose import node_config
from ..errors import ConfigError
from ..runtime import memory
from ..runtime.agent_link import Manifest
from .context import Cli
from .serving import raise_descriptor_limit

log = logging.getLogger(__name__)

SETTLED = 10.0
"""Seconds after the start in which an agent finds its server, its relay and its addresses."""


def run(
    ctx: typer.Context,
    tailnet_listen_port: Annotated[
        int | None, typer.Option(help="fixed UDP port for direct connections [env: CODER_AGENT_TAILNET_LISTEN_PORT]")
    ] = None,
) -> None:
    """Run the agent of a workspace: users reach this machine's loopback ports through it.

    URL and token come from `coder create` (CODER_AGENT_URL, CODER_AGENT_TOKEN or CODER_AGENT_TOKEN_FILE). Stays
    connected through every failure of network and server; ends on Ctrl-C or SIGTERM.
    """
    cli: Cli = ctx.obj
    settings = cli.settings.with_flags("network", {"listen_port": tailnet_listen_port})
    config = AgentConfig(
        url=cli.url(),
        token=cli.token(),
        node=node_config(cli.host, settings, cli.dial_options()),
        services=cli.host.agent_services(settings),
        forward_ports=_forward_ports(settings.agent.forward_ports),
        version=__version__,
        apps=[app.model_dump() for app in settings.agent.apps],
        on_ready=_ready,
    )
    keep_hang_ups_from_children()
    raise_descriptor_limit()  # each connection that is forwarded to loopback holds one
    memory.share_one_arena()
    anyio.run(_run, config)


def keep_hang_ups_from_children() -> None:
    """Under `nohup` we ignore SIGHUP, and so would each program that we start: no shell could be told that its terminal
    is gone. A handler that does nothing keeps us alive as well, and is not inherited (execve(2))."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_IGN:
        signal.signal(hangup, lambda number, frame: None)


def _forward_ports(text: str) -> PortSet:
    try:
        return PortSet.parse(text)
    except ValueError as error:
        raise ConfigError(f"[agent] forward_ports: {error}", hint="all, none, or a list like 80,8000-8999") from error


def _ready(manifest: Manifest) -> None:
    log.info("workspace %s/%s is up", manifest.owner_username, manifest.workspace_name)


async def _run(config: AgentConfig) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
        tasks.start_soon(_settle)
        await Agent(config).run()


async def _settle() -> None:
    """An agent idles for most of its life: it gives back what only its start needed."""
    await anyio.sleep(SETTLED)
    memory.give_back()


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("stopping: %s", signal.Signals(number).name)
            scope.cancel()
            return
