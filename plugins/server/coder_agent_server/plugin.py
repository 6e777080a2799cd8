"""The doorway: what this package adds to coder. Everything heavy is imported when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl
from coder_agent.hooks.interfaces import CommandSpec, DerpMapSource, SettingsSpec

if TYPE_CHECKING:  # `coder --help` shall not pay for pydantic
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.server]``."""
    return [SettingsSpec("server", "coder_agent_server.settings:ServerSettings")]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """``coder server``."""
    return [CommandSpec("server", "Start a coder server: API, coordination, relay.", "coder_agent_server.cli:server")]


@hookimpl
def coder_derp_map_sources(settings: Settings) -> Sequence[DerpMapSource]:
    """``--derp-config-url`` or ``--derp-config-path``, if one is set."""
    from .derp_map_sources import configured_sources
    from .settings import ServerSettings

    return configured_sources(settings.section("server", ServerSettings), settings.network.dial_options())
