"""Streams over whole nodes while their path dies, gets bad, or only looks so. Virtual time; figures are exact."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace

import pytest

from coder_agent.base.burst import Burst
from coder_agent.base.keys import NodePublic
from coder_agent.base.paths import DerpPath, Path, PathKind
from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.protocols.netstack.tcp import TcpConnection
from coder_agent.testing.lab import LinkRules, Region, Topology
from coder_agent.testing.lab.world import LabTransport, VirtualNode, World

RATE = 50e6 / 8
TICK = 0.01
PATTERN = random.Random(1).randbytes(251 * 64)
"""Bytes whose place in the stream can be told: a period that no packet size divides."""


def content(start: int, size: int) -> bytes:
    shift = start % len(PATTERN)
    return (PATTERN * (size // len(PATTERN) + 2))[shift : shift + size]


class Stream:
    """`rate` bytes a second from one node to another; what arrives is compared as it arrives."""

    def __init__(self, world: World, source: VirtualNode, sink: VirtualNode, rate: float = RATE) -> None:
        self.world, self.source, self.sink, self.rate = world, source, sink, rate
        self.sent = self.received = 0
        self.due = 0.0
        self.arrivals: list[tuple[float, int]] = []
        self.accepted: list[TcpConnection] = []
        sink.engine.stack.on_syn = self._on_syn
        self.connection = source.engine.stack.connect(sink.address, 80, world.now)
        self.connection.user = self._write
        source.engine.kick()
        self._tick()

    def _on_syn(self, request: SynRequest) -> None:
        connection = request.accept(self.world.now)
        connection.user = self._read
        self.accepted.append(connection)
        self.sink.engine.kick()

    def _tick(self) -> None:
        self.due += self.rate * TICK
        self._write()
        self.world.call_at(self.world.now + TICK, self._tick)

    def _write(self) -> None:
        ready = min(int(self.due) - self.sent, 128 << 10)
        if ready > 0 and (taken := self.connection.write(content(self.sent, ready))):
            self.sent += taken
            self.source.engine.kick()

    def _read(self) -> None:
        data = b"".join(self.accepted[0].read())
        assert data == content(self.received, len(data)), "a byte was lost, or came twice"
        if data:
            self.received += len(data)
            self.arrivals.append((self.world.now, len(data)))
        self.sink.engine.kick()

    def longest_gap(self, since: float) -> float:
        times = [since, *(at for at, _ in self.arrivals if at >= since), self.world.now]
        return max(after - before for before, after in itertools.pairwise(times))

    def goodput(self, since: float) -> float:
        """Mbit/s since then."""
        return sum(size for at, size in self.arrivals if at >= since) * 8e-6 / (self.world.now - since)

    @property
    def is_unhurt(self) -> bool:
        return self.connection.error is None and self.accepted[0].error is None


def pair(
    link: LinkRules, *, seed: int = 1, relay: float = 0.02, rate: float = 0.0
) -> tuple[World, VirtualNode, VirtualNode]:
    regions = (Region(latency=relay, rate=rate),)
    world = World(seed, topology=Topology(stun=(), regions=regions, core=link))
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    return world, a, b


def cut(world: World, source: VirtualNode, case: str) -> None:
    """The direct path dies: wholly, from the sender of the stream, or towards it."""
    here = source.endpoint.host
    world.network.blocked = {
        "both ways": lambda sender, target: True,
        "forward": lambda sender, target: sender.host == here,
        "back": lambda sender, target: target.host == here,
    }[case]


def stall(seed: int, case: str, latency: float) -> float:
    world, a, b = pair(LinkRules(latency=latency), seed=seed, relay=0.75 * latency + 0.005)
    stream = Stream(world, a, b)
    world.run(2 + random.Random(seed).random())
    assert a.is_direct(b)
    handshakes = a.engine.device.last_handshake(b.key)
    at = world.now
    cut(world, a, case)
    world.run(1.7)  # the trust ends after one second of doubt
    assert stream.is_unhurt
    assert a.engine.device.last_handshake(b.key) == handshakes, "the session must survive"
    assert a.engine.magicsock.path(b.key).kind is PathKind.RELAYED
    return stream.longest_gap(at)


# ------------------------------------------------------------ the direct path dies


@pytest.mark.parametrize("case", ["both ways", "forward", "back"])
@pytest.mark.parametrize("latency", [0.0005, 0.01, 0.05])
def test_a_cut_stalls_a_stream_for_half_a_second_at_most(case: str, latency: float) -> None:
    stalls = [stall(seed, case, latency) for seed in range(6)]
    assert max(stalls) <= 0.5, stalls


def test_a_direct_path_that_returns_is_taken_back_without_a_stall() -> None:
    world, a, b = pair(LinkRules(latency=0.01))
    stream = Stream(world, a, b)
    world.run(3)
    cut(world, a, "both ways")
    world.run(8)
    world.network.blocked = lambda sender, target: False
    at = world.now
    assert world.run(12, lambda: a.is_direct(b))
    world.run(2)
    assert stream.longest_gap(at) < 0.2
    assert stream.is_unhurt


def test_a_keystroke_on_a_dead_path_goes_by_relay_within_400_ms() -> None:
    world, a, b = pair(LinkRules(latency=0.01))
    stream = Stream(world, a, b, rate=0.0)
    stream.due = 100.0
    world.run(20)
    assert a.is_direct(b)
    cut(world, a, "both ways")
    at = world.now
    stream.due += 1
    assert world.run(1, lambda: stream.received == 101)
    assert world.now - at < 0.4


def test_silence_without_a_question_is_no_reason_to_doubt() -> None:
    world, a, b = pair(LinkRules(latency=0.01))
    stream = Stream(world, a, b, rate=0.0)
    stream.due = 100.0
    world.run(60)
    assert a.engine.counters["path-doubts"] == b.engine.counters["path-doubts"] == 0


# ------------------------------------------------------------ it only looks so


@pytest.mark.parametrize(
    ("link", "rate"),
    [
        (LinkRules(latency=0.0005), RATE),
        (LinkRules(latency=0.01, jitter=0.005, loss=0.01), RATE),
        (LinkRules(latency=0.02, jitter=0.03, loss=0.02), RATE / 5),
        (LinkRules(latency=0.01, jitter=0.005, loss=0.02), RATE / 1000),
    ],
    ids=["clean", "1 % loss", "2 % loss and jitter", "few packets, 2 % loss"],
)
def test_copies_on_a_healthy_path_stay_under_five_percent(link: LinkRules, rate: float) -> None:
    world, a, b = pair(link)
    Stream(world, a, b, rate)
    world.run(3)
    before = sum(world.network.counters.values()), twice(a, b)
    world.run(20)
    assert a.engine.magicsock.path(b.key).addr is not None
    sent = sum(world.network.counters.values()) - before[0]
    assert twice(a, b) - before[1] <= 0.05 * sent


def twice(*nodes: VirtualNode) -> int:
    return sum(node.engine.counters["sent-twice"] for node in nodes)


# ------------------------------------------------------------ it gets bad


def relayed_for(a: VirtualNode, b: VirtualNode) -> bool:
    return a.engine.magicsock.path(b.key).kind is PathKind.RELAYED


@pytest.mark.parametrize("latency", [0.0005, 0.01, 0.03])
def test_a_policed_path_loses_within_3_s_and_wins_back_within_30_s_without_flapping(latency: float) -> None:
    world, a, b = pair(LinkRules(latency=latency), rate=50e6)
    stream = Stream(world, a, b, rate=8e6 / 8)
    world.run(3)
    world.network.set_core(rate=1e6)
    start = world.now
    assert world.run(3, lambda: relayed_for(a, b))
    world.run(start + 40 - world.now)
    assert stream.goodput(start) > 6, "trials of the policed path must be short and rare"
    assert changes(a) <= 7
    world.network.set_core(rate=0.0)
    end, before = world.now, changes(a)
    world.run(30)
    assert a.is_direct(b)
    assert changes(a) - before <= 1
    assert stream.goodput(end) > 6
    assert stream.is_unhurt


def changes(node: VirtualNode) -> int:
    return node.engine.counters["path-changes-by-quality"]


NARROW = [LinkRules(latency=0.02, rate=10e6, queue=queue) for queue in (30_000, 100_000)]


@pytest.mark.parametrize("link", NARROW, ids=["short queue", "long queue"])
def test_a_narrow_path_with_a_queue_is_not_left_for_a_relay_that_is_no_better(link: LinkRules) -> None:
    world, a, b = pair(link, rate=12e6)
    stream = Stream(world, a, b, RATE / 4)
    world.run(40)
    assert changes(a) <= 1
    assert a.is_direct(b)
    assert stream.goodput(10) > 7


def test_a_relay_on_trial_that_is_worse_is_left_at_once_and_tried_ever_more_seldom() -> None:
    world, a, b = pair(replace(LinkRules(latency=0.02), rate=2e6), rate=500e3)
    stream = Stream(world, a, b, RATE / 10)
    world.run(60)
    assert changes(a) <= 8
    assert stream.goodput(5) > 0.7


# ------------------------------------------------------------ an hour of sleep


def sleep(world: World, node: VirtualNode, seconds: float) -> None:
    """`node` hears and does nothing for so long, then wakes: what an engine's owner does when the clock has jumped."""
    world.network.blocked = lambda sender, target: True
    run, node.engine.flush = node.engine.flush, lambda: None  # type: ignore[method-assign]
    world.run(seconds)
    node.engine.flush = run  # type: ignore[method-assign]
    world.network.blocked = lambda sender, target: False
    node.engine.woke()


