"""The pump: received bursts → cores → sends. One object joins the four cores (WireGuard, TCP/IP, magicsock and, through
transports, UDP and DERP) on the event loop's thread. It decides nothing: which path, which key, which window is decided
by cores; the engine only carries effects out.

One wake-up of a transport runs like this: up to 8 `on_burst` (decrypt, feed TCP), one `on_drained` (wake the
application), the application's turn, one `flush` (ACKs ride on data, ≤ 16 bursts out), one re-armed timer.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..base.addresses import AddrPort
from ..base.burst import Burst
from ..base.keys import NodePublic
from ..base.paths import DerpPath, Path, UdpPath
from ..hooks.interfaces import (
    DirectTransport,
    DoubtingTransport,
    MeasuringTransport,
    RecoveringTransport,
    RelayTransport,
    Transport,
    WarmTransport,
)
from ..magicsock.core import Magicsock, Route
from ..magicsock.demux import PacketKind, classify, classify_burst
from ..magicsock.effects import (
    CloseSockets,
    EndpointsWanted,
    FlowWanted,
    OpenSockets,
    PathDoubted,
    PathReplaced,
    PathUpdate,
    PingLost,
    PongReceived,
    RelayWanted,
    TunnelMtu,
)
from ..magicsock.standby import Standby
from ..protocols.effects import Authenticated, Deliver, Dropped, SendRaw, SessionReady, Transmit
from ..protocols.netstack.stack import Stack
from ..protocols.wireguard.device import Device

log = logging.getLogger(__name__)

BURSTS_PER_TURN = 16
"""Bursts sent before the loop gets a turn: more gains nothing, and the peer's ACKs starve (docs/benchmarks.md)."""
PENDING_PER_PEER = 32
"""Sealed bursts kept for a peer whose transport is full. The peer is blocked at the first one, so only handshakes,
keepalives and the rest of one flush can add to it."""

PATHLESS_BURSTS = 4
"""Sealed bursts kept, newest first to stay, for a peer that no path to is known: a handshake and the first data."""

SLEPT = 30.0
"""A timer that is late by so many seconds: we were stopped or asleep, longer than poor NATs keep a mapping."""
BUGS_LOGGED = 1
"""Tracebacks of failures on the receiving path: strangers can make packets as fast as they like."""


class Timer(Protocol):
    """What `call_at` returns."""

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """The part of an asyncio loop that the engine uses; tests put a virtual one in its place."""

    def time(self) -> float: ...
    def call_soon(self, callback: Callable[[], object], /) -> object: ...
    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...


class Observer(Protocol):
    """What the node that owns the engine wants to hear."""

    def path_updated(self, update: PathUpdate) -> None: ...
    def pong_received(self, pong: PongReceived) -> None: ...
    def endpoints_wanted(self, reason: str) -> None: ...
    def session_ready(self, peer: NodePublic) -> None: ...
    def stun_received(self, data: bytes, source: AddrPort, now: float) -> None: ...
    def unknown_received(self, data: bytes, path: Path) -> None: ...


Tap = Callable[[str, bytes], None]
"""Packet capture: called with ``"in"``, ``"out"`` or ``"disco"`` and one inner IP packet (or disco message)."""


@dataclass(slots=True)
class Cores:
    """The state machines that one engine drives."""

    device: Device
    stack: Stack
    magicsock: Magicsock


@dataclass(slots=True)
class Traffic:
    """Bytes of tunnel packets exchanged with a peer since it is known, without what carries them."""

    received: int = 0
    sent: int = 0


@dataclass(slots=True)
class _Blocked:
    """A peer whose transport was full: what was sealed for it and not sent yet."""

    transport: Transport
    waiting: list[tuple[Burst, Path]] = field(default_factory=list)


