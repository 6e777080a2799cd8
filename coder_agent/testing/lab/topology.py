"""A network as data: who is where, behind what. Frozen and plain, so that it can be written down, changed, replayed.

The network is a tree of *segments* (named broadcast domains) whose root is `INTERNET`. A `Router` joins a segment to
the one above it; a chain of routers is a double NAT. Hosts stand in segments. Everything that crosses the Internet goes
through `Topology.core`, one link for all; each interface and each router has a link of its own besides.

Running state is elsewhere: `network.Network` takes a topology and moves packets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from ...base.addresses import AddrPort

INTERNET = "internet"
"""The root of all segments."""
DEFAULT_PORT = 41641
"""The UDP port of a host's main socket."""


class Mapping(StrEnum):
    """What an outside port is chosen for (RFC 4787 §4.1)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(StrEnum):
    """Who may send to a mapping (RFC 4787 §5)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Ports(StrEnum):
    """Which outside port a new mapping gets (RFC 4787 §4.2): the inside's own if no other mapping has it (else the next
    free one above), the last one plus a step, or any."""

    PRESERVING = "preserving"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


class Cut(StrEnum):
    """What a link does not carry: nothing, no UDP, or nothing at all (the relay's TCP included)."""

    NONE = "none"
    UDP = "udp"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class NatRules:
    """How a NAT behaves. `lifetime` (seconds) is refreshed by outbound packets, and by admitted inbound ones too if
    `inbound_refresh` (RFC 4787 §4.3). `hairpin`: insiders reach each other at outside addresses (§6). `limit`: mappings
    at a time; beyond it new flows are dropped."""

    mapping: Mapping = Mapping.ENDPOINT_INDEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    ports: Ports = Ports.PRESERVING
    step: int = 1
    first_port: int = 20000
    lifetime: float = 120.0
    inbound_refresh: bool = False
    hairpin: bool = False
    limit: int = 4096


@dataclass(frozen=True, slots=True)
class Firewall:
    """A filter for UDP. `udp` False: none passes, either way. `unsolicited` False: only answers come in, and packets to
    `open_ports`; a flow is forgotten after `lifetime` seconds without a packet. `to_ports`: UDP leaves only to these
    ports of others (as to STUN's in some offices), () = to all."""

    udp: bool = True
    unsolicited: bool = True
    open_ports: tuple[int, ...] = ()
    lifetime: float = 120.0
    to_ports: tuple[int, ...] = ()


OPEN = Firewall()
STATEFUL = Firewall(unsolicited=False)
"""Allow out, deny unsolicited in: what operating systems and IPv6 routers do by default."""


@dataclass(frozen=True, slots=True)
class LinkRules:
    """What happens to UDP on a link, in each direction by itself.

    Seconds: `latency` one way, `jitter` (up to that much more, so that packets overtake each other). Probabilities per
    packet: `loss`, `duplicate`, `reorder` (held back by `reorder_delay` seconds). `mtu` in bytes, IP header included;
    what is larger vanishes, as with DF set. `rate` in bit/s, 0 = unlimited: a token bucket of `burst` bytes; what finds
    no token waits if no more than `queue` bytes wait already (0 = a policer: it is dropped).
    """

    latency: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_delay: float = 0.010
    mtu: int = 1500
    rate: float = 0.0
    burst: int = 16 * 1500
    queue: int = 0
    cut: Cut = Cut.NONE


CLEAN = LinkRules()
LAN = LinkRules(latency=0.0005)
"""A switched or wireless home network, half a millisecond from host to router."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A static port forward: what comes to `port` outside goes to `to` inside."""

    port: int
    to: AddrPort


@dataclass(frozen=True, slots=True)
class Router:
    """Joins segment `inside` to segment `outside`, where it has the IPv4 address `address`.

    `nat` None: IPv4 is routed as it is. IPv6 always is, through `firewall6`. `port_mapping`: the protocols (of
    ``pmp pcp upnp``) in which it opens ports for insiders that ask.
    """

    name: str
    inside: str
    address: str
    outside: str = INTERNET
    nat: NatRules | None = NatRules()
    firewall4: Firewall = OPEN
    firewall6: Firewall = STATEFUL
    link: LinkRules = CLEAN
    port_mapping: tuple[str, ...] = ()
    forwards: tuple[Forward, ...] = ()