def test_after_an_hour_of_sleep_the_first_keystroke_arrives_within_2_s() -> None:
    world, a, b = pair(LinkRules(latency=0.05), relay=0.06)
    stream = Stream(world, a, b, rate=0.0)
    stream.due = 100.0
    world.run(20)
    assert stream.received == 100
    sleep(world, a, 3600)
    at = world.now
    stream.due += 1
    assert world.run(2, lambda: stream.received == 101), "no keystroke"
    assert world.now - at < 1
    world.run(5)
    assert a.is_direct(b)
    assert stream.is_unhurt


RELAY_DIAL = 0.4
"""TCP, TLS, HTTP and login: four round trips of 100 ms."""


@dataclass(slots=True)
class MortalRelay(LabTransport):
    """A relay connection that a sleep kills without a sign: what is written to it vanishes until it is made anew."""

    others: dict[NodePublic, MortalRelay] = field(default_factory=dict)
    alive: bool = True
    dialling: bool = False
    queue: list[tuple[Burst, Path]] = field(default_factory=list)

    def send(self, burst: Burst, path: Path) -> bool:
        assert isinstance(path, DerpPath)
        if self.dialling:
            self.queue.append((burst.copy(), path))
        elif self.alive and self.others[path.key].alive:
            self.node.world.relay(self.node, burst, path)
        return True

    def reconnect(self, reason: str) -> None:
        self.alive, self.dialling = False, True
        self.node.world.call_at(self.node.world.now + RELAY_DIAL, self._up)

    def _up(self) -> None:
        self.alive, self.dialling = True, False
        queue, self.queue = self.queue, []
        for burst, path in queue:
            self.send(burst, path)


