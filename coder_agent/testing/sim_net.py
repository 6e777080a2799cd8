"""A network in one process under virtual time: hosts behind NATs, one relay, and a `Magicsock` on every host.

Nothing here waits or guesses: events lie in a heap, `run` advances the clock from one to the next, and randomness comes
from a seed. What is not modelled: bandwidth, queues, fragmentation (a packet beyond the MTU is lost, as with DF set).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from ..base.addresses import AddrPort
from ..base.keys import DiscoPrivate, NodePrivate
from ..base.paths import DerpPath, Path, UdpPath
from ..magicsock import Effect, EndpointsWanted, Magicsock, PathUpdate, PingLost, PongReceived
from ..protocols.effects import SendRaw
from .sim_nat import Nat

STUN_SERVER = AddrPort("192.0.2.3", 3478)
REGION = 1
"""The one relay region, home of everybody."""
DATA = b"\x04\0\0\0"
"""How a data packet of the simulation begins, as WireGuard's does: the demultiplexing of a host must tell it apart."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A data packet that came in."""

    at: float
    path: Path
    data: bytes


@dataclass(slots=True)
class Wire:
    """Settings of the whole network; a test may change them while it runs. Seconds, bytes; `loss` is a
    probability per UDP packet."""

    direct_latency: float = 0.010
    relay_latency: float = 0.030
    mtu: int = 1500
    loss: float = 0.0
    blocked: Callable[[AddrPort, AddrPort], bool] = lambda source, target: False
    """Says which UDP packets vanish on the way, by their outside addresses."""


