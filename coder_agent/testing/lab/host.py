"""A node of the laboratory with a path core but no tunnel: does what an engine does, and remembers what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...base.addresses import AddrPort
from ...base.keys import DiscoPrivate, NodePrivate, NodePublic
from ...base.nat_facts import NatFacts
from ...base.path_rules import DirectRule, PathRules
from ...base.paths import DerpPath, Path, PathKind, UdpPath
from ...magicsock import (
    CloseSockets,
    Effect,
    EndpointsWanted,
    Magicsock,
    OpenSockets,
    PathStatus,
    PathUpdate,
    PingLost,
    PongReceived,
)
from ...protocols.effects import SendRaw
from ...protocols.stun import is_stun
from .looker import Found, Looker

if TYPE_CHECKING:
    from .laboratory import Lab

DATA = b"\x04\0\0\0"
"""How a data packet begins, as WireGuard's does: the demultiplexing of a host must tell it apart."""
ANSWER = b"answer"
EXTRA_PORTS = 50000
"""Local ports of extra sockets, from here on."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A data packet that came in."""

    at: float
    path: Path
    data: bytes


class Sockets:
    """The UDP sockets of one host: 0 is the main one, others are opened for birthday probing."""

    def __init__(self, main: int) -> None:
        self.main = main
        self._port_of = {0: main}
        self._local_of = {main: 0}
        self._next = 1

    def open(self, count: int) -> list[int]:
        """Open more; returns their names."""
        names = list(range(self._next, self._next + count))
        self._next += count
        for name in names:
            port = EXTRA_PORTS + name % 10000
            self._port_of[name], self._local_of[port] = port, name
        return names

    def close(self, names: Sequence[int]) -> None:
        """Close some of them, never the main one."""
        for name in names:
            if name and name in self._port_of:
                del self._local_of[self._port_of.pop(name)]

    def rebind(self) -> None:
        """Close all but the main one."""
        self.close(list(self._port_of))

    def port(self, name: int) -> int | None:
        """The local port of a socket; None = it is closed."""
        return self._port_of.get(name)

    def local(self, port: int) -> int | None:
        """The socket on a local port; None = nobody listens there."""
        return self._local_of.get(port)

    def __len__(self) -> int:
        return len(self._port_of)


