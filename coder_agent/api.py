"""The one call that most programs need.

    async with coder_agent.connect("dev") as workspace:
        stream = await workspace.open_tcp(8080)

`coder_agent.blocking` is the same for scripts and notebooks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from .cli.context import Cli
from .client import ClientConfig, Workspace, open_workspace
from .compose import node_config
from .workspace_name import WorkspaceName


@asynccontextmanager
async def connect(
    workspace: str,
    *,
    url: str | None = None,
    token: str | None = None,
    direct: bool = True,
    config_file: str | None = None,
    plugins: Sequence[str] | None = None,
) -> AsyncIterator[Workspace]:
    """Connect to a workspace as the `coder` command would.

    `workspace` is ``[owner/]name[.agent]``. URL and token default to the environment, the configuration and what
    `coder login` stored. `direct=False` uses relays only; `plugins` limits which plugins are loaded.

    Raises: ConfigError (not logged in, bad name), ApiError, PeerUnreachable, CoordinationError (see `open_workspace`).
    """
    flags: dict[str, object] = {
        "url": url,
        "token": token,
        "config": config_file,
        "disable_direct_connections": not direct,
        "only_plugin": plugins,
    }
    config = client_config(Cli("coder", flags))
    async with open_workspace(config, WorkspaceName.parse(workspace)) as opened:
        yield opened


def client_config(cli: Cli, *, say: Callable[[str], None] = lambda message: None) -> ClientConfig:
    """What a command's context says about server, credentials and node; `say` is told what takes long.

    Raises: ConfigError, PluginError.
    """
    node = node_config(cli.host, cli.settings, cli.dial_options())
    return ClientConfig(cli.url(), cli.token(), node, say, cli.host.command_runner(cli.settings))
