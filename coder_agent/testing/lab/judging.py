"""What two nodes of the laboratory know of each other, as `verdict.judge` wants it."""

from __future__ import annotations

from dataclasses import replace

from ...explain import situation_of_status
from ...verdict.fixes import Fix, FixCode, Where
from ...verdict.situation import Region, RelayFacts, Situation
from . import fixes
from .host import SimHost
from .laboratory import Lab
from .topology import Host, Topology

FIRST_LOOK = 1.5
"""Seconds for the first round of STUN, before anybody is introduced."""
SEARCH = 25.0
"""Seconds that a search may take: birthday probing included."""
SEND_INTERVAL = 0.25
ANSWER = 3.0
"""Seconds for the answer to a question: reports are not sent more often than every 2 s."""


def search(topology: Topology, seed: int = 1, seconds: float = SEARCH) -> tuple[Lab, SimHost, SimHost]:
    """Let the first two hosts look for a direct path to each other, until both have one or `seconds` have passed."""
    lab = Lab(topology, seed)
    a, b = lab.hosts[:2]
    lab.start()
    lab.run(FIRST_LOOK)
    lab.introduce()
    a.send_each(b, SEND_INTERVAL, lab.now + seconds)
    b.send_each(a, SEND_INTERVAL, lab.now + seconds)
    lab.run(seconds, until=lambda: a.is_direct(b) and b.is_direct(a))
    return lab, a, b


def situation_of(here: SimHost, there: SimHost) -> Situation:
    """The situation as `here` sees it, after asking `there` for its report."""
    lab = here.lab
    here.carry_out(here.magicsock.ask_report(there.key, lab.clock.now))
    lab.run(ANSWER)
    topology = lab.network.topology
    status = here.path(there)
    return replace(
        situation_of_status(status, lab.clock.now),
        published=there.endpoints,
        own=here.endpoints,
        relay=RelayFacts(
            has_stun=bool(topology.stun),
            regions=tuple(Region(one.number, f"region {one.number}", 2 * one.latency) for one in topology.regions),
            home_here=here.home,
            home_there=there.home,
            connected=True,
        ),
        rules_here=status.rules,
        rules_there=there.path(here).rules,
    )


def with_fix(topology: Topology, fix: Fix) -> Topology:
    """The network after a fix that a verdict of host ``a`` named: the meaning of every `FixCode`."""
    here, there = (host.name for host in topology.hosts[:2])
    sides = {Where.HERE: [here], Where.THERE: [there]}.get(fix.where, [here, there])
    if fix.code is FixCode.ADD_STUN:
        return fixes.with_stun(topology)
    if fix.code is FixCode.RAISE_MTU and fix.where is Where.PATH:
        return fixes.with_larger_mtu(topology)
    for side in sides:
        topology = _at(topology, fix.code, side)
    return topology


def _at(topology: Topology, code: FixCode, side: str) -> Topology:
    match code:
        case FixCode.ALLOW_DIRECT:
            return fixes.with_direct_allowed(topology, side)
        case FixCode.ALLOW_UDP:
            return fixes.with_udp_allowed(topology, side)
        case FixCode.OPEN_PORT:  # from anywhere: also from behind the same router
            return fixes.with_hairpin(fixes.with_forwarded_port(topology, side), side)
        case FixCode.ENABLE_PORT_MAPPING:
            return fixes.with_port_mapping(topology, side)
        case FixCode.ENABLE_IPV6:
            return fixes.with_ipv6(topology, side)
        case FixCode.ENABLE_HAIRPIN:
            return fixes.with_hairpin(topology, side)
        case FixCode.RAISE_MTU:
            return topology.with_host(side, _with_full_mtu)
    raise ValueError(f"the laboratory does not know how to {code.value}")


def _with_full_mtu(host: Host) -> Host:
    feet = tuple(replace(foot, link=replace(foot.link, mtu=1500)) for foot in host.interfaces)
    return replace(host, interfaces=feet)
