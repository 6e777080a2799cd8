"""A network in memory with a clock of its own, for whole nodes: real cores and engine, no socket, no event loop.

    world = World(seed=1)
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    connection = a.engine.stack.connect(b.address, 80, world.now)
    world.run(seconds=5)

Everything is deterministic: one heap of events ordered by (time, number), one seeded random source. Packets are lost,
duplicated and delayed by `Link`; a relay without loss joins all nodes.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from ..base.addresses import TAILSCALE_PREFIX, AddrPort
from ..base.burst import Burst
from ..base.derp_map import DerpMap
from ..base.keys import DiscoPrivate, NodePrivate, NodePublic
from ..base.paths import DerpPath, Path, UdpPath
from ..hooks.interfaces import PacketSink
from ..magicsock.core import Magicsock
from ..magicsock.effects import PathUpdate, PongReceived
from ..protocols.netstack.config import StackConfig
from ..protocols.netstack.stack import Stack
from ..protocols.wireguard.device import Device
from ..runtime.engine import Cores, Engine

RELAY_REGION = 1
EPOCH = 1_700_000_000.0
"""Unix time at virtual time zero; WireGuard's handshakes carry it."""


@dataclass(slots=True)
class Link:
    """What happens to direct packets. Probabilities per datagram; `delay` and `jitter` in seconds one way."""

    delay: float = 0.0005
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    is_cut: bool = False


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None


class World:
    """The clock, the wires and the nodes."""

    def __init__(self, seed: int = 0, link: Link | None = None) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.link = link or Link()
        self.relay_delay = 0.002
        self.sent = self.lost = 0
        self._events: list[tuple[float, int, _Timer]] = []
        self._numbers = itertools.count()
        self._nodes: list[VirtualNode] = []

    # ------------------------------------------------------------ runtime.engine.Scheduler

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def call_soon(self, callback: Callable[[], object], /) -> _Timer:
        """After everything that is due now."""
        return self.call_at(self.now, callback)

    def call_at(self, when: float, callback: Callable[[], object], /) -> _Timer:
        """At `when`, or now if that has passed."""
        timer = _Timer(callback)
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), timer))
        return timer

    # ------------------------------------------------------------ driving

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, or less if `until` becomes true; says whether it did."""
        end = self.now + seconds
        while not until():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return until()
            self.now, _, timer = heapq.heappop(self._events)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        return True

    # ------------------------------------------------------------ building

    def node(self, name: str, **options: object) -> VirtualNode:
        """A new node with keys made from its name and an address 10.0.0.N:41641."""
        node = VirtualNode(self, name, len(self._nodes) + 1, StackConfig(**options))  # type: ignore[arg-type]
        self._nodes.append(node)
        return node

    def introduce(self, *nodes: VirtualNode, endpoints: bool = True) -> None:
        """What the coordinator does: each node learns of all others."""
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.learn(other, endpoints=endpoints)

    # ------------------------------------------------------------ carrying

    def carry(self, sender: VirtualNode, burst: Burst, path: Path) -> None:
        """Take a burst from a node's transport: datagram by datagram when direct, as one run through the relay."""
        if isinstance(path, DerpPath):
            self._relay(sender, burst.copy(), path.key)
            return
        target = next((node for node in self._nodes if node.endpoint == path.addr), None)
        if target is None or self.link.is_cut:
            self.lost += burst.count
            return
        arrivals: dict[float, list[bytes]] = {}
        for row in burst.rows():
            self.sent += 1
            copies = 2 if self.random.random() < self.link.duplicate else 1
            for _ in range(copies):
                if self.random.random() < self.link.loss:
                    self.lost += 1
                else:
                    late = self.link.jitter * self.random.random()
                    arrivals.setdefault(self.now + self.link.delay + late, []).append(bytes(row))
        for when, packets in arrivals.items():
            self.call_at(when, lambda packets=packets: target.receive(packets, UdpPath(sender.endpoint)))  # type: ignore[misc]

    def _relay(self, sender: VirtualNode, burst: Burst, key: NodePublic) -> None:
        target = next((node for node in self._nodes if node.key == key), None)
        if target is None:
            return
        path = DerpPath(RELAY_REGION, sender.key)
        self.call_at(self.now + self.relay_delay, lambda: target.receive([bytes(r) for r in burst.rows()], path))


