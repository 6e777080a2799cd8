"""What a user could change in a network, done to a topology. Each takes the *side* (a host's name) where it is done.

A fix may be done where it is of no use: a port mapping on the home router does not help behind a carrier's NAT. Whoever
proposes fixes is judged with these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...base.addresses import AddrPort
from .topology import (
    DEFAULT_PORT,
    STUN_SERVERS,
    Firewall,
    Forward,
    Host,
    Interface,
    Mapping,
    NatRules,
    Router,
    Topology,
)

PORT_MAPPING_PROTOCOLS = ("pmp", "pcp", "upnp")


def with_port_mapping(topology: Topology, side: str, protocols: tuple[str, ...] = PORT_MAPPING_PROTOCOLS) -> Topology:
    """UPnP, NAT-PMP and PCP are switched on in the router next to `side` (not in a carrier's behind it)."""
    for router in topology.chain(side)[:1]:
        topology = topology.with_router(router.name, lambda one: replace(one, port_mapping=protocols))
    return topology


def with_forwarded_port(topology: Topology, side: str, port: int = DEFAULT_PORT) -> Topology:
    """`side` listens on a fixed UDP port, open in its firewall and forwarded to it by every router on its way out.

    That includes a carrier's router, where users cannot do it: propose it there only to those who can.
    """
    inside = _ipv4_of(topology.host(side))

    def fix(host: Host) -> Host:
        return replace(host, listen_port=port, firewall=_opened(host.firewall, port))

    for router in topology.chain(side):
        topology = topology.with_router(router.name, _forwarding(port, inside))
        inside = router.address
    return topology.with_host(side, fix)


def with_open_firewall(topology: Topology, side: str) -> Topology:
    """The firewall of host `side` lets UDP to its main socket in."""
    return topology.with_host(side, lambda host: replace(host, firewall=_opened(host.firewall, host.port)))


def with_udp_allowed(topology: Topology, side: str) -> Topology:
    """No firewall at `side`, its own or its routers', blocks UDP as such. Unsolicited ones stay out as before."""

    def allow(router: Router) -> Router:
        return replace(router, firewall4=_allowing(router.firewall4), firewall6=_allowing(router.firewall6))

    for router in topology.chain(side):
        topology = topology.with_router(router.name, allow)
    return topology.with_host(side, lambda host: replace(host, firewall=_allowing(host.firewall)))


def with_direct_allowed(topology: Topology, side: str) -> Topology:
    """The rule against direct paths at `side` is lifted."""
    return topology.with_host(side, lambda host: replace(host, allow_direct=True, direct_rule=""))


def with_ipv6(topology: Topology, side: str) -> Topology:
    """`side` gets IPv6 beside what it has, through the stateful firewalls of its routers. It takes both ends."""
    index = [host.name for host in topology.hosts].index(side) + 1
    segment = topology.host(side).interfaces[0].segment

    def add(host: Host) -> Host:
        if any(":" in address for address in host.addresses):
            return host
        link = host.interfaces[0].link
        return replace(host, interfaces=(*host.interfaces, Interface(f"2001:db8:{index}::10", segment, link)))

    return topology.with_host(side, add)


def with_stun(topology: Topology, side: str = "") -> Topology:
    """There are STUN servers, and `side` ("" = everybody) asks them."""
    for host in topology.hosts:
        if side in ("", host.name):
            topology = topology.with_host(host.name, lambda one: replace(one, asks_stun=True))
    return replace(topology, stun=topology.stun or STUN_SERVERS)


def with_larger_mtu(topology: Topology, side: str = "", mtu: int = 1500) -> Topology:
    """No link at `side` ("" = anywhere), nor the Internet between, loses packets of up to `mtu` bytes."""
    for host in topology.hosts:
        if side not in ("", host.name):
            continue
        for router in topology.chain(host.name):
            topology = topology.with_router(
                router.name, lambda one: replace(one, link=replace(one.link, mtu=max(mtu, one.link.mtu)))
            )
        topology = topology.with_host(
            host.name,
            lambda one: replace(
                one,
                interfaces=tuple(
                    replace(foot, link=replace(foot.link, mtu=max(mtu, foot.link.mtu))) for foot in one.interfaces
                ),
            ),
        )
    return replace(topology, core=replace(topology.core, mtu=max(mtu, topology.core.mtu)))


def with_endpoint_independent_nat(topology: Topology, side: str) -> Topology:
    """Every NAT on the way out of `side` gives one outside port to one inside port (RFC 4787 REQ-1)."""
    return _with_nat(topology, side, lambda nat: replace(nat, mapping=Mapping.ENDPOINT_INDEPENDENT))


def with_hairpin(topology: Topology, side: str) -> Topology:
    """Every NAT on the way out of `side` hairpins (RFC 4787 REQ-9)."""
    return _with_nat(topology, side, lambda nat: replace(nat, hairpin=True))


def _with_nat(topology: Topology, side: str, change: Callable[[NatRules], NatRules]) -> Topology:
    for router in topology.chain(side):
        if router.nat is not None:
            topology = topology.with_router(router.name, lambda one: replace(one, nat=one.nat and change(one.nat)))
    return topology


def _forwarding(port: int, inside: str) -> Callable[[Router], Router]:
    def fix(router: Router) -> Router:
        others = tuple(one for one in router.forwards if one.port != port)
        return replace(
            router,
            forwards=(*others, Forward(port, AddrPort(inside, port))),
            firewall4=_opened(router.firewall4, port),
            firewall6=_opened(router.firewall6, port),
        )

    return fix


def _allowing(firewall: Firewall) -> Firewall:
    return replace(firewall, udp=True, to_ports=())


def _opened(firewall: Firewall, port: int) -> Firewall:
    return replace(firewall, open_ports=tuple(sorted({*firewall.open_ports, port})))


def _ipv4_of(host: Host) -> str:
    return next((address for address in host.addresses if ":" not in address), "")