class SimHost:
    """One node: a socket at `addr` (behind `nat`, if any) and a Magicsock. Does what an engine does, without tunnel."""

    def __init__(self, net: SimNet, name: str, addr: AddrPort, nat: Nat | None, *, udp: bool) -> None:
        self.net = net
        self.name = name
        self.addr = addr
        self.nat = nat
        self.udp = udp
        self.key = NodePrivate.generate(net.rng).public()
        self.disco = DiscoPrivate.generate(net.rng)
        self.magicsock = Magicsock(self.key, self.disco, rng=net.rng)
        self.magicsock.set_home(REGION)
        self.arrivals: list[Arrival] = []
        self.updates: list[tuple[float, PathUpdate]] = []
        self.pongs: list[PongReceived] = []
        self.lost: list[PingLost] = []
        self.disco_sent: list[tuple[float, SendRaw]] = []
        self._wake_at = float("inf")

    def endpoints(self) -> list[AddrPort]:
        """What STUN and the interfaces would say now."""
        if not self.udp:
            return [self.addr]
        seen = [self.nat.outbound(self.addr, STUN_SERVER, self.net.now)] if self.nat else []
        return [*seen, self.addr]

    def look_around(self) -> None:
        """Find our own endpoints and tell the core, as a candidate source does."""
        self.carry_out(self.magicsock.set_local_endpoints(self.endpoints(), self.net.now))

    def meet(self, other: SimHost, endpoints: Sequence[AddrPort] | None = None) -> None:
        """The coordinator names `other` to us, with these endpoints (None = all that it has)."""
        known = other.endpoints() if endpoints is None else endpoints
        public = other.disco.public()
        effects = self.magicsock.upsert_peer(other.key, public, home=REGION, endpoints=known, now=self.net.now)
        self.carry_out(effects)

    def send(self, other: SimHost, data: bytes = b"") -> None:
        """Send one data packet by whatever way there is now."""
        route, effects = self.magicsock.route(other.key, self.net.now)
        self.carry_out(effects)
        if route is not None and route.udp is not None:
            self.net.send_udp(self, DATA + data, route.udp.addr)
        if route is not None and route.derp is not None:
            self.net.send_relay(self, DATA + data, DerpPath(route.derp, other.key))

    def send_each(self, other: SimHost, interval: float, until: float) -> None:
        """Keep sending a packet every `interval` seconds until a point in time."""
        self.send(other)
        if self.net.now + interval <= until:
            self.net.call_at(self.net.now + interval, lambda: self.send_each(other, interval, until))

    def receive(self, data: bytes, path: Path) -> None:
        """A packet came in."""
        if data.startswith(DATA):
            self.arrivals.append(Arrival(self.net.now, path, data[len(DATA) :]))
        else:
            self.carry_out(self.magicsock.receive_disco(data, path, self.net.now))

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what the core asks, then see to its timer."""
        for effect in effects:
            match effect:
                case SendRaw(path=UdpPath() as path):
                    self.disco_sent.append((self.net.now, effect))
                    self.net.send_udp(self, effect.data, path.addr)
                case SendRaw(path=DerpPath() as path):
                    self.disco_sent.append((self.net.now, effect))
                    self.net.send_relay(self, effect.data, path)
                case PathUpdate():
                    self.updates.append((self.net.now, effect))
                case EndpointsWanted():
                    self.net.call_at(self.net.now + 2 * self.net.wire.direct_latency, self.look_around)
                case PongReceived():
                    self.pongs.append(effect)
                case PingLost():
                    self.lost.append(effect)
        due = self.magicsock.deadline()
        if due is not None and due < self._wake_at:
            self._wake_at = due
            self.net.call_at(due, self._wake)

    def _wake(self) -> None:
        self._wake_at = float("inf")
        self.carry_out(self.magicsock.on_timer(self.net.now))


@dataclass(slots=True)
class SimNet:
    """The network, its clock and its hosts. Hosts behind the same `Nat` object share a LAN."""

    seed: int = 1
    wire: Wire = field(default_factory=Wire)
    now: float = 1000.0
    hosts: list[SimHost] = field(default_factory=list)
    _random: Random = field(init=False)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def rng(self, size: int) -> bytes:
        """Reproducible randomness, for keys, nonces and transaction ids."""
        return self._random.randbytes(size)

    def host(self, name: str, addr: str, nat: Nat | None = None, *, udp: bool = True) -> SimHost:
        """Add a host. `udp` False: its firewall lets no UDP through, either way."""
        host = SimHost(self, name, AddrPort.parse(addr), nat, udp=udp)
        self.hosts.append(host)
        return host

    def call_at(self, when: float, action: Callable[[], None]) -> None:
        """Run `action` at a point in time, not before now."""
        self._count += 1
        heappush(self._events, (max(when, self.now), self._count, action))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heappop(self._events)
            action()
        self.now = end

    # ------------------------------------------------------------ what carries packets

    def send_udp(self, sender: SimHost, data: bytes, target: AddrPort) -> None:
        """A datagram leaves `sender`."""
        overhead = 48 if target.is_ipv6 else 28
        lost = self.wire.loss > 0 and self._random.random() < self.wire.loss
        if not sender.udp or lost or len(data) + overhead > self.wire.mtu:
            return
        for host in self.hosts:
            if host.addr == target and host.nat is sender.nat:  # the same LAN, or both without NAT
                self._deliver_udp(sender.addr, host, data, target)
                return
        source = sender.nat.outbound(sender.addr, target, self.now) if sender.nat else sender.addr
        for host in self.hosts:
            if host.nat is not None and host.nat is not sender.nat and host.nat.outside == target.host:
                self._deliver_nat(source, host.nat, data, target)
                return
            if host.nat is None and host.addr == target:
                self._deliver_udp(source, host, data, target)
                return

    def _deliver_nat(self, source: AddrPort, nat: Nat, data: bytes, target: AddrPort) -> None:
        def arrive() -> None:
            inside = nat.inbound(source, target, self.now)
            host = next((host for host in self.hosts if host.nat is nat and host.addr == inside), None)
            if host is not None and host.udp:
                host.receive(data, UdpPath(source))

        if not self.wire.blocked(source, target):
            self.call_at(self.now + self.wire.direct_latency, arrive)

    def _deliver_udp(self, source: AddrPort, host: SimHost, data: bytes, target: AddrPort) -> None:
        if host.udp and not self.wire.blocked(source, target):
            self.call_at(self.now + self.wire.direct_latency, lambda: host.receive(data, UdpPath(source)))

    def send_relay(self, sender: SimHost, data: bytes, path: DerpPath) -> None:
        """A packet leaves `sender` through the relay."""
        target = next((host for host in self.hosts if host.key == path.key), None)
        if target is not None and path.region == REGION:
            arrived_by = DerpPath(REGION, sender.key)
            self.call_at(self.now + self.wire.relay_latency, lambda: target.receive(data, arrived_by))
