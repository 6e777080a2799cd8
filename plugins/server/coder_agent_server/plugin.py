"""The doorway: what this package adds to coder. Everything heavy is imported when it is used."""

from __future__ import annotations

from collections.abc import Sequence

from coder_agent.hooks import hookimpl
from coder_agent.hooks.interfaces import CommandSpec, SettingsSpec

__coder_api__ = 1


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.server]``."""
    return [SettingsSpec("server", "coder_agent_server.settings:ServerSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """``coder server``."""
    return [CommandSpec("server", "Start a coder server: API, coordination, relay.", "coder_agent_server.cli:server")]
