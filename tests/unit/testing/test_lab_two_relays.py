"""Whole nodes with two live home relays, of which one dies or falls silent, for one side only too: who waits how long?

Everything is relayed. Virtual time: the same on every machine. Real processes: tests/e2e/test_two_relays.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.protocols.netstack.tcp import TcpConnection
from coder_agent.testing.lab import Cut, Host, Interface, LinkRules, Region, Topology
from coder_agent.testing.lab.world import VirtualNode, World

STALL = 0.5
"""Seconds that a running conversation may wait (issue 4)…"""
BEGIN = 1.0
"""…and that a new one may take longer than usual."""
STEP = 0.01
CHUNK = bytes(4096)
RATE = 4e6
"""bit/s of a relay: a stream that fills it is under way all the time."""


class Stream:
    """Bytes from one node to another without end."""

    def __init__(self, world: World, source: VirtualNode, sink: VirtualNode) -> None:
        self.received = 0
        self._source, self._sink = source, sink
        sink.engine.stack.on_syn = lambda request: self._accept(request, world)
        self.connection = source.engine.stack.connect(sink.address, 80, world.now)
        self.connection.user = self._write
        source.engine.kick()

    def _accept(self, request: SynRequest, world: World) -> None:
        connection = request.accept(world.now)
        connection.user = lambda: self._read(connection)
        self._sink.engine.kick()

    def _write(self) -> None:
        while self.connection.write(CHUNK):
            pass
        self._source.engine.kick()

    def _read(self, connection: TcpConnection) -> None:
        self.received += sum(len(chunk) for chunk in connection.read())
        self._sink.engine.kick()


def two(latency: float = 0.015, *, second: Sequence[int] = (2, 2)) -> tuple[World, VirtualNode, VirtualNode]:
    """A world in which only relays carry anything."""
    hosts = tuple(
        Host(name, (Interface(f"10.0.0.{number}"),), home=1, second=other, allow_direct=False)
        for number, (name, other) in enumerate(zip("ab", second, strict=True), 1)
    )
    regions = (Region(1, latency=latency, rate=RATE), Region(2, latency=latency * 1.5, rate=RATE))
    world = World(1, topology=Topology(hosts=hosts, stun=(), regions=regions, core=LinkRules(cut=Cut.UDP)))
    one, other = (world.node(name, receive_window=64 << 10) for name in "ab")
    world.introduce(one, other, endpoints=False)
    return world, one, other


def silent(*names: str) -> Callable[[World], None]:
    return lambda world: world.set_region(1, silent_for=names)


FAULTS: dict[str, Callable[[World], None]] = {
    "killed": lambda world: world.kill_relay(1),
    "silent for a": silent("a"),
    "silent for b": silent("b"),
    "silent for both": silent("a", "b"),
}


def longest_silence(world: World, stream: Stream, seconds: float) -> float:
    """Of what arrives."""
    longest, last, seen = 0.0, world.now, stream.received
    end = world.now + seconds
    while world.now < end:
        world.run(STEP)
        if stream.received != seen:
            longest, last, seen = max(longest, world.now - last), world.now, stream.received
    return max(longest, world.now - last)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("latency", [0.001, 0.010, 0.020], ids=["near", "far", "farther"])
def test_a_running_conversation_waits_half_a_second_at_most(fault: str, latency: float) -> None:
    """A leg of 20 ms makes a round trip of 80 by the first relay and 120 by the second; of 40 ms, it waits 0.7 s."""
    world, one, other = two(latency)
    stream = Stream(world, one, other)
    assert longest_silence(world, stream, 3) < STALL
    before = one.engine.counters["sent-by-two-relays"]
    FAULTS[fault](world)
    assert longest_silence(world, stream, 10) <= STALL
    assert one.engine.counters["sent-by-two-relays"] - before < 20_000, "not everything twice for ever"
    assert stream.connection.error is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_new_conversation_begins_at_most_a_second_later(fault: str) -> None:
    def begin(fault: Callable[[World], None]) -> float:
        world, one, other = two()
        fault(world)
        stream = Stream(world, one, other)
        began = world.now
        assert world.run(30, lambda: stream.received > 0)
        return world.now - began

    assert begin(FAULTS[fault]) <= begin(lambda world: None) + BEGIN


def test_a_peer_whose_second_relay_is_not_connected_yet_is_tried_there_again_soon() -> None:
    """It has just started. Our own connection to its home is dead, so the second is the only way."""
    world, one, other = two(second=(2, 0))
    one.engine.standby.set_peer(other.key, 1, 2)
    world.set_region(1, silent_for=("a",))
    one.engine.relay_changed(1, False)
    stream = Stream(world, one, other)
    world.run(0.5)
    assert stream.received == 0
    topology = world.network.topology.with_host("b", lambda host: replace(host, second=2))
    world.network.reshape(topology)
    other.engine.standby.second = 2
    began = world.now
    assert world.run(30, lambda: stream.received > 0)
    assert world.now - began <= BEGIN, "WireGuard alone would try again after five seconds"


def test_with_stock_peers_who_keep_one_relay_nothing_changes_while_it_works() -> None:
    world, one, other = two(second=(2, 0))
    one.engine.standby.set_peer(other.key, 1, 2)
    stream = Stream(world, one, other)
    assert longest_silence(world, stream, 5) < STALL
