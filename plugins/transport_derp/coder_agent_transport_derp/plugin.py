"""Hook implementations only; everything else is imported when used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks.interfaces import RelayBackend, SettingsSpec, TransportFactory
    from coder_agent.hooks.settings import Settings

__coder_api__ = 1


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    from coder_agent.hooks.interfaces import SettingsSpec

    return [SettingsSpec("transport_derp", "coder_agent_transport_derp.settings:DerpSettings")]


@hookimpl
def coder_transports(settings: Settings) -> Sequence[TransportFactory]:
    from .transport import DerpTransportFactory

    return [DerpTransportFactory()]


@hookimpl
def coder_relay_backends(settings: Settings) -> Sequence[RelayBackend]:
    from .relay import DerpRelay
    from .settings import DerpSettings

    return [DerpRelay.from_settings(settings.section("transport_derp", DerpSettings))]
