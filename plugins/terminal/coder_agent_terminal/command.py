"""`coder terminal`: parse, connect, and give the user's terminal to the viewer."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from typing import Annotated
from uuid import UUID, uuid4

import anyio
import typer

from coder_agent.api import client_config
from coder_agent.cli.context import Cli
from coder_agent.cli.output import note
from coder_agent.client import ClientConfig, open_workspace
from coder_agent.errors import ConfigError
from coder_agent.workspace_name import WorkspaceName

from .escapes import Escapes
from .protocol import Init
from .viewer import LEFT, Tty, Viewer


def terminal(
    ctx: typer.Context,
    workspace: Annotated[str, typer.Argument(metavar="[OWNER/]WORKSPACE[.AGENT]")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND...]", help="instead of a login shell")
    ] = None,
    reconnect: Annotated[
        str | None, typer.Option(metavar="UUID", help="the terminal to go back to, as printed when it was left")
    ] = None,
    escape: Annotated[str, typer.Option(metavar="CHAR", help="begins orders such as ~. ; none = no orders")] = "~",
) -> None:
    """Open a terminal in a workspace that survives lost connections and a restarted server.

    The exit code is the shell's. At the beginning of a line, ~. leaves and ~? lists more. Who leaves has five minutes
    to come back with --reconnect; a page in the browser and this command can show the same terminal.
    """
    cli: Cli = ctx.obj
    if os.name != "posix":
        raise ConfigError("coder terminal needs a Unix terminal", hint="the web terminal works everywhere")
    from . import local_tty

    line = _line(command or [])
    identity = _identity(reconnect)
    try:
        Init(identity, command=line).encode()
    except ValueError as exc:
        raise ConfigError(str(exc), hint="put it into a file in the workspace") from exc
    character = _escape(escape)
    escapes = Escapes(character if local_tty.is_terminal() else None)
    run = _Run(client_config(cli, say=note), WorkspaceName.parse(workspace), identity, line, escapes, local_tty)
    raise typer.Exit(anyio.run(run.run))


def _line(command: list[str]) -> str:
    """One word is a line for the shell; several are a program and its arguments."""
    return command[0] if len(command) == 1 else shlex.join(command)


def _identity(text: str | None) -> UUID:
    if text is None:
        return uuid4()
    try:
        return UUID(text)
    except ValueError:
        raise ConfigError(f"--reconnect {text!r} is no terminal's UUID", hint="leave it out for a new one") from None


def _escape(text: str) -> str | None:
    if text == "none":
        return None
    if len(text) != 1 or not text.isascii() or not text.isprintable():
        raise ConfigError(f"--escape {text!r} must be one character, or none", hint="the usual one is ~")
    return text


class _Run:
    """One run of the command."""

    def __init__(
        self,
        config: ClientConfig,
        name: WorkspaceName,
        identity: UUID,
        command: str,
        escapes: Escapes,
        tty: Tty,
    ) -> None:
        self._config = config
        self._name = name
        self._identity = identity
        self._command = command
        self._escapes = escapes
        self._tty = tty
        self._interactive = sys.stdin.isatty()
        self._signal = 0

    async def run(self) -> int:
        """Answers the exit code."""
        async with open_workspace(self._config, self._name) as workspace:
            viewer = Viewer(workspace, self._tty, self._identity, self._command, self._escapes)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._signals, viewer)
                code = await viewer.run()
                tasks.cancel_scope.cancel()
            if self._signal:
                return 128 + self._signal
            if code == LEFT and self._interactive:
                again = f"coder terminal {workspace.agent.label} --reconnect {self._identity}"
                note(f"\nLeft; its agent keeps the shell for some minutes: {again}")
            return code

    async def _signals(self, viewer: Viewer) -> None:
        with anyio.open_signal_receiver(signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
            async for number in signals:
                if number == signal.SIGWINCH:
                    await viewer.resized()
                    continue
                self._signal = number
                viewer.leave()
                return
