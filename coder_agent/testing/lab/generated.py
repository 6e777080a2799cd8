"""Networks by the hundred: two hosts, each in a random place, and random things wrong with them. Seeded.

Everything is drawn from what people sit behind: the RFC 4787 kinds of NAT, carriers' NATs, firewalls of all strictness,
rules, families, MTUs, relay maps without STUN, both ends behind one router. Most ends have at most one thing wrong.

Two faults show only where packets would pass otherwise: a firewall that lets UDP out to STUN servers alone, and an MTU
black hole on the way. On top of two symmetric NATs nobody could see them, so they are put where they can be.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from .fixes import PORT_MAPPING_PROTOCOLS, with_ipv6
from .topology import (
    DEFAULT_PORT,
    INTERNET,
    LAN,
    STATEFUL,
    STUN_SERVERS,
    Filtering,
    Firewall,
    Host,
    Interface,
    LinkRules,
    Mapping,
    NatRules,
    Ports,
    Router,
    Topology,
)

LOW_MTU = 1280
"""Bytes: as on some VPN and cellular interfaces; too small for full-size packets."""
_WAN = {"a": "198.51.100", "b": "203.0.113"}
_LAN = {"a": "192.168.1", "b": "192.168.2"}
_HARD = NatRules(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT)
Kinds = tuple[tuple[int, NatRules], ...]
EASY_NATS: Kinds = (
    (2, NatRules(filtering=Filtering.ENDPOINT_INDEPENDENT)),
    (2, NatRules(filtering=Filtering.ADDRESS_DEPENDENT)),
    (4, NatRules()),
    (2, NatRules(ports=Ports.RANDOM)),
)
"""Weight and rules of routers that give one outside port to one inside port…"""
NATS: Kinds = (
    *EASY_NATS,
    (1, NatRules(mapping=Mapping.ADDRESS_DEPENDENT, ports=Ports.RANDOM)),
    (3, replace(_HARD, ports=Ports.RANDOM)),
    (2, _HARD),
)
"""…and of all."""


def generated(seed: int) -> Topology:
    """The network of a seed: hosts ``a`` and ``b``."""
    random = Random(f"topology {seed}")
    latency = random.choice((0.005, 0.025, 0.080))
    if random.random() < 0.12:
        return _hidden_fault(random, latency)
    if random.random() < 0.12:
        topology = _neighbours(random)
    else:
        (a, routers_a), (b, routers_b) = _end(random, "a", NATS), _end(random, "b", NATS)
        topology = Topology((a, b), routers_a + routers_b)
    topology = _families(random, topology)
    if random.random() < 0.5:  # at one end will do: it takes both
        topology = topology.with_host(random.choice("ab"), lambda host: replace(host, birthday=False))
    for side in "ab":
        topology = _something_wrong(random, topology, side)
    stun = STUN_SERVERS if random.random() < 0.92 else ()
    return replace(topology, stun=stun, core=LinkRules(latency=latency))


def _hidden_fault(random: Random, latency: float) -> Topology:
    """A pair that would be direct, but for something on the way that neither end's own probes can see."""
    (a, routers_a), (b, routers_b) = _end(random, "a", EASY_NATS), _end(random, "b", EASY_NATS)
    topology = Topology((a, b), routers_a + routers_b, core=LinkRules(latency=latency))
    kind = random.choice(("stun-only", "mtu-core", "mtu-router"))
    routers = [router.name for router in topology.routers]
    if kind == "stun-only":
        side = random.choice("ab")
        only = Firewall(unsolicited=False, to_ports=(STUN_SERVERS[0].port,))
        return topology.with_host(side, lambda host: replace(host, firewall=only))
    if kind == "mtu-router" and routers:
        return topology.with_router(random.choice(routers), lambda one: replace(one, link=LinkRules(mtu=LOW_MTU)))
    return replace(topology, core=LinkRules(latency=latency, mtu=LOW_MTU))


def _nat(random: Random, kinds: Kinds) -> NatRules:
    return random.choices([rules for _, rules in kinds], [weight for weight, _ in kinds])[0]


