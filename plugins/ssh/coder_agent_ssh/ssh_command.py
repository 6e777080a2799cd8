"""`coder ssh`: parse, then a session of our own or a plain byte stream."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import anyio
import anyio.abc
import typer

from coder_agent.api import client_config
from coder_agent.cli.context import Cli
from coder_agent.cli.durations import parse_duration
from coder_agent.cli.output import note
from coder_agent.client import ClientConfig, Workspace
from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName

from .hostnames import workspace_of
from .network_info import NetworkInfoFile, Traffic
from .reaching import reached

PORT = 1
"""The agent's SSH server inside the tunnel (coder tailnet/conn.go)."""


class Wait(StrEnum):
    """``--wait``."""

    YES = "yes"
    NO = "no"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run of the command shall do."""

    config: ClientConfig
    name: WorkspaceName
    command: str | None
    environment: dict[str, str]
    forward_agent: bool = False
    identity_agent: str = ""
    remote_forwards: tuple[tuple[int, str, int], ...] = ()
    wait: bool = True
    info_dir: Path | None = None
    info_interval: float = 5.0


def ssh(
    ctx: typer.Context,
    workspace: Annotated[
        str, typer.Argument(metavar="WORKSPACE", help="[OWNER/]WORKSPACE[.AGENT], or an SSH host name")
    ],
    command: Annotated[
        list[str] | None, typer.Argument(help="what to run instead of a shell; put -- before it")
    ] = None,
    stdio: Annotated[bool, typer.Option("--stdio", help="connect stdin and stdout to SSH, for ProxyCommand")] = False,
    forward_agent: Annotated[
        bool, typer.Option("--forward-agent", "-A", envvar="CODER_SSH_FORWARD_AGENT", help="offer your SSH agent there")
    ] = False,
    identity_agent: Annotated[
        str, typer.Option(envvar="CODER_SSH_IDENTITY_AGENT", help="its socket, instead of SSH_AUTH_SOCK")
    ] = "",
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="NAME=VALUE", help="set a variable there; repeatable")
    ] = None,
    remote_forward: Annotated[
        list[str] | None,
        typer.Option("--remote-forward", "-R", metavar="PORT:HOST:PORT", help="listen there, connect here; repeatable"),
    ] = None,
    wait: Annotated[
        Wait, typer.Option(envvar="CODER_SSH_WAIT", help="for an agent that is not connected; auto: yes")
    ] = Wait.AUTO,
    ssh_host_prefix: Annotated[
        str, typer.Option(envvar="CODER_SSH_SSH_HOST_PREFIX", help="cut this off the host name")
    ] = "",
    hostname_suffix: Annotated[
        str, typer.Option(envvar="CODER_SSH_HOSTNAME_SUFFIX", help="cut this off the host name")
    ] = "",
    network_info_dir: Annotated[
        Path | None, typer.Option(help="keep a file about the connection here, for editors")
    ] = None,
    network_info_interval: Annotated[str, typer.Option(help="how often: 5s …")] = "5s",
    disable_autostart: Annotated[
        bool, typer.Option("--disable-autostart", envvar="CODER_SSH_DISABLE_AUTOSTART", hidden=True)
    ] = False,
) -> None:
    """Open a shell in a workspace, or run a command there; its exit code is ours (255 if the connection broke).

    Right after a newline, ~. ends the session, ~? shows more such escapes.
    """
    cli: Cli = ctx.obj
    plan = Plan(
        config=client_config(cli, say=note),
        name=workspace_of(workspace, ssh_host_prefix, hostname_suffix),
        command=" ".join(command) if command else None,
        environment=dict(_pair(text) for text in env or ()),
        forward_agent=forward_agent,
        identity_agent=identity_agent,
        remote_forwards=tuple(_forward(text) for text in remote_forward or ()),
        wait=wait is not Wait.NO,
        info_dir=network_info_dir,
        info_interval=parse_duration(network_info_interval),
    )
    code = anyio.run(_until_told, _stdio if stdio else _session, plan)
    if code:
        raise typer.Exit(code)


async def _until_told(work: Callable[[Plan], Awaitable[int]], plan: Plan) -> int:
    """Do it, and leave in order on SIGTERM and SIGHUP, so that the workspace ends our processes at once. ssh sends its
    ProxyCommand a SIGHUP whenever it ends."""
    code = 0

    async def leave(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        nonlocal code
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                code = 128 + number
                tasks.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as tasks:
        await tasks.start(leave)
        code = await work(plan)
        tasks.cancel_scope.cancel()
    return code


async def _stdio(plan: Plan) -> int:
    from .stdio import pump

    async with reached(plan.config, plan.name, wait=plan.wait) as workspace:
        traffic = Traffic()
        async with anyio.create_task_group() as tasks, await workspace.open_tcp(PORT) as stream:
            _keep_info(plan, workspace, traffic, tasks)
            await pump(stream, traffic)
            tasks.cancel_scope.cancel()
    return 0


async def _session(plan: Plan) -> int:
    async with anyio.create_task_group() as imports:
        imports.start_soon(anyio.to_thread.run_sync, _import_asyncssh)
        async with (
            reached(plan.config, plan.name, wait=plan.wait) as workspace,
            anyio.create_task_group() as tasks,
            await workspace.open_tcp(PORT) as stream,
        ):
            _keep_info(plan, workspace, Traffic(), tasks)
            from .session_client import run_session

            code = await run_session(stream, plan, workspace.agent.label)
            tasks.cancel_scope.cancel()
    return code


def _import_asyncssh() -> None:
    """While the network is waited for: asyncssh takes as long as the connection."""
    import asyncssh  # noqa: F401


def _keep_info(plan: Plan, workspace: Workspace, traffic: Traffic, tasks: anyio.abc.TaskGroup) -> None:
    if plan.info_dir is not None:
        tasks.start_soon(NetworkInfoFile(plan.info_dir, plan.info_interval, traffic).run, workspace)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--env takes NAME=VALUE, not {text!r}")
    return name, value


def _forward(text: str) -> tuple[int, str, int]:
    port, _, rest = text.partition(":")
    host, _, target = rest.rpartition(":")
    if not (port.isdigit() and target.isdigit() and host):
        raise ConfigError(f"--remote-forward takes PORT:HOST:PORT, not {text!r}", hint="such as 8080:localhost:3000")
    return int(port), host.strip("[]"), int(target)
