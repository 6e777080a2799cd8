"""Whole nodes in the laboratory: larger tunnel packets where the path is proven, and paths that stop taking them."""

from __future__ import annotations

import errno
import hashlib
import random
from dataclasses import dataclass, field, replace

import pytest

from coder_agent.base.burst import Burst
from coder_agent.base.paths import DerpPath, Path, PathKind, UdpPath
from coder_agent.magicsock.constants import TUNNEL_MTU_MAX, TUNNEL_MTU_SAFE
from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.protocols.netstack.tcp import TcpConnection
from coder_agent.testing.lab import Cut, Host, Interface, LinkRules, Region, Topology
from coder_agent.testing.lab.world import LabTransport, VirtualNode, World

BYTES_PER_SECOND = 6_250_000
"""50 Mbit/s: what is in the middle of a transfer stays there for a while."""
OVER_1500, OVER_1400 = 1440, 1340
"""Inner sizes that fit wire sizes over IPv4: less 28 and 32."""


def wide(core: LinkRules, endpoints: int = 9000) -> Topology:
    """Two hosts on the open Internet whose own links take packets of `endpoints` bytes."""
    link = LinkRules(mtu=endpoints)
    hosts = tuple(Host(name, (Interface(f"10.0.0.{n}", link=link),), home=1) for n, name in enumerate("ab", 1))
    return Topology(hosts=hosts, stun=(), regions=(Region(1, latency=core.latency),), core=core)


@dataclass
class Stream:
    """Writes `rate` bytes a second, checks every byte that arrives, and notes when."""

    world: World
    source: VirtualNode
    sink: VirtualNode
    rate: float = BYTES_PER_SECOND
    until: float = float("inf")
    chunk: int = 0
    sent: int = 0
    received: int = 0
    longest_pause: float = 0.0
    accepted: list[TcpConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(3)
        self._written, self._seen = hashlib.sha256(), hashlib.sha256()
        self._last = self.world.now
        self.sink.engine.stack.on_syn = self._on_syn
        self.connection = self.source.engine.stack.connect(self.sink.address, 80, self.world.now)
        self.source.engine.kick()
        self.chunk = int(self.rate / 100)
        self.world.call_at(self.world.now + 0.01, self._write)

    def _on_syn(self, request: SynRequest) -> None:
        connection = request.accept(self.world.now)
        connection.user = self._read
        self.accepted.append(connection)
        self.sink.engine.kick()

    def _write(self) -> None:
        if self.world.now >= self.until:
            return
        block = self._random.randbytes(self.chunk)
        taken = self.connection.write(block)
        self._written.update(block[:taken])
        self.sent += taken
        self.source.engine.kick()
        self.world.call_at(self.world.now + 0.01, self._write)

    def _read(self) -> None:
        for chunk in self.accepted[0].read():
            self._seen.update(chunk)
            self.received += len(chunk)
        now = self.world.now
        self.longest_pause, self._last = max(self.longest_pause, now - self._last), now
        self.sink.engine.kick()

    @property
    def is_intact(self) -> bool:
        return self.sent == self.received > 0 and self._written.digest() == self._seen.digest()

    def finish(self) -> bool:
        """Stop writing; True if every byte arrives, in order and unchanged."""
        self.until = self.world.now
        return self.world.run(20, lambda: self.is_intact)


def pair(
    core: LinkRules, *, accepted: tuple[int, int] = (TUNNEL_MTU_MAX, TUNNEL_MTU_MAX), endpoints: int = 9000
) -> tuple[World, VirtualNode, VirtualNode]:
    world = World(1, topology=wide(core, endpoints))
    a, b = (world.node(name, accepted_mtu=size) for name, size in zip("ab", accepted, strict=True))
    world.introduce(a, b)
    return world, a, b


def tunnel_mtu(source: VirtualNode, sink: VirtualNode) -> int:
    return source.engine.magicsock.path(sink.key).tunnel_mtu


def mss(stream: Stream) -> int:
    return int(stream.connection.info()["mss"])


@pytest.mark.parametrize(
    ("core", "expected"),
    [
        (1350, TUNNEL_MTU_SAFE),
        (1380, 1300),
        (1400, OVER_1400),
        (1480, OVER_1400),
        (1500, OVER_1500),
        (9000, TUNNEL_MTU_MAX),
    ],
)
def test_packets_are_as_large_as_the_path_is_proven_to_take(core: int, expected: int) -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=core))
    stream = Stream(world, a, b)
    world.run(2)
    assert tunnel_mtu(a, b) == tunnel_mtu(b, a) == expected
    assert mss(stream) == expected - 60
    assert stream.finish()
    assert world.network.counters["too-big"] < 60, "only probes are lost"