def _end(random: Random, side: str, kinds: Kinds) -> tuple[Host, tuple[Router, ...]]:
    """One end by itself."""
    kind = random.choices(("public", "home", "carrier"), (2, 7, 2))[0]
    if kind == "public":
        firewall = STATEFUL if random.random() < 0.5 else Firewall()
        return Host(side, (Interface(f"{_WAN[side]}.10"),), firewall=firewall), ()
    host = Host(side, (Interface(f"{_LAN[side]}.10", f"lan-{side}", LAN),))
    if kind == "home":
        return host, (_home(random, side, INTERNET, kinds),)
    carrier = Router(f"carrier-{side}", f"carrier-{side}", f"{_WAN[side]}.1", nat=_nat(random, kinds))
    return host, (_home(random, side, carrier.inside, kinds), carrier)


def _home(random: Random, side: str, outside: str, kinds: Kinds) -> Router:
    address = f"{_WAN[side]}.1" if outside == INTERNET else f"100.64.0.{2 if side == 'a' else 3}"
    mapping = PORT_MAPPING_PROTOCOLS if random.random() < 0.15 else ()
    return Router(f"home-{side}", f"lan-{side}", address, outside, nat=_nat(random, kinds), port_mapping=mapping)


def _neighbours(random: Random) -> Topology:
    """Both ends behind one router: on one LAN, isolated from each other on it, or in two homes of one carrier."""
    rules = replace(_nat(random, NATS), hairpin=random.random() < 0.4)
    kind = random.choice(("lan", "guests", "homes"))
    if kind == "homes":
        homes = tuple(_home(random, side, "carrier-a", NATS) for side in "ab")
        carrier = Router("carrier-a", "carrier-a", f"{_WAN['a']}.1", nat=rules)
        hosts = tuple(Host(side, (Interface(f"{_LAN[side]}.10", f"lan-{side}", LAN),)) for side in "ab")
        return Topology(hosts, (*homes, carrier))
    router = replace(_home(random, "a", INTERNET, NATS), nat=rules)
    hosts = tuple(Host(side, (Interface(f"{_LAN['a']}.{10 + at}", "lan-a", LAN),)) for at, side in enumerate("ab"))
    return Topology(hosts, (router,), isolated=("lan-a",) if kind == "guests" else ())


def _families(random: Random, topology: Topology) -> Topology:
    """IPv6 at both ends, at one, or at none; seldom an end without IPv4."""
    both = random.random()
    for side in "ab":
        if both < 0.1 or random.random() < 0.1:
            topology = with_ipv6(topology, side)
            if random.random() < 0.2:
                topology = topology.with_host(side, lambda host: replace(host, interfaces=host.interfaces[1:]))
    return topology


def _something_wrong(random: Random, topology: Topology, side: str) -> Topology:
    """Mostly nothing."""
    what = random.choices(("nothing", "udp-host", "udp-router", "mtu", "rule", "port"), (70, 3, 6, 6, 7, 8))[0]
    routers = topology.chain(side)
    match what:
        case "udp-host":
            return topology.with_host(side, lambda host: replace(host, firewall=replace(host.firewall, udp=False)))
        case "udp-router" if routers:
            shut = Firewall(udp=False)
            name = random.choice(routers).name
            return topology.with_router(name, lambda one: replace(one, firewall4=shut, firewall6=shut))
        case "mtu":
            return topology.with_host(side, lambda host: _with_mtu(host, LOW_MTU))
        case "rule":
            rule = "--disable-direct-connections"
            return topology.with_host(side, lambda host: replace(host, allow_direct=False, direct_rule=rule))
        case "port":
            return topology.with_host(side, lambda host: replace(host, listen_port=DEFAULT_PORT))
    return topology


def _with_mtu(host: Host, mtu: int) -> Host:
    return replace(host, interfaces=tuple(replace(foot, link=replace(foot.link, mtu=mtu)) for foot in host.interfaces))
