"""The running network: takes datagrams from hosts through links, firewalls and NATs to other hosts.

A packet goes hop by hop and in time: each router decides when the packet is there, not when it was sent, so that hole
punching is what it is outside. Datagrams that are sent together travel together as long as no link parts them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...base.addresses import AddrPort
from ...protocols.stun import is_stun, respond
from .clock import Clock
from .flows import Flows
from .lane import IPV4_OVERHEAD, IPV6_OVERHEAD, Lane
from .nat import Nat
from .relays import Relays
from .topology import INTERNET, OPEN, Cut, Host, Interface, LinkRules, Router, Topology

Receive = Callable[[list[bytes], AddrPort, int], None]
"""What a host does with datagrams that arrive together: (them, where from, local port)."""
CORE = "core"
"""Name of the link across the Internet, for `Network.set_link`."""


class Packets(NamedTuple):
    """Datagrams of one flow on their way."""

    rows: list[bytes]
    source: AddrPort
    target: AddrPort

    @property
    def overhead(self) -> int:
        """Header bytes of each."""
        return IPV6_OVERHEAD if self.target.is_ipv6 else IPV4_OVERHEAD


class Network:
    """State of all links, firewalls and NATs. `blocked` may forbid flows across the Internet, by outside addresses."""

    def __init__(self, topology: Topology, clock: Clock) -> None:
        self.clock = clock
        self.counters: Counter[str] = Counter()
        """Datagrams: ``delivered``, and those that were not, by reason."""
        self.trace: list[tuple[float, str, AddrPort, AddrPort, int]] | None = None
        """If it is a list: (when, delivered or why not, source, target, bytes) of each run of datagrams."""
        self.blocked: Callable[[AddrPort, AddrPort], bool] = lambda source, target: False
        self._receivers: dict[str, Receive] = {}
        self._lanes: dict[tuple[str, bool], Lane] = {}
        self._nats: dict[str, Nat] = {}
        self._flows: dict[str, Flows] = {}
        self._relays = Relays(clock, self.counters)
        self._is_sending = False
        self.topology = topology
        self.reshape(topology)

    # ------------------------------------------------------------ building and changing

    def reshape(self, topology: Topology) -> None:
        """The network is another from now on. What keeps its name keeps its state; a NAT, if its rules stay too."""
        self.topology = topology
        self._members: dict[tuple[str, str], tuple[Host, Interface]] = {}
        self._hosts = {host.name: host for host in topology.hosts}
        self._up: dict[str, Router] = {router.inside: router for router in topology.routers}
        self._doors = {(router.outside, router.address): router for router in topology.routers}
        self._routes: dict[tuple[str, str], Router] = {}
        self._lane(CORE, topology.core)
        for host in topology.hosts:
            self._filter(host.name).rules = host.firewall
            for interface in host.interfaces:
                self._members[interface.segment, interface.address] = (host, interface)
                self._lane(_foot(host, interface), interface.link)
                self._add_route(interface)
        for router in topology.routers:
            self._set_router(router)

    def _add_route(self, interface: Interface) -> None:
        """The way down to an address, from every segment above it."""
        segment = interface.segment
        seen = set()
        while (router := self._up.get(segment)) is not None and segment not in seen:
            seen.add(segment)
            segment = router.outside
            self._routes[segment, interface.address] = router

    def _set_router(self, router: Router) -> None:
        self._lane(router.name, router.link)
        self._filter(f"{router.name}/4").rules = router.firewall4
        self._filter(f"{router.name}/6").rules = router.firewall6
        if router.nat is None:
            self._nats.pop(router.name, None)
            return
        nat = self._nats.get(router.name)
        if nat is None or nat.rules != router.nat or nat.outside != router.address or nat.forwards != router.forwards:
            self._nats[router.name] = Nat(router.address, router.nat, self.clock.random, router.forwards)

    def _lane(self, name: str, rules: LinkRules) -> None:
        for is_up in (True, False):
            lane = self._lanes.get((name, is_up))
            if lane is None:
                self._lanes[name, is_up] = Lane(rules, self.clock.random, self.counters)
            else:
                lane.rules = rules

    def _filter(self, name: str) -> Flows:
        return self._flows.setdefault(name, Flows(OPEN))

    def attach(self, name: str, receive: Receive) -> None:
        """Give a host of the topology its ears."""
        self._receivers[name] = receive

    def set_core(self, **changes: object) -> None:
        """Change the link across the Internet, as in ``set_core(loss=0.1)``."""
        self.reshape(replace(self.topology, core=replace(self.topology.core, **changes)))  # type: ignore[arg-type]

    def nat(self, router: str) -> Nat:
        """The table of a router. Raises KeyError if it has none."""
        return self._nats[router]

    # ------------------------------------------------------------ sending

    def send(self, name: str, rows: Sequence[bytes], target: AddrPort, port: int) -> None:
        """Datagrams leave host `name` from its local `port`."""
        host = self._hosts[name]
        interface = _interface_for(host, target, self._members)
        packets = Packets(list(rows), AddrPort("", port), target)
        if interface is None:
            self._drop(packets, "no-route")
            return
        packets = packets._replace(source=AddrPort(interface.address, port))
        if not self._flows[name].outbound(packets.source, target, self.clock.now):
            self._drop(packets, "host-firewall")
            return
        self._is_sending = True
        try:
            self._hop(_foot(host, interface), True, packets, lambda one: self._cross(interface.segment, one, "member"))
        finally:
            self._is_sending = False

    def relay(self, sender: str, rows: Sequence[bytes], region: int, target: str, deliver: Callable[[], None]) -> bool:
        """Something goes from host to host through a relay region; `deliver` is called when it arrives. False = it does
        not: the region is unknown or down, or a link is cut."""
        found = next((one for one in self.topology.regions if one.number == region and one.is_up), None)
        if found is None or self._is_cut_off(sender) or self._is_cut_off(target):
            self.counters["relay-down"] += len(rows)
            return False
        if sender in found.silent_for or target in found.silent_for:
            self.counters["relay-silent"] += len(rows)
            return False
        self._relays.carry(found, sender, target, list(rows), deliver)
        return True

    def ask_port(self, name: str, port: int) -> AddrPort | None:
        """Host `name` asks its gateway to open `port` to it. None = the gateway does no such thing."""
        host = self._hosts[name]
        for interface in host.interfaces:
            router = self._up.get(interface.segment)
            if router is None or not router.port_mapping or ":" in interface.address:
                continue
            nat = self._nats.get(router.name)
            if nat is not None:
                return nat.open_port(AddrPort(interface.address, port), self.clock.now)
        return None

    # ------------------------------------------------------------ hops

    def _hop(self, lane: str, is_up: bool, packets: Packets, then: Callable[[Packets], None]) -> None:
        """Through one link in one direction."""
        now = self.clock.now
        arrivals = self._lanes[lane, is_up].carry(packets.rows, packets.overhead, now)
        if not arrivals and self.trace is not None:
            self._record("link", packets)
        for delay, rows in arrivals:
            some = packets if len(rows) == len(packets.rows) else packets._replace(rows=rows)
            if delay <= 0:
                then(some)
            else:
                self.clock.call_at(now + delay, lambda some=some: then(some))  # type: ignore[misc]

    def _cross(self, segment: str, packets: Packets, entered: str) -> None:
        """Packets are in a segment; `entered`: from a ``member``, from ``below`` (a router under it) or ``above``."""
        if segment != INTERNET:
            self._find(segment, packets, entered)
        elif self.blocked(packets.source, packets.target):
            self._drop(packets, "blocked")
        else:
            self._hop(CORE, True, packets, lambda some: self._find(INTERNET, some, entered))

    def _find(self, segment: str, packets: Packets, entered: str) -> None:
        """To whom in this segment, or which way out of it?"""
        where = (segment, packets.target.host)
        hears_others = entered == "above" or segment not in self.topology.isolated
        if where in self._members and hears_others:
            host, interface = self._members[where]
            self._hop(_foot(host, interface), False, packets, lambda some: self._arrive(host, some))
        elif where in self._doors and hears_others:
            router = self._doors[where]
            self._hop(router.name, False, packets, lambda some: self._enter(router, some))
        elif where in self._routes and hears_others and self._is_routed(where, packets):
            router = self._routes[where]
            self._hop(router.name, False, packets, lambda some: self._enter_routed(router, some))
        elif segment in self._up and entered != "above":
            self._leave(self._up[segment], packets)
        elif segment == INTERNET and packets.target in self.topology.stun:
            self._answer_stun(packets)
        else:
            self._drop(packets, "unreachable")

    def _is_routed(self, where: tuple[str, str], packets: Packets) -> bool:
        return packets.target.is_ipv6 or self._routes[where].nat is None

    def _leave(self, router: Router, packets: Packets) -> None:
        """From the inside of a router to its outside."""
        now = self.clock.now
        nat = None if packets.target.is_ipv6 else self._nats.get(router.name)
        if nat is not None and packets.target.host == router.address:
            self._hairpin(router, nat, packets)
            return
        if not self._firewall_of(router, packets).outbound(packets.source, packets.target, now):
            self._drop(packets, "router-firewall")
            return
        if nat is not None:
            source = nat.outbound(packets.source, packets.target, now)
            if source is None:
                self._drop(packets, "nat-full")
                return
            packets = packets._replace(source=source)
        self._hop(router.name, True, packets, lambda some: self._cross(router.outside, some, "below"))

    def _hairpin(self, router: Router, nat: Nat, packets: Packets) -> None:
        """From the inside to the router's own outside address."""
        now = self.clock.now
        source = nat.outbound(packets.source, packets.target, now) if nat.rules.hairpin else None
        inside = nat.inbound(source, packets.target, now) if source is not None else None
        if source is None or inside is None:
            self._drop(packets, "no-hairpin" if not nat.rules.hairpin else "nat-filtered")
            return
        self._cross(router.inside, Packets(packets.rows, source, inside), "above")

    def _enter(self, router: Router, packets: Packets) -> None:
        """To a router's own outside address."""
        nat = self._nats.get(router.name)
        inside = nat.inbound(packets.source, packets.target, self.clock.now) if nat is not None else None
        if inside is None:
            self._drop(packets, "nat-filtered")
            return
        self._enter_routed(router, packets._replace(target=inside))

    def _enter_routed(self, router: Router, packets: Packets) -> None:
        """From the outside of a router to an address inside."""
        if self._firewall_of(router, packets).inbound(packets.target, packets.source, self.clock.now):
            self._cross(router.inside, packets, "above")
        else:
            self._drop(packets, "router-firewall")

    def _firewall_of(self, router: Router, packets: Packets) -> Flows:
        return self._flows[f"{router.name}/{6 if packets.target.is_ipv6 else 4}"]

    def _arrive(self, host: Host, packets: Packets) -> None:
        """At the host itself."""
        if self._is_sending:  # not in the sender's own call
            self.clock.call_soon(lambda: self._arrive(host, packets))
            return
        receive = self._receivers.get(host.name)
        if receive is None:
            self._drop(packets, "nobody-listens")
        elif not self._flows[host.name].inbound(packets.target, packets.source, self.clock.now):
            self._drop(packets, "host-firewall")
        else:
            self.counters["delivered"] += len(packets.rows)
            self._record("delivered", packets)
            receive(packets.rows, packets.source, packets.target.port)

    def _answer_stun(self, packets: Packets) -> None:
        for row in packets.rows:
            answer = respond(row, packets.source) if is_stun(row) else None
            if answer is not None:
                self._cross(INTERNET, Packets([answer], packets.target, packets.source), "member")

    # ------------------------------------------------------------ the rest

    def _is_cut_off(self, name: str) -> bool:
        """Not even TCP gets out of there."""
        feet = self._hosts[name].interfaces
        return all(self._is_dead(foot) for foot in feet)

    def _is_dead(self, foot: Interface) -> bool:
        links = [foot.link, self.topology.core]
        segment, seen = foot.segment, set()
        while (router := self._up.get(segment)) is not None and segment not in seen:
            seen.add(segment)
            links.append(router.link)
            segment = router.outside
        return segment != INTERNET or any(link.cut is Cut.ALL for link in links)

    def _drop(self, packets: Packets, why: str) -> None:
        self.counters[why] += len(packets.rows)
        self._record(why, packets)

    def _record(self, what: str, packets: Packets) -> None:
        if self.trace is not None:
            size = sum(map(len, packets.rows))
            self.trace.append((self.clock.now, what, packets.source, packets.target, size))


def _foot(host: Host, interface: Interface) -> str:
    """The name of an interface's link."""
    return f"{host.name}@{interface.address}"


def _interface_for(
    host: Host, target: AddrPort, members: dict[tuple[str, str], tuple[Host, Interface]]
) -> Interface | None:
    """By which foot a host leaves for `target`: one in its segment, else the first of its family."""
    family = [foot for foot in host.interfaces if (":" in foot.address) == target.is_ipv6]
    near = next((foot for foot in family if (foot.segment, target.host) in members), None)
    return near or next(iter(family), None)