@pytest.mark.parametrize("accepted", [(TUNNEL_MTU_MAX, 1280), (1280, TUNNEL_MTU_MAX), (1280, 1280)])
def test_who_does_not_say_that_it_takes_more_gets_1280(accepted: tuple[int, int]) -> None:
    world, a, b = pair(LinkRules(latency=0.01), accepted=accepted)
    stream = Stream(world, a, b)
    world.run(10)
    assert tunnel_mtu(a, b) == tunnel_mtu(b, a) == TUNNEL_MTU_SAFE
    assert mss(stream) == TUNNEL_MTU_SAFE - 60
    assert stream.finish()


def test_a_transport_that_cannot_forbid_fragments_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LabTransport, "send_whole")
    world, a, b = pair(LinkRules(latency=0.01))
    stream = Stream(world, a, b)
    world.run(10)
    assert a.is_direct(b)
    assert tunnel_mtu(a, b) == TUNNEL_MTU_SAFE
    assert stream.finish()


def test_only_small_ones_go_by_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    send = LabTransport.send

    def watched(self: LabTransport, burst: Burst, path: Path) -> bool:
        if isinstance(path, DerpPath):
            sizes.append(burst.length)
        return send(self, burst, path)

    monkeypatch.setattr(LabTransport, "send", watched)
    world, a, b = pair(LinkRules(latency=0.01, cut=Cut.UDP))
    stream = Stream(world, a, b)
    world.run(3)
    assert not a.is_direct(b)
    assert tunnel_mtu(a, b) == TUNNEL_MTU_SAFE
    assert max(sizes) == TUNNEL_MTU_SAFE + 32
    assert stream.finish()


@pytest.mark.parametrize("latency", [0.002, 0.02, 0.08])
def test_a_link_that_shrinks_in_mid_transfer_is_noticed(latency: float) -> None:
    world, a, b = pair(LinkRules(latency=latency, mtu=1500))
    stream = Stream(world, a, b)
    world.run(4)
    assert mss(stream) == OVER_1500 - 60
    stream.longest_pause = 0.0
    world.network.set_core(mtu=1400)  # what is larger vanishes without a word
    world.run(8)
    assert stream.longest_pause < 1.0
    assert mss(stream) == OVER_1400 - 60
    assert a.is_direct(b)
    assert all(update.kind is PathKind.DIRECT for update in a.updates[1:])
    assert stream.finish()
    assert len(stream.accepted) == 1


def test_a_link_that_shrinks_below_1280_moves_to_the_relay() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b)
    world.run(4)
    stream.longest_pause = 0.0
    world.network.set_core(mtu=1300)
    world.run(8)
    assert stream.longest_pause < 1.0
    assert not a.is_direct(b)
    assert tunnel_mtu(a, b) == TUNNEL_MTU_SAFE
    assert stream.finish()
    world.network.set_core(mtu=1500)
    assert world.run(20, lambda: tunnel_mtu(a, b) == OVER_1500)