class Engine:
    """Drives the cores of one node. Implements `PacketSink` for its transports."""

    def __init__(self, cores: Cores, observer: Observer, scheduler: Scheduler) -> None:
        self.device = cores.device
        self.stack = cores.stack
        self.magicsock = cores.magicsock
        self.counters: Counter[str] = Counter()
        self.tap: Tap | None = None
        self.direct: DirectTransport | None = None
        self.relay: RelayTransport | None = None
        self.standby = Standby()
        self._observer = observer
        self._scheduler = scheduler
        self.traffic: defaultdict[NodePublic, Traffic] = defaultdict(Traffic)
        self._blocked: dict[NodePublic, _Blocked] = {}
        self._pathless: dict[NodePublic, deque[Burst]] = {}
        self._timer: Timer | None = None
        self._timer_at = float("inf")
        self._flush_due = False
        self._closed = False

    # ------------------------------------------------------------ from transports (PacketSink)

    def on_burst(self, burst: Burst, path: Path) -> None:
        """One received burst; almost always all of one kind."""
        try:
            self._receive(burst, path, self._scheduler.time())
        except Exception:  # a bug of ours: it costs this burst, not the socket or relay connection that brought it
            self._count_bug("a received burst could not be handled")

    def _receive(self, burst: Burst, path: Path, now: float) -> None:
        if type(path) is DerpPath:
            self.standby.seen(path.key, path.region, now)
        if classify_burst(burst) is PacketKind.WIREGUARD:
            self._receive_wireguard(burst, path, now)
            return
        for row in burst.rows():
            if classify(row) is PacketKind.WIREGUARD:
                self._receive_wireguard(Burst.of(row), path, now)
            else:
                self._receive_control(bytes(row), path, now)

    def on_drained(self) -> None:
        """A transport's wake-up is over: the application runs first, so that its answer carries the ACK. If there is
        nothing for it (ACKs, pings), a turn of the loop is saved, some 30 µs."""
        if self._wake_streams():
            self.kick()
            return
        try:
            self.flush()
        except Exception:  # as in on_burst
            self._count_bug("nothing could be sent after a wake-up")

    def _count_bug(self, what: str) -> None:
        self.counters["bugs"] += 1
        if self.counters["bugs"] <= BUGS_LOGGED:
            log.exception("%s; from here on only counted", what)

    def on_writable(self, transport: Transport) -> None:
        """Send what was kept for peers blocked on `transport`; those that are through may send again."""
        for peer, blocked in list(self._blocked.items()):
            if blocked.transport is not transport:
                continue
            while blocked.waiting:
                burst, path = blocked.waiting[0]
                if not transport.send(burst, path):
                    return
                blocked.waiting.pop(0)
            del self._blocked[peer]
        self.kick()

    def on_path_error(self, path: Path, error: OSError) -> None:
        """A telling send error: the path core forgets that path."""
        self.counters["path-error"] += 1
        log.debug("send by %s failed: %s", path, error)
        now = self._scheduler.time()
        too_big = error.errno == errno.EMSGSIZE
        if isinstance(path, DerpPath):
            again_at = self.standby.gone(path.key, path.region, now)
            if again_at is not None:
                self.device.hasten(path.key, again_at)
        self._carry_out(self.magicsock.send_failed(path, now, too_big=too_big), None, now)

    # ------------------------------------------------------------ from the node

    def relay_changed(self, region: int, up: bool) -> None:
        """A relay connection of ours came up or went down: what waits for one that is down waits in vain."""
        was_down = region in self.standby.down
        self.standby.relay_changed(region, up, self._scheduler.time())
        if not up and not was_down and region in (self.standby.home, self.standby.second):
            for peer in self.standby.peers_by_relay(self._scheduler.time()):
                self._send_again(peer)

    def rebind(self, reason: str) -> None:
        """The network under us changed: fresh sockets, and nothing learnt about direct paths holds any more."""
        log.debug("rebinding: %s", reason)
        self.counters["rebinds"] += 1
        if self.direct is not None:
            self.direct.rebind()
        self.apply(self.magicsock.rebound(self._scheduler.time()))

    def link_changed(self, *, way_out: bool) -> None:
        """Addresses of this machine came or went; `way_out`: and packets leave it another way than before. Relay
        connections may be dead without a sign; direct paths are, if the way out is another."""
        self.counters["link-changes"] += 1
        if isinstance(self.relay, RecoveringTransport):
            self.relay.link_changed()
        if way_out:
            self.rebind("link-change")

    def woke(self) -> None:
        """The machine slept, or this process was stopped: sessions, mappings and the relay's connections are dead or
        soon found to be, though by our clocks they may look fresh. The first packet shall not wait for that."""
        self.counters["wakes"] += 1
        self.stack.slept(self._scheduler.time())
        if isinstance(self.relay, RecoveringTransport):
            self.relay.reconnect("this machine slept")
        self.rebind("woke")
        self.apply(self.device.forget_sessions(self._scheduler.time()))

    def kick(self) -> None:
        """Something may have to be sent: flush once, at the end of this turn of the loop."""
        if not self._flush_due and not self._closed:
            self._flush_due = True
            self._scheduler.call_soon(self.flush)

    def apply(self, effects: Iterable[object]) -> None:
        """Carry out effects of a core that the node called itself (magicsock or device)."""
        self._carry_out(effects, None, self._scheduler.time())
        self.kick()

    def now(self) -> float:
        """The engine's clock, in seconds."""
        return self._scheduler.time()

    def reset_all(self) -> None:
        """Reset every open connection, here and (while the transports still send) at its other end."""
        now = self._scheduler.time()
        for connection in self.stack.connections():
            connection.abort(now)
        self.flush()

    def stop(self) -> None:
        """No timer and no flush will run any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def all_counters(self) -> dict[str, int]:
        """What was dropped, and how often: of the engine, its cores and its transports. Names are stable."""
        groups: dict[str, Mapping[str, int]] = {
            "engine": self.counters,
            "wireguard": self.device.counters,
            "netstack": self.stack.counters,
            "magicsock": self.magicsock.counters,
        }
        for transport in (self.direct, self.relay):
            if transport is not None:
                groups[transport.name] = transport.stats()
        return {f"{group}.{name}": count for group, some in groups.items() for name, count in some.items() if count}

    def forget_peer(self, peer: NodePublic) -> None:
        """Drop what is kept for a removed peer."""
        self._blocked.pop(peer, None)
        self.traffic.pop(peer, None)
        self._pathless.pop(peer, None)
        self.standby.remove_peer(peer)

    # ------------------------------------------------------------ receiving

    def _receive_wireguard(self, burst: Burst, path: Path, now: float) -> None:
        self._carry_out(self.device.receive(burst, path, now), path, now)

    def _receive_control(self, data: bytes, path: Path, now: float) -> None:
        kind = classify(data)
        if kind is PacketKind.DISCO:
            if self.tap is not None:
                self.tap("disco", data)
            self._carry_out(self.magicsock.receive_disco(data, path, now), path, now)
        elif kind is PacketKind.STUN and isinstance(path, UdpPath):
            self._observer.stun_received(data, path.addr, now)
        else:
            self._observer.unknown_received(data, path)

    def _carry_out(self, effects: Iterable[object], path: Path | None, now: float) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Deliver:
                assert isinstance(effect, Deliver)
                if self.tap is not None:
                    self._capture("in", effect.burst)
                self.traffic[effect.peer].received += effect.burst.size_bytes
                self.stack.receive(effect.peer, effect.burst, now)
            elif kind is Transmit:
                assert isinstance(effect, Transmit)
                self._send_sealed(effect.peer, effect.burst, now)
            elif kind is Authenticated:
                assert isinstance(effect, Authenticated)
                if path is not None:
                    self._authenticated(effect.peer, path, now)
            else:
                self._carry_out_rare(effect)

    def _carry_out_rare(self, effect: object) -> None:
        match effect:
            case SendRaw():
                self._send_raw(effect)
            case SessionReady():
                self._observer.session_ready(effect.peer)
            case PathUpdate():
                # TCP may be sitting out a time-out that it backed off to while the old path was dead.
                self.stack.path_changed(effect.peer, self._scheduler.time())
                self._send_pathless(effect.peer)
                self.kick()
                self._observer.path_updated(effect)
            case FlowWanted(peer):
                now = self._scheduler.time()
                self._carry_out(self.magicsock.note_flow(peer, self.stack.flow(peer), now), None, now)
            case PathDoubted(peer):
                self.counters["path-doubts"] += 1
                self.stack.path_doubted(peer, self._scheduler.time())
                self.kick()
            case PathReplaced(peer):
                self.counters["path-changes-by-quality"] += 1
                self.stack.path_replaced(peer)
                self.kick()
            case TunnelMtu(peer, mtu):
                self.stack.set_mtu(peer, mtu, self._scheduler.time())
                self.kick()
            case RelayWanted(region):
                self.keep_warm(region)
            case OpenSockets():
                names = self.direct.open_extra(effect.count) if self.direct is not None else ()
                now = self._scheduler.time()
                self._carry_out(self.magicsock.sockets_opened(effect.peer, names, now), None, now)
            case CloseSockets():
                if self.direct is not None:
                    self.direct.close_extra(effect.names)
            case PongReceived():
                self._observer.pong_received(effect)
            case EndpointsWanted():
                self._observer.endpoints_wanted(effect.reason)
            case PingLost():
                pass  # whoever pinged has a time-out of its own
            case Dropped():
                self.counters[f"dropped-{effect.reason}"] += effect.count
            case _:  # a core gained an effect that its shell does not know: a bug here, found by the first test
                raise TypeError(f"unknown effect {effect!r}")

    def _authenticated(self, peer: NodePublic, path: Path, now: float) -> None:
        """A packet that came by `path` proved to be from `peer`."""
        effects = self.magicsock.note_received(peer, path, now)
        if effects:
            self._carry_out(effects, None, now)
        if isinstance(path, UdpPath):
            self.magicsock.learn_source(path.addr, peer, now)
        else:
            self.magicsock.note_derp_seen(peer, path.region, now)
            if self.standby.heard(peer, path.region, now):
                self._doubt_relay(self.standby.home)

    # ------------------------------------------------------------ sending

    def flush(self) -> None:
        """Let TCP send what it has, at most BURSTS_PER_TURN bursts, then re-arm the timer. `kick` is nearly always the
        better call: this one is for what cannot wait for the end of the turn."""
        self._flush_due = False
        if self._closed:
            return
        now = self._scheduler.time()
        for peer, packets in self.stack.transmit(now, BURSTS_PER_TURN, self._blocked):
            assert isinstance(peer, NodePublic)
            self._send_packets(peer, packets, now)
        self._wake_streams()
        if self.stack.has_output(self._blocked):
            self.kick()
        self._arm_timer(now)

    def _send_packets(self, peer: NodePublic, packets: Burst, now: float) -> None:
        if self.tap is not None:
            self._capture("out", packets)
        self.traffic[peer].sent += packets.size_bytes
        route, effects = self.magicsock.route(peer, now)
        if effects:
            self._carry_out(effects, None, now)
        headroom = self.relay.headroom if self.relay is not None and route is not None and route.udp is None else 0
        for effect in self.device.send(peer, packets, now, headroom=headroom):
            if type(effect) is Transmit and not effect.handshake:
                self._send_by(route, peer, effect.burst)
            else:
                self._carry_out((effect,), None, now)

    def _send_sealed(self, peer: NodePublic, burst: Burst, now: float) -> None:
        """A message the device made by itself: handshake, cookie, keepalive, queued data after a handshake."""
        route, effects = self.magicsock.route(peer, now)
        if effects:
            self._carry_out(effects, None, now)
        self._send_by(route, peer, burst)

    def _send_by(self, route: Route | None, peer: NodePublic, burst: Burst) -> None:
        if route is None:
            # Nobody has told a path yet (a peer without relay, say); WireGuard would try again only after 5 s.
            self._pathless.setdefault(peer, deque(maxlen=PATHLESS_BURSTS)).append(burst.copy())
            self.counters["kept-no-path"] += burst.count
            return
        if route.derp is not None and route.udp is not None:
            self.counters["sent-twice"] += burst.count
        if route.derp is not None and self.relay is not None:
            region, other = self.standby.regions(peer, route.derp, self._scheduler.time())
            if other:  # as below: the relay in doubt must not hold up the other
                self.counters["sent-by-two-relays"] += burst.count
                self._hand_over(self.relay, peer, burst, DerpPath(region, peer), keep=False)
                region = other
            elif region != route.derp:
                self.keep_warm(route.derp)
            self._hand_over(self.relay, peer, burst, DerpPath(region, peer), keep=True)
        if route.udp is not None and self.direct is not None:
            # In a dual send the direct path is the doubtful one: it may lose its copy, and must not hold up the relay.
            self._hand_over(self.direct, peer, burst, route.udp, keep=route.derp is None)

    def _send_pathless(self, peer: NodePublic) -> None:
        for burst in self._pathless.pop(peer, ()):
            self._send_sealed(peer, burst, self._scheduler.time())

    def _hand_over(self, transport: Transport, peer: NodePublic, burst: Burst, path: Path, *, keep: bool) -> None:
        blocked = self._blocked.get(peer)
        if blocked is not None and blocked.transport is not transport:
            if keep:  # the path changed while the old one was full: what waits there is late, TCP sends it again
                self.counters["dropped-path-changed"] += len(blocked.waiting)
                del self._blocked[peer]
            blocked = None
        if blocked is None and transport.send(burst, path):
            return
        if not keep:
            self.counters["dropped-transport-full"] += burst.count
            return
        if blocked is None:
            blocked = self._blocked[peer] = _Blocked(transport)
        if len(blocked.waiting) < PENDING_PER_PEER:
            blocked.waiting.append((burst.copy(), path))
        else:
            self.counters["dropped-pending-full"] += burst.count

    def keep_warm(self, region: int) -> None:
        """A relay may be needed from one moment to the next."""
        if isinstance(self.relay, WarmTransport):
            self.relay.keep_warm(region)

    def _doubt_relay(self, region: int) -> None:
        """Have the connection to a relay tried: if it is dead, it shall end soon."""
        if isinstance(self.relay, DoubtingTransport):
            self.relay.doubt(region)

    def _send_again(self, peer: NodePublic) -> None:
        """What is under way by relay may be lost, and what waits for it is late."""
        blocked = self._blocked.get(peer)
        if blocked is not None and blocked.transport is self.relay:
            self.counters["dropped-path-changed"] += len(blocked.waiting)
            del self._blocked[peer]
        self.stack.path_doubted(peer, self._scheduler.time())
        self.kick()

    def _look_at_relays(self, now: float) -> None:
        """Is what goes by relay answered?"""
        for peer in self.standby.due(now):
            if self.standby.note_flow(peer, self.stack.flow(peer), now):
                self.counters["relay-doubts"] += 1
                self._doubt_relay(self.magicsock.path(peer).region)
                self._send_again(peer)

    def _send_raw(self, effect: SendRaw) -> None:
        transport: Transport | None = self.direct if isinstance(effect.path, UdpPath) else self.relay
        packet = Burst.of(effect.data)
        if self.tap is not None:
            self.tap("disco", effect.data)
        if effect.whole:
            if not isinstance(transport, MeasuringTransport) or not transport.send_whole(packet, effect.path):
                self.counters["dropped-probe"] += 1  # too large for the local link, mostly: that is an answer, too
        elif transport is None or not transport.send(packet, self._raw_path(packet, effect.path)):
            self.counters["dropped-raw"] += 1

    def _raw_path(self, packet: Burst, path: Path) -> Path:
        """Disco by relay takes the same relays as data; a ping's pong is told apart by its number, not by its way."""
        if not isinstance(path, DerpPath) or self.relay is None:
            return path
        region, other = self.standby.regions(path.key, path.region, self._scheduler.time())
        if other:
            self.relay.send(packet, DerpPath(other, path.key))
        return path if region == path.region else DerpPath(region, path.key)

    # ------------------------------------------------------------ time

    def _arm_timer(self, now: float) -> None:
        """One timer for all cores, moved only when something is due earlier: most wake-ups touch nothing."""
        cores = (self.device, self.stack, self.magicsock, self.standby)
        due = min((d for d in [core.deadline() for core in cores] if d is not None), default=float("inf"))
        if due >= self._timer_at or self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = max(due, now)
        self._timer = self._scheduler.call_at(self._timer_at, self._on_timer)

    def _on_timer(self) -> None:
        now, late = self._scheduler.time(), self._scheduler.time() - self._timer_at
        self._timer = None
        self._timer_at = float("inf")
        if self._closed:
            return
        if late > SLEPT:
            self.stack.slept(now)
        for core in (self.device, self.magicsock):
            due = core.deadline()
            if due is not None and due <= now:
                self._carry_out(core.on_timer(now), None, now)
        due = self.stack.deadline()
        if due is not None and due <= now:
            self.stack.on_timer(now)
        due = self.standby.deadline()
        if due is not None and due <= now:
            self._look_at_relays(now)
        self._wake_streams()
        self.flush()

    # ------------------------------------------------------------ application side

    def _wake_streams(self) -> bool:
        """Tell streams that have news; True if there were any."""
        woken = self.stack.woken()
        for connection in woken:
            if callable(connection.user):
                connection.user()
        return bool(woken)

    def _capture(self, direction: str, burst: Burst) -> None:
        assert self.tap is not None
        for row in burst.rows():
            self.tap(direction, bytes(row))