def mortal_relays(*nodes: VirtualNode) -> None:
    relays: dict[NodePublic, MortalRelay] = {}
    for node in nodes:
        node.engine.relay = relays[node.key] = MortalRelay(node, "relay", others=relays)


def sleep_for_good(world: World, sleepers: list[VirtualNode], seconds: float, noticed_after: float) -> None:
    """Nothing runs in `sleepers`, and their relay connections die. On waking timers that were due run first, until
    somebody notices that the clock has jumped."""
    world.network.blocked = lambda sender, target: True
    flushes = [node.engine.flush for node in sleepers]
    for node in sleepers:
        assert isinstance(node.engine.relay, MortalRelay)
        node.engine.relay.alive = False
        node.engine.flush = lambda: None  # type: ignore[method-assign]
    world.run(seconds)
    world.network.blocked = lambda sender, target: False
    for node, flush in zip(sleepers, flushes, strict=True):
        node.engine.flush = flush  # type: ignore[method-assign]
        node.engine._flush_due = False
        node.engine.kick()
        world.call_at(world.now + noticed_after, node.engine.woke)


@pytest.mark.parametrize("noticed_after", [0.0, 0.011, 1.0])
@pytest.mark.parametrize("seconds", [45, 200, 3600])
@pytest.mark.parametrize("who", ["user", "workspace", "both"])
def test_a_keystroke_after_a_sleep_that_kills_the_relay_connection(
    who: str, seconds: float, noticed_after: float
) -> None:
    world, a, b = pair(LinkRules(latency=0.05), relay=0.06)
    mortal_relays(a, b)
    stream = Stream(world, a, b, rate=0.0)
    stream.due = 100.0
    world.run(20)
    assert stream.received == 100
    sleep_for_good(world, {"user": [a], "workspace": [b], "both": [a, b]}[who], seconds, noticed_after)
    at = world.now
    stream.due += 1
    assert world.run(2, lambda: stream.received == 101), "no keystroke"
    assert world.now - at < noticed_after + 1
    world.run(5)
    assert a.is_direct(b)
    assert stream.is_unhurt
