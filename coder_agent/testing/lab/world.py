"""Whole nodes in the laboratory: real cores and engine (WireGuard, TCP/IP, path choice), no socket, no event loop.

    world = World(seed=1)
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    connection = a.engine.stack.connect(b.address, 80, world.now)
    world.run(seconds=5)

Without a topology the nodes stand on the open Internet, joined by one link. With one, ``world.node("a")`` is its host
``a``, behind whatever it is behind; endpoints are found by STUN and told as they change.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, IPv6Network

from ...base.addresses import TAILSCALE_PREFIX, AddrPort
from ...base.burst import Burst
from ...base.derp_map import DerpMap
from ...base.keys import DiscoPrivate, NodePrivate, NodePublic
from ...base.nat_facts import NatFacts
from ...base.paths import DerpPath, Path, PathKind, UdpPath
from ...hooks.interfaces import PacketSink
from ...magicsock.core import Magicsock
from ...magicsock.effects import PathUpdate, PongReceived
from ...protocols.netstack.config import StackConfig
from ...protocols.netstack.stack import Stack
from ...protocols.wireguard.device import Device
from ...runtime.engine import Cores, Engine
from .clock import Clock, Timer
from .host import Sockets
from .laboratory import COORDINATION_DELAY
from .looker import Found, Looker
from .network import Network
from .topology import Cut, Host, Interface, LinkRules, Region, Topology

EPOCH = 1_700_000_000.0
"""Unix time at virtual time zero; WireGuard's handshakes carry it."""
DIRECT = LinkRules(latency=0.0005)
DOUBT_PATIENCE = 1.0
"""Seconds that a relay has to answer when it is doubted (plugins/transport_derp, connection.py)."""
RELAY_LATENCY = 0.001
"""Seconds from a node to the relay, where no topology says otherwise."""


