"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import AgentService, CommandSpec, ServerContext, SettingsSpec
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    from coder_agent.hooks.interfaces import SettingsSpec

    return [SettingsSpec("terminal", "coder_agent_terminal.settings:TerminalSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    from coder_agent.hooks.interfaces import CommandSpec

    return [CommandSpec("terminal", "Open a terminal in a workspace.", "coder_agent_terminal.command:terminal")]


@hookimpl
def coder_agent_services(settings: Settings) -> Sequence[AgentService]:
    if os.name != "posix":  # there are no pseudo-terminals of this kind
        return []
    from .service import TerminalService
    from .settings import TerminalSettings

    return [TerminalService(settings.section("terminal", TerminalSettings))]


@hookimpl
def coder_server_routes(context: ServerContext) -> Sequence[object]:
    from .routes import terminal_routes

    return terminal_routes(context)
