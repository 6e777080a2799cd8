"""Hooks of mDNS discovery. Nothing heavy is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coder_agent.hooks import SettingsSpec, hookimpl

if TYPE_CHECKING:
    from coder_agent.hooks import CandidateSource, Settings

__coder_api__ = 1
NAME = "discovery_mdns"


@hookimpl
def coder_settings() -> Sequence[SettingsSpec]:
    """The section ``[plugins.discovery_mdns]``."""
    return [SettingsSpec(NAME, "coder_agent_discovery_mdns.settings:MdnsSettings")]


@hookimpl
def coder_candidate_sources(settings: Settings) -> Sequence[CandidateSource]:
    """Peers on our LANs, unless that is switched off."""
    from .settings import MdnsSettings

    section = settings.section(NAME, MdnsSettings)
    if not section.enabled:
        return []
    from .source import MdnsSource

    return [MdnsSource(section.interfaces)]
