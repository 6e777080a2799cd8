"""Hooks of the UDP transport. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import Settings, TransportFactory

__coder_api__ = 1
NAME = "transport_udp"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.transport_udp]``."""
    return [SettingsSpec(NAME, "coder_agent_transport_udp.settings:UdpSettings")]


@hookimpl
def coder_transports(settings: Settings) -> Sequence[TransportFactory]:
    """The transport of kind ``direct``."""
    from .settings import UdpSettings
    from .transport import UdpTransportFactory

    return [UdpTransportFactory(settings.section(NAME, UdpSettings))]
