"""An internet of namespaces: servers on it, and behind routers of every kind the hosts that want to reach each other.

    with Lab() as lab:
        internet = Internet(lab)
        server = internet.server("server", 2)                   # 45.67.89.10 and .11
        with internet.visitors() as guests:                     # its machines go when the block ends
            left = guests.home("left", EASY)                    # 192.168.1.2 behind a router with 45.67.89.20
            right = guests.home("right", EASY, SYMMETRIC)       # double NAT: EASY at home, SYMMETRIC at the carrier

    host – lan0 [router] wan – p3 [bridge, 45.67.89.0/24, 2a00:c0de:ffff::/64] p0 – wan [server]

Outside addresses are ordinary ones: those reserved for documentation are private to some programs, and miniupnpd
refuses them. Nothing leaves the namespaces.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .netns import Host, Lab
from .netns_nat import NatKind, ruleset

WAN4, WAN6 = "45.67.89", "2a00:c0de:ffff:"
GATEWAY = 1
FIRST_SERVER, FIRST_ROUTER = 10, 20
_ROUTES = (
    "sysctl",
    "-qw",
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.conf.all.send_redirects=0",
)


@dataclass(slots=True)
class Router:
    """A NAT of some kind: `outside` is its IPv4 address there, `first_host` the address of the first host inside."""

    host: Host
    kind: NatKind
    outside: str
    first_host: str

    def become(self, kind: NatKind) -> None:
        """Change its kind; conversations that it knows stay."""
        self.kind = kind
        self.host.filter(ruleset(kind, self.outside, self.first_host))

    def remember_udp(self, seconds: int) -> None:
        """How long a mapping lasts without packets, for a first packet and for a conversation alike."""
        names = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
        self.host.run("sysctl", "-qw", *(f"net.netfilter.{name}={seconds}" for name in names))


@dataclass(slots=True)
class Home:
    """A host and the routers between it and the internet, the nearest first; none if it is a part of it."""

    host: Host
    routers: list[Router] = field(default_factory=list)

    @property
    def outside(self) -> str:
        """The address that the internet sees."""
        return self.routers[-1].outside if self.routers else self.host.address4

    def addresses(self) -> dict[str, str]:
        """What an address of this place is: the host's own, or a router's."""
        named = {self.host.address4: "host", self.host.address6: "host"}
        return named | {router.outside: router.kind.name for router in self.routers}


class Internet:
    """One bridge that everybody outside is on. IPv6 goes through its own address, which knows every home's prefix."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.bridge = lab.host("internet")
        self.bridge.run(*_ROUTES)
        self.bridge.batch(
            "link add br0 type bridge mcast_snooping 0",
            "link set br0 up",
            f"address add {WAN4}.{GATEWAY}/24 dev br0",
            f"address add {WAN6}:{GATEWAY}/64 dev br0 nodad",
        )
        self._ports = itertools.count()
        self._servers = itertools.count(FIRST_SERVER)
        self._numbers = itertools.count(FIRST_ROUTER)
        self._prefixes = itertools.count(1)

    def server(self, name: str, addresses: int = 1) -> Host:
        """A machine on the internet that has several IPv4 addresses, one after the other, and one of IPv6."""
        host = self.lab.host(name)
        numbers = [next(self._servers) for _ in range(addresses)]
        self.plug(self.lab, host, numbers[0])
        host.batch(*(f"address add {WAN4}.{number}/24 dev wan" for number in numbers[1:]))
        host.address4, host.address6 = f"{WAN4}.{numbers[0]}", f"{WAN6}:{numbers[0]}"
        return host

    @contextmanager
    def visitors(self) -> Iterator[Visitors]:
        """Room for hosts that go again."""
        with Lab() as lab:
            yield Visitors(self, lab)

    def plug(self, lab: Lab, host: Host, number: int) -> None:
        """Give a machine a device ``wan`` with the addresses of this number."""
        port = f"p{next(self._ports)}"
        lab.cable(host, "wan", self.bridge, port)
        self.bridge.batch(f"link set {port} master br0")
        host.batch(
            f"address add {WAN4}.{number}/24 dev wan",
            f"route add default via {WAN4}.{GATEWAY}",
            f"address add {WAN6}:{number}/64 dev wan nodad",
            f"route add default via {WAN6}:{GATEWAY}",
        )

    def next_number(self) -> int:
        """The last part of an address that nobody has had."""
        number = next(self._numbers)
        if number > 250:
            raise RuntimeError("this internet has no addresses left: use a new one")
        return number

    def next_prefix(self) -> str:
        """A /64 for a home."""
        return f"2a00:c0de:{next(self._prefixes):x}:"


