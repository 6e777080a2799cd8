"""Whole nodes behind NATs: a stream over punched, predicted and guessed paths, and what a cut costs it."""

from __future__ import annotations

import pytest

from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.protocols.netstack.tcp import TcpConnection
from coder_agent.testing.lab import Cut, Pair, topology_of
from coder_agent.testing.lab.world import VirtualNode, World

CHUNK = bytes(range(256)) * 4


class Stream:
    """Counted bytes from one node to another without end."""

    def __init__(self, world: World, source: VirtualNode, sink: VirtualNode) -> None:
        self.received = self._written = 0
        self.is_intact = True
        self._sink = sink
        sink.engine.stack.on_syn = lambda request: self._accept(request, world)
        self.connection = source.engine.stack.connect(sink.address, 80, world.now)
        self.connection.user = self._write
        self._source = source
        source.engine.kick()

    def _accept(self, request: SynRequest, world: World) -> None:
        connection = request.accept(world.now)
        connection.user = lambda: self._read(connection)
        self._sink.engine.kick()

    def _write(self) -> None:
        while taken := self.connection.write(CHUNK[self._written % len(CHUNK) :]):
            self._written += taken
        self._source.engine.kick()

    def _read(self, connection: TcpConnection) -> None:
        for chunk in connection.read():
            expected = (CHUNK * (len(chunk) // len(CHUNK) + 2))[self.received % len(CHUNK) :][: len(chunk)]
            self.is_intact = self.is_intact and bytes(chunk) == expected
            self.received += len(chunk)
        self._sink.engine.kick()


def two(a: str, b: str) -> tuple[World, VirtualNode, VirtualNode]:
    world = World(1, topology=topology_of(Pair(a, b)))
    one, other = (world.node(name, receive_window=128 << 10) for name in "ab")
    world.run(2)
    world.introduce(one, other)
    return world, one, other


@pytest.mark.parametrize(
    ("a", "b", "seconds"),
    [("easy", "easy", 1.0), ("double-nat", "symmetric-preserving", 5.0), ("easy", "symmetric-random", 20.0)],
    ids=["punched", "predicted", "guessed"],
)
def test_a_stream_moves_to_the_direct_path_and_keeps_every_byte(a: str, b: str, seconds: float) -> None:
    world, one, other = two(a, b)
    stream = Stream(world, one, other)
    assert world.run(seconds, lambda: one.is_direct(other) and other.is_direct(one))
    before, relayed = stream.received, world.network.counters["relayed"]
    world.run(1)
    assert stream.received > before
    assert stream.is_intact
    assert world.network.counters["relayed"] - relayed < 100, "the relay carries no stream any more"


def test_a_cut_behind_nats_sends_the_stream_over_the_relay_and_back() -> None:
    world, one, other = two("easy", "double-nat")
    stream = Stream(world, one, other)
    assert world.run(1, lambda: one.is_direct(other) and other.is_direct(one))
    world.run(2)
    world.cut()
    world.run(0.1)  # what was in flight behind the cut still arrives
    at_cut = stream.received
    assert world.run(2, lambda: stream.received > at_cut)
    world.run(1)
    assert not one.is_direct(other)
    world.cut(Cut.NONE)
    assert world.run(12, lambda: one.is_direct(other))
    assert stream.is_intact
    assert stream.connection.error is None