class SimHost:
    """One node of the laboratory: sockets and a Magicsock. Everything is remembered in plain lists."""

    def __init__(self, lab: Lab, name: str, rules: PathRules | None = None) -> None:
        self.lab = lab
        self.name = name
        spec = lab.network.topology.host(name)
        self.home = spec.home
        self.key = NodePrivate.generate(lab.clock.rng).public()
        self.disco = DiscoPrivate.generate(lab.clock.rng)
        self.magicsock = Magicsock(self.key, self.disco, rng=lab.clock.rng, birthday=spec.birthday)
        self.magicsock.set_home(self.home)
        self.sockets = Sockets(spec.port)
        self.found = Found((), NatFacts())
        self.arrivals: list[Arrival] = []
        self.updates: list[tuple[float, PathUpdate]] = []
        self.pongs: list[PongReceived] = []
        self.lost: list[PingLost] = []
        self.disco_sent: list[tuple[float, SendRaw]] = []
        self.answers = False
        """Answer each data packet with a small one, as the far end of a tunnel does."""
        self.others: list[tuple[float, Effect]] = []
        """Effects of the core that mean nothing here."""
        self._looker = Looker(lab.network, name, lab.clock.rng, self._published)
        self._wake_at = float("inf")
        self._has_started = False
        if not spec.allow_direct:
            rules = replace(rules or PathRules(), direct=DirectRule.NEVER, set_by=spec.direct_rule)
        if rules is not None:
            self.carry_out(self.magicsock.set_rules(rules, lab.clock.now))
        lab.network.attach(name, self._received)

    # ------------------------------------------------------------ what it knows

    @property
    def endpoints(self) -> tuple[AddrPort, ...]:
        """Ours, as last published."""
        return self.found.endpoints

    @property
    def facts(self) -> NatFacts:
        """What is known of our network."""
        return self.found.facts

    @property
    def seen_by_stun(self) -> tuple[AddrPort, ...]:
        """How each STUN server saw our main socket at last."""
        return self._looker.seen

    @property
    def mapped(self) -> AddrPort | None:
        """What the gateway opened for us."""
        return self._looker.mapped

    def path(self, other: SimHost) -> PathStatus:
        """How our packets go to `other`."""
        return self.magicsock.path(other.key)

    def is_direct(self, other: SimHost) -> bool:
        """A proven direct path carries our packets to `other` now."""
        status = self.path(other)
        return status.kind is PathKind.DIRECT and status.trusted_until >= self.lab.clock.now

    # ------------------------------------------------------------ what one does with it

    def start(self) -> None:
        """Look around for the first time; does nothing later."""
        if not self._has_started:
            self._has_started = True
            self._looker.start()

    def roam(self) -> None:
        """The topology has put us elsewhere (`Network.reshape`): fresh sockets, fresh endpoints."""
        self.sockets.rebind()
        self._looker.moved()
        self.carry_out(self.magicsock.rebound(self.lab.clock.now))

    def meet(self, other: SimHost, endpoints: Sequence[AddrPort] | None = None) -> None:
        """The coordinator names `other` to us, with these endpoints (None = all that it has published)."""
        known = other.endpoints if endpoints is None else endpoints
        now = self.lab.clock.now
        public = other.disco.public()
        self.carry_out(self.magicsock.upsert_peer(other.key, public, home=other.home, endpoints=known, now=now))

    def send(self, other: SimHost, data: bytes = b"") -> None:
        """Send one data packet by whatever way there is now."""
        route, effects = self.magicsock.route(other.key, self.lab.clock.now)
        self.carry_out(effects)
        if route is not None and route.udp is not None:
            self._transmit(DATA + data, route.udp)
        if route is not None and route.derp is not None:
            self._transmit(DATA + data, DerpPath(route.derp, other.key))

    def send_each(self, other: SimHost, interval: float, until: float, size: int = 0) -> None:
        """Keep sending a packet of `size` more bytes every `interval` seconds until a point in time."""
        clock = self.lab.clock
        self.send(other, bytes(size))
        if clock.now + interval <= until:
            clock.call_at(clock.now + interval, lambda: self.send_each(other, interval, until, size))

    # ------------------------------------------------------------ what happens to it

    def _published(self, found: Found) -> None:
        self.found = found
        self.carry_out(self.magicsock.set_local_facts(found.facts, self.lab.clock.now))
        self.carry_out(self.magicsock.set_local_endpoints(found.endpoints, self.lab.clock.now))
        self.lab.announce(self)

    def _received(self, rows: list[bytes], source: AddrPort, port: int) -> None:
        local = self.sockets.local(port)
        if local is not None:
            for row in rows:
                self.receive(row, UdpPath(source, local))

    def receive(self, data: bytes, path: Path) -> None:
        """A packet came in."""
        now = self.lab.clock.now
        if data.startswith(DATA):
            self.arrivals.append(Arrival(now, path, data[len(DATA) :]))
            sender = path.key if isinstance(path, DerpPath) else self.magicsock.peer_for_source(path.addr)
            if sender is not None:
                self.carry_out(self.magicsock.note_received(sender, path, now))
                self._answer(sender, data[len(DATA) :])
        elif is_stun(data):
            self._looker.receive(data)
        else:
            self.carry_out(self.magicsock.receive_disco(data, path, now))

    def _answer(self, sender: NodePublic, data: bytes) -> None:
        other = self.lab.by_key(sender)
        if self.answers and other is not None and data != ANSWER:
            self.send(other, ANSWER)

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Do what the core asks, then see to its timer."""
        for effect in effects:
            self._carry_out_one(effect)
        due = self.magicsock.deadline()
        if due is not None and due < self._wake_at:
            self._wake_at = due
            self.lab.clock.call_at(due, self._wake)

    def _carry_out_one(self, effect: Effect) -> None:
        now = self.lab.clock.now
        match effect:
            case SendRaw():
                self.disco_sent.append((now, effect))
                self._transmit(effect.data, effect.path)
            case PathUpdate():
                self.updates.append((now, effect))
            case OpenSockets():
                self.carry_out(self.magicsock.sockets_opened(effect.peer, self.sockets.open(effect.count), now))
            case CloseSockets():
                self.sockets.close(effect.names)
            case EndpointsWanted():
                self.lab.clock.call_soon(self._looker.look)
            case PongReceived():
                self.pongs.append(effect)
            case PingLost():
                self.lost.append(effect)
            case _:
                self.others.append((now, effect))

    def _transmit(self, data: bytes, path: Path) -> None:
        if isinstance(path, DerpPath):
            self._relay(data, path)
            return
        port = self.sockets.port(path.local)
        if port is not None:
            self.lab.network.send(self.name, [data], path.addr, port)

    def _relay(self, data: bytes, path: DerpPath) -> None:
        target = self.lab.by_key(path.key)
        if target is not None and path.region == target.home:
            came_by = DerpPath(path.region, self.key)
            deliver: Callable[[], None] = lambda: target.receive(data, came_by)  # noqa: E731
            self.lab.network.relay(self.name, [data], path.region, target.name, deliver)

    def _wake(self) -> None:
        self._wake_at = float("inf")
        self.carry_out(self.magicsock.on_timer(self.lab.clock.now))