class World:
    """The clock, the network and the nodes. It is the engines' scheduler, too."""

    def __init__(self, seed: int = 0, link: LinkRules = DIRECT, *, topology: Topology | None = None) -> None:
        self.clock = Clock(seed)
        self.random = self.clock.random
        plain = Topology(stun=(), regions=(Region(latency=RELAY_LATENCY),), core=link)
        self.network = Network(topology or plain, self.clock)
        self._nodes: list[VirtualNode] = []
        self._by_key: dict[NodePublic, VirtualNode] = {}

    # ------------------------------------------------------------ runtime.engine.Scheduler

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    def time(self) -> float:
        """The same."""
        return self.clock.now

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """After everything that is due now."""
        return self.clock.call_soon(callback)

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """At `when`, or now if that has passed."""
        return self.clock.call_at(when, callback)

    # ------------------------------------------------------------ driving and building

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, or less if `until` becomes true; says whether it did."""
        return self.clock.run(seconds, until)

    def cut(self, what: Cut = Cut.UDP) -> None:
        """Cut the Internet: direct packets vanish from now on, or everything. `Cut.NONE` mends it."""
        self.network.set_core(cut=what)

    def node(self, name: str, **options: object) -> VirtualNode:
        """A new node with keys made from its name; where the topology has no such host, at 10.0.0.N."""
        number = len(self._nodes) + 1
        topology = self.network.topology
        if all(host.name != name for host in topology.hosts):
            region = topology.regions[0].number
            host = Host(name, (Interface(f"10.0.0.{number}"),), home=region)
            self.network.reshape(replace(topology, hosts=(*topology.hosts, host)))
        node = VirtualNode(self, name, number, StackConfig(**options))  # type: ignore[arg-type]
        self._nodes.append(node)
        self._by_key[node.key] = node
        node.start()
        return node

    def introduce(self, *nodes: VirtualNode, endpoints: bool = True) -> None:
        """What the coordinator does: each node learns of all others, and of new endpoints as they change."""
        for node in nodes:
            for other in nodes:
                if other is not node:
                    node.learn(other, endpoints=endpoints)
                    if endpoints:
                        other.listeners.append(node)

    def relay(self, sender: VirtualNode, burst: Burst, path: DerpPath) -> None:
        """A burst leaves through the relay, as one run."""
        target = self._by_key.get(path.key)
        if target is None:
            return
        if path.region not in (target.host.home, target.host.second):
            self._say_gone(sender, path)
            return
        rows = [bytes(row) for row in burst.rows()]
        came_by = DerpPath(path.region, sender.key)
        self.network.relay(sender.name, rows, path.region, target.name, lambda: target.receive(rows, came_by))

    def _say_gone(self, sender: VirtualNode, path: DerpPath) -> None:
        """The relay answers that the peer is not there."""
        error = OSError(errno.EHOSTUNREACH, "not connected to this relay")
        answer = lambda: sender.sink.on_path_error(path, error)  # noqa: E731
        self.network.relay(sender.name, [b""], path.region, sender.name, answer)

    def kill_relay(self, region: int) -> None:
        """The region goes down, and whoever is connected there notices."""
        self.set_region(region, is_up=False)
        for node in self._nodes:
            node.engine.relay_changed(region, False)

    def set_region(self, region: int, **changes: object) -> None:
        """Change what a relay region is like."""
        topology = self.network.topology
        regions = tuple(replace(one, **changes) if one.number == region else one for one in topology.regions)  # type: ignore[arg-type]
        self.network.reshape(replace(topology, regions=regions))


@dataclass(slots=True)
class LabTransport:
    """Both kinds of transport at once: hands bursts to the network."""

    node: VirtualNode
    name: str
    headroom: int = 0

    def send(self, burst: Burst, path: Path) -> bool:
        node = self.node
        if isinstance(path, DerpPath):
            node.world.relay(node, burst, path)
            return True
        port = node.sockets.port(path.local)
        if port is not None:
            node.world.network.send(node.name, [bytes(row) for row in burst.rows()], path.addr, port)
        return True

    def send_whole(self, burst: Burst, path: Path) -> bool:
        return self.send(burst, path)

    def stats(self) -> Mapping[str, int]:
        return {}

    def bound_ports(self) -> tuple[int | None, int | None]:
        return self.node.endpoint.port, None

    def open_extra(self, count: int) -> Sequence[int]:
        return self.node.sockets.open(count)

    def close_extra(self, names: Sequence[int]) -> None:
        self.node.sockets.close(names)

    def rebind(self) -> None:
        self.node.sockets.rebind()

    def set_map(self, derp_map: DerpMap) -> None:
        return None

    def set_home(self, region: int) -> None:
        return None

    def reconnect(self, reason: str) -> None:
        """It always is."""

    def link_changed(self) -> None:
        """It outlives that."""

    def keep_warm(self, region: int) -> None:
        """It always is."""

    def doubt(self, region: int) -> None:
        """A relay that says nothing for so long is found dead, as the real transport finds it."""
        node = self.node
        world = node.world

        def look() -> None:
            found = next((one for one in world.network.topology.regions if one.number == region), None)
            if found is not None and (node.name in found.silent_for or not found.is_up):
                node.engine.relay_changed(region, False)

        world.call_at(world.now + DOUBT_PATIENCE, look)

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
    listeners: list[VirtualNode] = field(default_factory=list)
    found: Found = field(default_factory=lambda: Found((), NatFacts()))
    engine: Engine = field(init=False)
    key: NodePublic = field(init=False)
    disco: DiscoPrivate = field(init=False)
    address: IPv6Address = field(init=False)
    sockets: Sockets = field(init=False)
    _looker: Looker = field(init=False)

    def __post_init__(self) -> None:
        seeded = random.Random(f"{self.name}/{self.number}")
        private = NodePrivate.generate(seeded.randbytes)
        self.disco = DiscoPrivate.generate(seeded.randbytes)
        self.key = private.public()
        self.address = IPv6Address(TAILSCALE_PREFIX + self.key.raw[:10])
        self.sockets = Sockets(self.host.port)
        world = self.world
        cores = Cores(
            device=Device(private, rng=seeded.randbytes, wall=lambda: EPOCH + world.now, mtu=self.config.mtu),
            stack=Stack(self.config, rng=seeded.randbytes),
            magicsock=Magicsock(self.key, self.disco, rng=seeded.randbytes, accepted_mtu=self.config.accepted_mtu),
        )
        self.engine = Engine(cores, self, world)
        self.engine.direct = LabTransport(self, "direct")
        self.engine.relay = LabTransport(self, "relay")
        cores.stack.add_address(self.address)
        cores.magicsock.set_home(self.host.home)
        self.engine.standby.home, self.engine.standby.second = self.host.home, self.host.second
        self._looker = Looker(world.network, self.name, seeded.randbytes, self._published)
        world.network.attach(self.name, self._received)

    @property
    def host(self) -> Host:
        """Where it stands in the topology."""
        return self.world.network.topology.host(self.name)

    @property
    def endpoint(self) -> AddrPort:
        """Its main socket, at its first interface."""
        return AddrPort(self.host.addresses[0], self.sockets.main)

    @property
    def sink(self) -> PacketSink:
        """Where packets for this node go."""
        return self.engine

    def is_direct(self, other: VirtualNode) -> bool:
        """A direct path carries our packets to `other`."""
        return self.engine.magicsock.path(other.key).kind is PathKind.DIRECT

    def start(self) -> None:
        """Look around for the first time."""
        self._looker.start()

    def roam(self) -> None:
        """The topology has put us elsewhere (`Network.reshape`): fresh sockets, fresh endpoints."""
        self._looker.moved()
        self.engine.rebind("roamed")

    def learn(self, other: VirtualNode, *, endpoints: bool) -> None:
        """The coordinator tells of another node."""
        engine = self.engine
        engine.device.add_peer(other.key)
        engine.stack.set_peer(other.key, [IPv6Network((other.address, 128))])
        self._hear(other, other.found.endpoints if endpoints else ())

    def _hear(self, other: VirtualNode, endpoints: Sequence[AddrPort]) -> None:
        engine, public = self.engine, other.disco.public()
        home, now = other.host.home, self.world.now
        engine.standby.set_peer(other.key, home, other.host.second)
        engine.apply(engine.magicsock.upsert_peer(other.key, public, home=home, endpoints=endpoints, now=now))

    def _published(self, found: Found) -> None:
        has_news = found.endpoints != self.found.endpoints
        self.found = found
        core, now = self.engine.magicsock, self.world.now
        self.engine.apply([*core.set_local_facts(found.facts, now), *core.set_local_endpoints(found.endpoints, now)])
        for listener in self.listeners if has_news else ():
            when = self.world.now + COORDINATION_DELAY
            self.world.call_at(when, lambda listener=listener: listener._hear(self, found.endpoints))  # type: ignore[misc]

    # ------------------------------------------------------------ receiving

    def _received(self, rows: list[bytes], source: AddrPort, port: int) -> None:
        local = self.sockets.local(port)
        if local is not None:
            self.receive(rows, UdpPath(source, local))

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
        """Look again; not within the call of the core that wishes it."""
        self.world.call_soon(self._looker.look)

    def session_ready(self, peer: NodePublic) -> None:
        self.engine.kick()

    def stun_received(self, data: bytes, source: AddrPort, now: float) -> None:
        self._looker.receive(data)

    def unknown_received(self, data: bytes, path: Path) -> None:
        return None
