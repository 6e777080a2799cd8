"""By what means two hosts are joined, or why not: read off what they know, for people and for the matrix."""

from __future__ import annotations

from enum import StrEnum

from ...base.addresses import AddrPort
from ...base.nat_facts import NatFacts
from .host import SimHost


class Means(StrEnum):
    """Where the address in use came from. `BIRTHDAY`: found by guessing ports from many sockets. `PREDICTION`: an
    address that no server had seen, worked out from the NAT's pattern. `PING`: learnt from where a ping came from."""

    INTERFACE = "interface address"
    IPV6 = "IPv6"
    STUN = "STUN address"
    HAIRPIN = "hairpin"
    PORT_MAPPING = "port mapping"
    CONFIGURED = "configured address"
    PREDICTION = "prediction"
    BIRTHDAY = "birthday"
    PING = "learnt from a ping"


def means_of(one: SimHost, other: SimHost) -> tuple[Means, ...]:
    """What joins two hosts: the means of both ends, without repetition. Empty without direct paths."""
    found = {_means_to(one, other), _means_to(other, one)} - {None}
    return tuple(means for means in Means if means in found)


def _means_to(one: SimHost, other: SimHost) -> Means | None:
    """How `one` knows the address at which it reaches `other`."""
    addr = one.path(other).addr
    if addr is None:
        return None
    spec = one.lab.network.topology.host(other.name)
    if one.path(other).socket or other.path(one).socket:
        return Means.BIRTHDAY
    if addr.host in spec.addresses:
        return Means.IPV6 if addr.is_ipv6 else Means.INTERFACE
    if one.facts.public_v4 is not None and addr.host == one.facts.public_v4.host:
        return Means.HAIRPIN
    if addr == other.mapped:
        return Means.PORT_MAPPING
    if addr in other.seen_by_stun:
        return Means.STUN
    if addr in spec.static or addr.port == spec.listen_port:
        return Means.CONFIGURED
    return Means.PREDICTION if _was_told(one, other, addr) and other.facts.port_step else Means.PING


def _was_told(one: SimHost, other: SimHost, addr: AddrPort) -> bool:
    named = [candidate.sources for candidate in one.path(other).candidates if candidate.addr == addr]
    return any(source != "ping" for sources in named for source in sources)


def why_relayed(one: SimHost, other: SimHost) -> str:
    """The cause, by the facts that both ends have measured."""
    for host in (one, other):
        if host.facts.direct_allowed is False:
            return f"a rule forbids direct paths at {host.name}"
        if host.facts.udp is False:
            return f"UDP is blocked at {host.name}"
    a, b = one.facts, other.facts
    if a.mapping_varies and b.mapping_varies:
        return "both NATs give each destination another port"
    if a.mapping_varies or b.mapping_varies:
        return "one NAT gives each destination another port, the other admits only what it has sent to"
    if _share_a_nat(a, b):
        return "the common router does not hairpin"
    return "not known"


def _share_a_nat(a: NatFacts, b: NatFacts) -> bool:
    return a.public_v4 is not None and b.public_v4 is not None and a.public_v4.host == b.public_v4.host