@dataclass(frozen=True, slots=True)
class Interface:
    """A host's foot in a segment, with one address (IPv4 or IPv6)."""

    address: str
    segment: str = INTERNET
    link: LinkRules = CLEAN


@dataclass(frozen=True, slots=True)
class Host:
    """A node. `name` is its side of the conversation. A packet leaves by the interface whose segment has the target,
    else by the first of the target's family.

    `listen_port`: the fixed UDP port that its user asked for, 0 = none: then the main socket has `DEFAULT_PORT`.
    `static`: endpoints from its configuration. `home`: its relay region, `second`: the one it keeps beside (0 = none,
    as stock nodes). `allow_direct` False: a rule, quoted as `direct_rule`, forbids direct paths. `asks_stun` False: it
    does not use STUN at all. `birthday` False: no ports are guessed.
    """

    name: str
    interfaces: tuple[Interface, ...]
    firewall: Firewall = OPEN
    listen_port: int = 0
    static: tuple[AddrPort, ...] = ()
    home: int = 1
    second: int = 0
    allow_direct: bool = True
    direct_rule: str = ""
    asks_stun: bool = True
    birthday: bool = True

    @property
    def port(self) -> int:
        """The port of the main socket."""
        return self.listen_port or DEFAULT_PORT

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of all interfaces."""
        return tuple(interface.address for interface in self.interfaces)


@dataclass(frozen=True, slots=True)
class Region:
    """A relay region. `latency`: seconds one way from any host to the relay, unless `latency_from` has (host, seconds)
    for it; `rate` in bit/s per sender, 0 = unlimited. It has no loss: TCP carries it. `is_up` False: it is down.
    `silent_for`: hosts whose packets to and from it vanish, without a connection being closed."""

    number: int = 1
    latency: float = 0.015
    latency_from: tuple[tuple[str, float], ...] = ()
    rate: float = 0.0
    is_up: bool = True
    silent_for: tuple[str, ...] = ()

    def latency_of(self, host: str) -> float:
        """Seconds one way from `host` to this relay."""
        return dict(self.latency_from).get(host, self.latency)


STUN_A = AddrPort("192.0.2.3", 3478)
STUN_B = AddrPort("192.0.2.4", 3478)
STUN_6 = AddrPort("2001:db8:ffff::3", 3478)
STUN_SERVERS = (STUN_A, STUN_B, STUN_6)
"""Two addresses, so that a mapping that varies with the destination can be seen; and one of IPv6."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole network. `stun`: servers on the Internet, first asked first. `isolated`: segments whose members hear only
    their router, as in a guest Wi-Fi."""

    hosts: tuple[Host, ...] = ()
    routers: tuple[Router, ...] = ()
    stun: tuple[AddrPort, ...] = STUN_SERVERS
    regions: tuple[Region, ...] = (Region(),)
    core: LinkRules = LinkRules(latency=0.010)
    isolated: tuple[str, ...] = ()

    def host(self, name: str) -> Host:
        """The host of that name. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def gateway(self, segment: str) -> Router | None:
        """The router that leads out of a segment; None = it is the Internet, or an island."""
        return next((router for router in self.routers if router.inside == segment), None)

    def chain(self, name: str) -> tuple[Router, ...]:
        """The routers between a host's first interface and the Internet, the nearest first."""
        found: list[Router] = []
        router = self.gateway(self.host(name).interfaces[0].segment)
        while router is not None and router not in found:
            found.append(router)
            router = self.gateway(router.outside)
        return tuple(found)

    def with_host(self, name: str, change: Callable[[Host], Host]) -> Topology:
        """This network with one host changed."""
        return replace(self, hosts=tuple(change(host) if host.name == name else host for host in self.hosts))

    def with_router(self, name: str, change: Callable[[Router], Router]) -> Topology:
        """This network with one router changed."""
        return replace(self, routers=tuple(change(one) if one.name == name else one for one in self.routers))
