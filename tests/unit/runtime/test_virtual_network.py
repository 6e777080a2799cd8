"""Whole nodes in a virtual network: WireGuard, TCP, path choice and engine together, deterministically."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field, replace

import pytest

from coder_agent.base.paths import PathKind
from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.protocols.netstack.tcp import TcpConnection
from coder_agent.testing.lab import Cut, LinkRules, Region, Topology
from coder_agent.testing.lab.world import DIRECT, VirtualNode, World


@dataclass
class Transfer:
    """`size` random bytes from one node to another, again and again if `endless`; checks what arrives as it arrives."""

    world: World
    source: VirtualNode
    sink: VirtualNode
    size: int
    endless: bool = False
    received: int = 0
    accepted: list[TcpConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._data = memoryview(random.Random(self.size).randbytes(self.size))
        self._written = 0
        self._seen = hashlib.sha256()
        self.sink.engine.stack.on_syn = self._on_syn
        stack = self.source.engine.stack
        self.connection = stack.connect(self.sink.address, 80, self.world.now)
        self.connection.user = self._write
        self.source.engine.kick()

    def _on_syn(self, request: SynRequest) -> None:
        connection = request.accept(self.world.now)
        connection.user = self._read
        self.accepted.append(connection)
        self.sink.engine.kick()

    def _write(self) -> None:
        while taken := self.connection.write(self._data[self._written :]):
            self._written += taken
            if self.endless and self._written == self.size:
                self._written = 0
        self.source.engine.kick()

    def _read(self) -> None:
        for chunk in self.accepted[0].read():
            self._seen.update(chunk)
            self.received += len(chunk)
        self.sink.engine.kick()

    @property
    def is_done(self) -> bool:
        return self.received == self.size

    @property
    def is_intact(self) -> bool:
        return self.is_done and self._seen.digest() == hashlib.sha256(self._data).digest()


def pair(link: LinkRules = DIRECT, *, seed: int = 1, endpoints: bool = True) -> tuple[World, VirtualNode, VirtualNode]:
    world = World(seed, link)
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b, endpoints=endpoints)
    return world, a, b


def test_a_clean_path_carries_every_byte_once_and_goes_direct_at_once() -> None:
    world, a, b = pair()
    transfer = Transfer(world, a, b, 4 << 20)
    assert world.run(5, lambda: transfer.is_done)
    assert transfer.is_intact
    assert a.engine.magicsock.path(b.key).kind is PathKind.DIRECT
    assert world.now < 0.2
    assert transfer.connection.info()["retransmits"] == 0


def test_what_concerns_no_stream_is_answered_before_the_wake_up_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    world, a, b = pair()
    transfer = Transfer(world, a, b, 1000)
    assert world.run(5, lambda: transfer.is_done)
    world.run(1)
    pongs: list[bytes] = []
    turns: list[bool] = []
    a.engine.stack.on_tsmp_pong = lambda remote, data, port: pongs.append(data)
    monkeypatch.setattr(b.engine, "kick", lambda: turns.append(True))
    a.engine.stack.tsmp_ping(b.address, b"12345678", world.now)
    a.engine.flush()
    assert world.run(1, lambda: bool(pongs))
    assert pongs == [b"12345678"]
    assert not turns


@pytest.mark.parametrize("seed", range(4))
def test_loss_reordering_and_duplicates_cost_time_but_no_byte(seed: int) -> None:
    world, a, b = pair(replace(DIRECT, loss=0.02, duplicate=0.02, jitter=0.003), seed=seed)
    transfer = Transfer(world, a, b, 1 << 20)
    assert world.run(60, lambda: transfer.is_done)
    assert transfer.is_intact


def test_without_endpoints_everything_is_relayed() -> None:
    world, a, b = pair(replace(DIRECT, cut=Cut.UDP), endpoints=False)
    transfer = Transfer(world, a, b, 1 << 20)
    assert world.run(10, lambda: transfer.is_done)
    assert transfer.is_intact
    assert a.engine.magicsock.path(b.key).kind is PathKind.RELAYED


def test_a_cut_direct_path_continues_over_the_relay_within_seven_seconds_and_comes_back() -> None:
    world = World(topology=Topology(stun=(), regions=(Region(latency=0.02),), core=LinkRules(latency=0.02)))
    a, b = (world.node(name, receive_window=256 << 10) for name in "ab")
    world.introduce(a, b)
    transfer = Transfer(world, a, b, 1 << 20, endless=True)
    world.run(1)
    assert a.engine.magicsock.path(b.key).kind is PathKind.DIRECT
    world.cut()
    at_cut = transfer.received
    world.run(0.05)  # what was in flight behind the cut still arrives
    stalled = transfer.received
    assert world.run(7, lambda: transfer.received > stalled), "nothing arrived over the relay within 7 s"
    assert stalled >= at_cut
    world.cut(Cut.NONE)
    assert world.run(12, lambda: a.engine.magicsock.path(b.key).kind is PathKind.DIRECT)