class Visitors:
    """Machines of one test."""

    def __init__(self, internet: Internet, lab: Lab) -> None:
        self.internet = internet
        self.lab = lab
        self._lans = itertools.count(1)

    def public(self, name: str) -> Home:
        """A host on the internet itself, without any router: `open`."""
        host, number = self.lab.host(name), self.internet.next_number()
        self.internet.plug(self.lab, host, number)
        host.address4, host.address6 = f"{WAN4}.{number}", f"{WAN6}:{number}"
        return Home(host)

    def home(self, name: str, *kinds: NatKind, ipv6: bool = False) -> Home:
        """A host behind routers, the nearest first. `ipv6`: with a prefix of its own, behind one router only."""
        [home] = self.family(name, *kinds, count=1, ipv6=ipv6)
        return home

    def family(
        self, name: str, *kinds: NatKind, count: int = 2, isolated: bool = False, ipv6: bool = False
    ) -> list[Home]:
        """Hosts behind the same routers, on one LAN; `isolated`: each on a LAN of its own, as guests of a café are."""
        if ipv6 and len(kinds) != 1:
            raise ValueError("only a router on the internet has an IPv6 prefix to give")
        nearest, *carriers = [self.lab.host(f"{name}-{kind.name[:6]}{depth}") for depth, kind in enumerate(kinds)]
        first = next(self._lans)
        lans = [first, *(next(self._lans) for _ in range(count - 1))] if isolated else [first] * count
        hosts = [self.lab.host(f"{name}{index}" if count > 1 else name) for index in range(count)]
        nearest.run(*_ROUTES)
        self._join_lans(nearest, hosts, lans)
        routers = self._join_carriers([nearest, *carriers], kinds, f"192.168.{first}.2")
        if ipv6:
            self._give_ipv6(nearest, hosts, lans)
        return [Home(host, routers) for host in hosts]

    def move(self, home: Home, name: str, *kinds: NatKind) -> Home:
        """The host leaves its network and joins another: the machine that is carried from home to the office."""
        lan = next(self._lans)
        routers = [self.lab.host(f"{name}-{kind.name[:6]}{depth}") for depth, kind in enumerate(kinds)]
        routers[0].run(*_ROUTES)
        home.host.batch("link delete eth0")
        home.host.address4 = ""
        self._join_lans(routers[0], [home.host], [lan])
        return Home(home.host, self._join_carriers(routers, kinds, f"192.168.{lan}.2"))

    def _join_lans(self, router: Host, hosts: list[Host], lans: list[int]) -> None:
        """Cables, addresses 192.168.LAN.2, .3 …, and default routes to 192.168.LAN.1."""
        shared = len(hosts) > 1 and len(set(lans)) == 1
        switch = self._switch(router, lans[0]) if shared else router
        for index, (host, lan) in enumerate(zip(hosts, lans, strict=True)):
            device = f"port{index}" if shared else f"lan{index}"
            self.lab.cable(host, "eth0", switch, device)
            switch.batch(f"link set {device} master br0" if shared else f"address add 192.168.{lan}.1/24 dev {device}")
            address = f"192.168.{lan}.{2 + index if shared else 2}"
            host.batch(f"address add {address}/24 dev eth0", f"route add default via 192.168.{lan}.1")
            host.address4 = host.address4 or address

    def _switch(self, router: Host, lan: int) -> Host:
        """An Ethernet of its own: a bridge on the router would pass its packets through the router's rules."""
        switch = self.lab.host(f"switch{lan}")
        switch.batch("link add br0 type bridge mcast_snooping 0", "link set br0 up")
        self.lab.cable(router, "lan0", switch, "uplink")
        switch.batch("link set uplink master br0")
        router.batch(f"address add 192.168.{lan}.1/24 dev lan0")
        return switch

    def _join_carriers(self, hosts: list[Host], kinds: tuple[NatKind, ...], first_host: str) -> list[Router]:
        """Each router's ``wan`` to the next one's ``lan0``, the last one's to the internet; then their rules."""
        routers = []
        for index, (inner, kind) in enumerate(zip(hosts, kinds, strict=True)):
            if index + 1 < len(hosts):
                outer, lan = hosts[index + 1], next(self._lans)
                outside = f"100.64.{lan}.2"
                outer.run(*_ROUTES)
                self.lab.cable(inner, "wan", outer, "lan0")
                outer.batch(f"address add 100.64.{lan}.1/24 dev lan0")
                inner.batch(f"address add {outside}/24 dev wan", f"route add default via 100.64.{lan}.1")
            else:
                number = self.internet.next_number()
                outside = f"{WAN4}.{number}"
                self.internet.plug(self.lab, inner, number)
            router = Router(inner, kind, outside, first_host)
            router.become(kind)
            routers.append(router)
            first_host = outside
        return routers

    def _give_ipv6(self, router: Host, hosts: list[Host], lans: list[int]) -> None:
        prefix = self.internet.next_prefix()
        outside = router.run("ip", "-6", "-o", "address", "show", "dev", "wan", "scope", "global").split()[3]
        self.internet.bridge.batch(f"route add {prefix}:/64 via {outside.partition('/')[0]}")
        if len(set(lans)) != 1:
            raise ValueError("isolated hosts have no IPv6 here")
        router.batch(f"address add {prefix}:1/64 dev lan0 nodad")
        for index, host in enumerate(hosts, 2):
            host.batch(f"address add {prefix}:{index:x}/64 dev eth0 nodad", f"route add default via {prefix}:1")
            host.address6 = f"{prefix}:{index:x}"