@dataclass(slots=True)
class _MemoryTransport:
    """Both kinds of transport at once: hands bursts to the world."""

    node: VirtualNode
    name: str
    headroom: int = 0

    def send(self, burst: Burst, path: Path) -> bool:
        self.node.world.carry(self.node, burst, path)
        return True

    def stats(self) -> Mapping[str, int]:
        return {}

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self.node.endpoint.port, None

    def open_extra(self, count: int) -> Sequence[int]:
        """No more sockets here."""
        return ()

    def close_extra(self, names: Sequence[int]) -> None:
        """Nothing to close."""

    def rebind(self) -> None:
        return None

    def set_map(self, derp_map: DerpMap) -> None:
        return None

    def set_home(self, region: int) -> None:
        return None

    def forced_websocket(self) -> Mapping[int, str]:
        return {}

    def connected(self, region: int) -> bool:
        return True


@dataclass(slots=True)
class VirtualNode:
    """A whole node but for sockets and tasks. `updates` collects what its path core said."""

    world: World
    name: str
    number: int
    config: StackConfig
    updates: list[PathUpdate] = field(default_factory=list)
    engine: Engine = field(init=False)
    key: NodePublic = field(init=False)
    disco: DiscoPrivate = field(init=False)
    address: IPv6Address = field(init=False)
    endpoint: AddrPort = field(init=False)

    def __post_init__(self) -> None:
        seeded = random.Random(f"{self.name}/{self.number}")
        private = NodePrivate.generate(seeded.randbytes)
        self.disco = DiscoPrivate.generate(seeded.randbytes)
        self.key = private.public()
        self.address = IPv6Address(TAILSCALE_PREFIX + self.key.raw[:10])
        self.endpoint = AddrPort(f"10.0.0.{self.number}", 41641)
        world = self.world
        cores = Cores(
            device=Device(private, rng=seeded.randbytes, wall=lambda: EPOCH + world.now, mtu=self.config.mtu),
            stack=Stack(self.config, rng=seeded.randbytes),
            magicsock=Magicsock(self.key, self.disco, rng=seeded.randbytes),
        )
        self.engine = Engine(cores, self, world)
        self.engine.direct = _MemoryTransport(self, "direct")
        self.engine.relay = _MemoryTransport(self, "relay")
        cores.stack.add_address(self.address)
        cores.magicsock.set_home(RELAY_REGION)
        cores.magicsock.set_local_endpoints([self.endpoint], world.now)

    @property
    def sink(self) -> PacketSink:
        """Where packets for this node go."""
        return self.engine

    def learn(self, other: VirtualNode, *, endpoints: bool) -> None:
        """The coordinator tells of another node."""
        engine = self.engine
        engine.device.add_peer(other.key)
        engine.stack.set_peer(other.key, [IPv6Network((other.address, 128))])
        listed = [other.endpoint] if endpoints else []
        engine.apply(
            engine.magicsock.upsert_peer(
                other.key, other.disco.public(), home=RELAY_REGION, endpoints=listed, now=self.world.now
            )
        )

    def receive(self, packets: list[bytes], path: Path) -> None:
        """Packets arrive together: runs of equal size as one burst, as GRO hands them up."""
        start = 0
        for end in range(1, len(packets) + 1):
            if end == len(packets) or len(packets[end]) != len(packets[start]):
                size = len(packets[start])
                joined = memoryview(bytearray(b"".join(packets[start:end])))
                self.sink.on_burst(Burst(joined, 0, size, end - start, size, size), path)
                start = end
        self.sink.on_drained()

    # ------------------------------------------------------------ runtime.engine.Observer

    def path_updated(self, update: PathUpdate) -> None:
        self.updates.append(update)

    def pong_received(self, pong: PongReceived) -> None:
        return None

    def endpoints_wanted(self, reason: str) -> None:
        """Our endpoints never change here: say them again, a moment later as a real look would."""
        engine = self.engine
        self.world.call_at(
            self.world.now + 0.01,
            lambda: engine.apply(engine.magicsock.set_local_endpoints([self.endpoint], self.world.now)),
        )

    def session_ready(self, peer: NodePublic) -> None:
        self.engine.kick()

    def stun_received(self, data: bytes, source: AddrPort, now: float) -> None:
        return None

    def unknown_received(self, data: bytes, path: Path) -> None:
        return None
