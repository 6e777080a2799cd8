"""The ten places from which people connect, and what two of them together look like.

Eight say what is around *one* end. Two say something about the pair:

* `same-nat` with X: both ends are behind one router of X's kind, on one LAN (with `open`: in one public network; with
  `double-nat`: two homes behind one carrier NAT). With itself: two guests behind one easy NAT whose Wi-Fi isolates them
  from each other. In these last two only the router can join them, if it hairpins: both ways are cells.
* `ipv6` with X: both ends have IPv6 through stateful firewalls, and IPv4 besides: the one as X has it, the other behind
  a symmetric NAT. With itself: two symmetric NATs, so that it is IPv6 that makes the path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from .fixes import with_ipv6
from .topology import (
    INTERNET,
    LAN,
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

RTT = 0.050
"""Seconds there and back across the Internet, in the matrix."""

OPEN_PLACE = "open"
FULL_CONE = "full-cone"
RESTRICTED_CONE = "restricted-cone"
EASY = "easy"
SYMMETRIC_RANDOM = "symmetric-random"
SYMMETRIC_PRESERVING = "symmetric-preserving"
DOUBLE_NAT = "double-nat"
SAME_NAT = "same-nat"
IPV6 = "ipv6"
UDP_BLOCKED = "udp-blocked"

PLACES: dict[str, str] = {
    OPEN_PLACE: "a public address, no firewall",
    FULL_CONE: "one outside port per inside port, anybody may send to it",
    RESTRICTED_CONE: "one outside port per inside port, hosts that were sent to may answer",
    EASY: "one outside port per inside port, addresses with ports that were sent to may answer: most homes",
    SYMMETRIC_RANDOM: "another outside port, at random, for each destination: offices, mobile networks",
    SYMMETRIC_PRESERVING: "another outside port for each destination: the inside's own if free, else the next",
    DOUBLE_NAT: "an easy NAT behind a carrier's easy NAT",
    SAME_NAT: "both ends behind one router",
    IPV6: "both ends have IPv6, behind stateful firewalls",
    UDP_BLOCKED: "a firewall on the way out drops all UDP",
}
"""Name to what it means, in the order of the grid."""

_SYMMETRIC = NatRules(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT)
NATS: dict[str, NatRules] = {
    FULL_CONE: NatRules(filtering=Filtering.ENDPOINT_INDEPENDENT),
    RESTRICTED_CONE: NatRules(filtering=Filtering.ADDRESS_DEPENDENT),
    EASY: NatRules(),
    SYMMETRIC_RANDOM: replace(_SYMMETRIC, ports=Ports.RANDOM),
    SYMMETRIC_PRESERVING: replace(_SYMMETRIC, ports=Ports.PRESERVING),
    IPV6: replace(_SYMMETRIC, ports=Ports.RANDOM),
}
"""The router next to the host, where there is one and it is not an easy NAT."""

_WAN = {"a": "198.51.100", "b": "203.0.113"}
_LAN = {"a": "192.168.1", "b": "192.168.2"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell of the matrix. `hairpin` is None where it makes no difference."""

    a: str
    b: str
    hairpin: bool | None = None

    @property
    def name(self) -> str:
        """As in ``easy–symmetric-random``."""
        variant = "" if self.hairpin is None else " with hairpin" if self.hairpin else " without hairpin"
        return f"{self.a}–{self.b}{variant}"


def all_pairs(only: tuple[str, ...] = ()) -> list[Pair]:
    """Every unordered pair of places (all, or both of `only`), with its variants."""
    names = [name for name in PLACES if not only or name in only]
    return [pair for a, b in combinations_with_replacement(names, 2) for pair in variants(a, b)]


def variants(a: str, b: str) -> list[Pair]:
    """The cells of two places: two where it matters whether the router hairpins."""
    if SAME_NAT in (a, b) and {a, b} <= {SAME_NAT, DOUBLE_NAT}:
        return [Pair(a, b, True), Pair(a, b, False)]
    return [Pair(a, b)]


def topology_of(pair: Pair, *, rtt: float = RTT) -> Topology:
    """The network of a pair: hosts ``a`` and ``b``. `rtt` is that of the Internet; LANs add 2 ms to it."""
    core = LinkRules(latency=rtt / 2)
    if SAME_NAT in (pair.a, pair.b):
        other = pair.b if pair.a == SAME_NAT else pair.a
        topology = _together(EASY if other == SAME_NAT else other, hairpin=bool(pair.hairpin))
        if other == SAME_NAT:
            topology = replace(topology, isolated=("lan-a",))
    else:
        (host_a, routers_a), (host_b, routers_b) = _place(pair.a, "a"), _place(pair.b, "b")
        topology = Topology((host_a, host_b), routers_a + routers_b)
    if IPV6 in (pair.a, pair.b):
        topology = with_ipv6(with_ipv6(topology, "a"), "b")
    return replace(topology, core=core)


def _place(place: str, side: str) -> tuple[Host, tuple[Router, ...]]:
    """One end by itself."""
    if place not in PLACES:
        raise ValueError(f"{place!r} is no place; there are: {', '.join(PLACES)}")
    if place == OPEN_PLACE:
        return Host(side, (Interface(f"{_WAN[side]}.10"),)), ()
    host = Host(side, (Interface(f"{_LAN[side]}.10", f"lan-{side}", LAN),))
    if place == DOUBLE_NAT:
        return host, (_home(side, outside=f"carrier-{side}"), _carrier(side))
    router = _home(side, NATS.get(place))
    if place == UDP_BLOCKED:
        shut = Firewall(udp=False)
        router = replace(router, firewall4=shut, firewall6=replace(router.firewall6, udp=False))
    return host, (router,)


def _home(side: str, nat: NatRules | None = None, outside: str = INTERNET) -> Router:
    host = {"a": 2, "b": 3}[side]
    address = f"{_WAN[side]}.1" if outside == INTERNET else f"100.64.0.{host}"
    return Router(f"home-{side}", f"lan-{side}", address, outside, nat or NatRules())


def _carrier(side: str, *, hairpin: bool = False) -> Router:
    return Router(f"carrier-{side}", f"carrier-{side}", f"{_WAN[side]}.1", nat=NatRules(hairpin=hairpin))


def _together(place: str, *, hairpin: bool) -> Topology:
    """Both ends behind one router."""
    if place == DOUBLE_NAT:
        homes = tuple(_home(side, outside="carrier-a") for side in "ab")
        hosts = tuple(Host(side, (Interface(f"{_LAN[side]}.10", f"lan-{side}", LAN),)) for side in "ab")
        return Topology(hosts, (*homes, _carrier("a", hairpin=hairpin)))
    host, routers = _place(place, "a")
    first = host.interfaces[0]
    neighbour = Host("b", (replace(first, address=first.address.rpartition(".")[0] + ".20"),))
    hairpins = tuple(replace(one, nat=one.nat and replace(one.nat, hairpin=hairpin)) for one in routers)
    return Topology((host, neighbour), hairpins)
