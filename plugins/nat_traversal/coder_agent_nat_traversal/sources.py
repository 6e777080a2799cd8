"""The sources that the settings ask for."""

from __future__ import annotations

from coder_agent.hooks import CandidateSource

from .interfaces import LocalInterfaces
from .settings import NatSettings
from .static import StaticEndpoints
from .stun import StunSource


def build_sources(settings: NatSettings) -> list[CandidateSource]:
    """Only sources that have something to do."""
    sources: list[CandidateSource] = []
    if settings.local:
        sources.append(LocalInterfaces())
    if settings.stun:
        sources.append(StunSource(guess_local_port=settings.stun_local_port))
    if settings.endpoints:
        sources.append(StaticEndpoints(settings.static_endpoints()))
    return sources
