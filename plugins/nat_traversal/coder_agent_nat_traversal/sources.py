"""The sources that the settings ask for."""

from __future__ import annotations

from functools import partial

from coder_agent.hooks import CandidateSource, DialOptions

from .gateway import find_gateway
from .interfaces import LocalInterfaces
from .layers import NatLayers
from .portmap import PortMapSource
from .resolver import Resolver
from .settings import NatSettings
from .static import StaticEndpoints
from .stun import StunSource


def build_sources(
    settings: NatSettings, dial: DialOptions | None = None, listen_port: int = 0
) -> list[CandidateSource]:
    """Only sources that have something to do. `dial`: how relays are reached over HTTPS, and what may be
    talked to at all.

    `listen_port`: the fixed UDP port that was asked for, 0 = any. Who fixes a port may well have forwarded it.
    """
    dial = dial or DialOptions()
    sources: list[CandidateSource] = []
    if settings.local:
        sources.append(LocalInterfaces())
    if settings.stun:
        guess = settings.stun_local_port if settings.stun_local_port is not None else listen_port != 0
        sources.append(StunSource(guess_local_port=guess, resolver=Resolver(egress=dial.egress), dial=dial))
    if protocols := settings.mapping_protocols():
        sources.append(PortMapSource(protocols, partial(find_gateway, dial.egress)))
        if settings.stun:
            sources.append(NatLayers(dial.egress))
    if settings.endpoints:
        sources.append(StaticEndpoints(settings.static_endpoints()))
    return sources
