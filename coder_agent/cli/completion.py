"""Shell completion: commands, flags, and the names of the user's workspaces.

The shell runs the program itself with `_CODER_COMPLETE` set and reads what could follow. A plugin's command takes part
by declaring its parameters as everybody does; one that names a workspace says so with
`coder_agent.cli.arguments.WorkspaceArgument`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from ..errors import CoderAgentError
from .context import Cli, Program

TIMEOUT = 2.0
"""Seconds that a person is made to wait for names after the tabulator key; then there are none."""
MOST = 200
"""Names that are asked for: more would not help to choose."""


class Shell(StrEnum):
    """The shells that there are scripts for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
    PWSH = "pwsh"


def is_asked(program: Program, environ: Mapping[str, str]) -> bool:
    """Does a shell ask what could follow, instead of a user for a command?"""
    return bool(environ.get(f"_{program}_COMPLETE".replace("-", "_").upper()))


def get_ready() -> None:
    """Teach typer its shells. Only when asked: a command need not pay for it."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def completion(
    ctx: typer.Context,
    shell: Annotated[Shell | None, typer.Argument(help="which; default: the one that runs this")] = None,
    install: Annotated[bool, typer.Option("--install", help="write it where the shell finds it")] = False,
) -> None:
    """Print the script that makes a shell complete commands, flags and workspaces; or install it.

    In bash: `source <(coder completion bash)`.
    """
    from typer.completion import install_callback, show_callback

    get_ready()
    callback: Any = install_callback if install else show_callback
    callback(ctx, None, shell.value if shell else True)


def complete_workspace(ctx: typer.Context, incomplete: str) -> list[str]:
    """The workspaces whose name begins so: the user's own without their owner, unless one is being typed."""
    import anyio

    cli = ctx.find_object(Cli)
    if cli is None:
        return []
    try:
        return anyio.run(_names, cli, incomplete)
    except (CoderAgentError, OSError):  # not logged in, no server: nothing to offer, and nowhere to say so
        return []


async def _names(cli: Cli, incomplete: str) -> list[str]:
    import anyio

    from ..runtime.http import ApiClient

    owner, slash, _ = incomplete.partition("/")
    query = quote(f"owner:{owner if slash else 'me'}")
    with anyio.move_on_after(TIMEOUT):
        reply = await ApiClient(cli.url(), cli.token(), cli.dial_options()).get(
            f"/api/v2/workspaces?q={query}&limit={MOST}"
        )
        names = [f"{owner}/{found['name']}" if slash else str(found["name"]) for found in reply["workspaces"]]
        return sorted(name for name in names if name.startswith(incomplete))
    return []
