"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import CommandSpec, RelayBackend, SettingsSpec, TransportFactory
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    from coder_agent.hooks.interfaces import SettingsSpec

    return [
        SettingsSpec("transport_derp", "coder_agent_transport_derp.settings:DerpSettings"),
        SettingsSpec("derp", "coder_agent_transport_derp.daemon.settings:RelayProgramSettings"),
    ]


@hookimpl
def coder_commands() -> Sequence[CommandSpec]:
    """``coder derp``."""
    from coder_agent.hooks.interfaces import CommandSpec

    return [CommandSpec("derp", "Run a DERP relay of its own.", "coder_agent_transport_derp.daemon.cli:derp")]


@hookimpl
def coder_transports(settings: Settings) -> Sequence[TransportFactory]:
    from .transport import DerpTransportFactory

    return [DerpTransportFactory()]


@hookimpl
def coder_relay_backends(settings: Settings) -> Sequence[RelayBackend]:
    from .relay import DerpRelay
    from .settings import DerpSettings

    return [DerpRelay.from_settings(settings.section("transport_derp", DerpSettings))]