def test_a_link_that_shrinks_while_nobody_sends_much_is_noticed_too() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b, rate=10_000)
    world.run(4)
    assert tunnel_mtu(a, b) == OVER_1500
    world.network.set_core(mtu=1400)
    assert world.run(15, lambda: tunnel_mtu(a, b) == OVER_1400)
    assert stream.finish()


def test_large_segments_that_are_lost_while_small_ones_pass_are_noticed() -> None:
    """Another connection is answered all the time, so nobody doubts the path itself."""
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b, rate=1_000_000)
    world.run(4)
    accept = b.engine.stack.on_syn
    typed: list[TcpConnection] = []
    b.engine.stack.on_syn = lambda request: typed.append(request.accept(world.now))
    keys = a.engine.stack.connect(b.address, 22, world.now)

    def press() -> None:
        keys.write(b"x")
        a.engine.kick()
        world.call_at(world.now + 0.03, press)

    press()
    world.run(1)
    b.engine.stack.on_syn = accept
    stream.longest_pause = 0.0
    world.network.set_core(mtu=1400)
    world.run(6)
    assert stream.longest_pause < 2.0
    assert mss(stream) == OVER_1400 - 60
    assert stream.finish()


def test_after_a_wider_way_is_there_packets_grow_again() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1400))
    stream = Stream(world, a, b, rate=100_000)
    world.run(10)
    assert tunnel_mtu(a, b) == OVER_1400
    world.network.set_core(mtu=9000)
    assert world.run(310, lambda: tunnel_mtu(a, b) == TUNNEL_MTU_MAX)
    assert stream.finish()


def test_a_lossy_path_costs_no_byte_and_no_endless_suspicion() -> None:
    world, a, b = pair(replace(LinkRules(latency=0.01, mtu=1500), loss=0.03))
    stream = Stream(world, a, b, rate=500_000)
    world.run(30)
    assert stream.finish()
    assert world.run(60, lambda: tunnel_mtu(a, b) == OVER_1500)


def test_a_rebind_means_1280_until_it_is_proven_again() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b, rate=100_000)
    world.run(4)
    assert tunnel_mtu(a, b) == OVER_1500
    a.engine.rebind("test")
    assert tunnel_mtu(a, b) == TUNNEL_MTU_SAFE
    assert world.run(10, lambda: tunnel_mtu(a, b) == OVER_1500)
    assert stream.finish()


def test_a_size_that_the_kernel_refuses_is_given_up_at_once() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b, rate=100_000)
    world.run(4)
    assert tunnel_mtu(a, b) == OVER_1500
    world.network.set_core(mtu=1400)
    a.engine.on_path_error(UdpPath(b.endpoint), OSError(errno.EMSGSIZE, "Message too long"))
    assert tunnel_mtu(a, b) == TUNNEL_MTU_SAFE
    assert world.run(0.1, lambda: tunnel_mtu(a, b) == OVER_1400)
    assert a.is_direct(b)
    assert stream.finish()


def test_a_peer_that_claims_to_take_everything_gets_what_is_proven() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500), accepted=(TUNNEL_MTU_MAX, TUNNEL_MTU_MAX))
    b.engine.magicsock._prober.accepted = 0xFFFF
    stream = Stream(world, a, b)
    world.run(2)
    assert tunnel_mtu(a, b) == OVER_1500
    b.engine.magicsock._prober.accepted = 7
    assert world.run(5, lambda: tunnel_mtu(a, b) == TUNNEL_MTU_SAFE)
    assert stream.finish()


def test_a_policed_path_is_still_left_for_the_relay_in_3_s() -> None:
    world, a, b = pair(LinkRules(latency=0.01, mtu=1500))
    stream = Stream(world, a, b, rate=1_250_000)
    world.run(4)
    assert tunnel_mtu(a, b) == OVER_1500
    world.network.set_core(rate=1_000_000, burst=20_000)
    assert world.run(3, lambda: not a.is_direct(b))
    assert stream.finish()
