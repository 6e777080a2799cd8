"""A report of one end alone, judged all the same: what would come of it with an ordinary peer?"""

from __future__ import annotations

from dataclasses import replace

from ..base.addresses import AddrPort
from ..base.nat_facts import NatFacts, PathReport
from ..base.paths import PathKind
from .model import would_be_direct
from .situation import Situation

ORDINARY_PEER = "a peer behind an ordinary router"
"""What `judge` calls the peer of somebody who is alone."""
_ENDPOINTS = (AddrPort("198.18.1.1", 41641), AddrPort("192.168.2.10", 41641))
_REPORT = PathReport(
    NatFacts(
        udp=True,
        ipv4=True,
        ipv6=False,
        mapping_varies=False,
        public_v4=_ENDPOINTS[0],
        nat_layers=1,
        mtu=1500,
    )
)
"""The usual home router: one port for all destinations, UDP, no IPv6. (198.18.0.0/15 is nobody's: RFC 2544.)"""


def is_alone(situation: Situation) -> bool:
    """Is there nothing about a peer in it?"""
    return situation.remote is None and not situation.published and situation.kind is PathKind.NONE


def with_peer(situation: Situation) -> Situation:
    """The situation, with an ordinary peer if it has none, and as it would be after a search."""
    if not is_alone(situation):
        return situation
    paired = replace(situation, remote=_REPORT, published=_ENDPOINTS)
    if would_be_direct(paired):
        return replace(paired, kind=PathKind.DIRECT, addr=_ENDPOINTS[0])
    return replace(paired, kind=PathKind.RELAYED)
