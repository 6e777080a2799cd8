"""A transport that is full: nothing sealed is lost, others go on, and it ends where it should."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.burst import Burst
from coder_agent.base.paths import Path, UdpPath
from coder_agent.protocols.netstack.listening import SynRequest
from coder_agent.runtime.engine import PENDING_PER_PEER
from coder_agent.testing.lab.world import LabTransport, VirtualNode, World


class Tap:
    """A transport that can be closed like a tap; counts what it refused."""

    headroom = 0
    name = "tap"

    def __init__(self, node: VirtualNode) -> None:
        self.inner = LabTransport(node, "direct")
        self.is_shut = False
        self.refuses: AddrPort | None = None
        self.refused = self.sent = 0

    def send(self, burst: Burst, path: Path) -> bool:
        if self.is_shut or (isinstance(path, UdpPath) and path.addr == self.refuses):
            self.refused += 1
            return False
        self.sent += burst.count
        return self.inner.send(burst, path)

    def keep_warm(self, region: int) -> None:
        """It always is."""

    def stats(self) -> dict[str, int]:
        return {}

    def bound_ports(self) -> tuple[int | None, int | None]:
        return 41641, None

    def open_extra(self, count: int) -> Sequence[int]:
        """No more sockets here."""
        return ()

    def close_extra(self, names: Sequence[int]) -> None:
        """Nothing to close."""

    def rebind(self) -> None:
        return None


def stream(world: World, a: VirtualNode, b: VirtualNode, size: int) -> Callable[[], int]:
    """Send `size` bytes from a to b; returns how many have arrived when called."""
    received = 0

    def on_syn(request: SynRequest) -> None:
        connection = request.accept(world.now)

        def read() -> None:
            nonlocal received
            received += sum(map(len, connection.read()))
            b.engine.kick()

        connection.user = read
        b.engine.kick()

    b.engine.stack.on_syn = on_syn
    connection = a.engine.stack.connect(b.address, 80, world.now)
    left = size

    def write() -> None:
        nonlocal left
        left -= connection.write(bytes(min(left, 1 << 20)))
        a.engine.kick()

    connection.user = write
    a.engine.kick()
    return lambda: received


def setup() -> tuple[World, VirtualNode, VirtualNode, Tap]:
    world = World(3)
    a, b = world.node("a"), world.node("b")
    tap = Tap(a)
    a.engine.direct = tap
    world.introduce(a, b)
    return world, a, b, tap


def test_a_full_transport_pauses_the_peer_and_loses_nothing() -> None:
    world, a, b, tap = setup()
    received = stream(world, a, b, 1 << 20)
    assert world.run(1, lambda: received() > 100_000)
    tap.is_shut = True
    before = tap.sent
    world.run(0.15)
    assert tap.refused == 1, "after the first refusal nobody asks again before on_writable"
    assert tap.sent == before
    tap.is_shut = False
    a.engine.on_writable(tap)
    assert world.run(5, lambda: received() == 1 << 20)
    assert a.engine.counters["dropped-pending-full"] == 0


def test_what_is_kept_for_a_blocked_peer_is_bounded() -> None:
    world, a, b, tap = setup()
    received = stream(world, a, b, 1 << 20)
    assert world.run(1, lambda: received() > 100_000)
    tap.is_shut = True
    a.engine.relay = tap  # type: ignore[assignment]  # both ways out are shut
    for _ in range(3 * PENDING_PER_PEER):
        a.engine.stack.ping(b.address, 7, 1, world.now)
        a.engine.apply(a.engine.device.initiate(b.key, world.now))
        world.run(6.0)
    waiting = a.engine._blocked[b.key].waiting
    assert 0 < len(waiting) <= PENDING_PER_PEER


def test_a_full_direct_transport_does_not_hold_up_the_relay() -> None:
    world, a, b, tap = setup()
    received = stream(world, a, b, 1 << 20)
    assert world.run(1, lambda: received() > 100_000)
    tap.is_shut = True  # for good: trust ends after 6.5 s, and the relay takes over
    assert world.run(30, lambda: received() == 1 << 20)


def test_another_peer_is_not_held_up() -> None:
    world = World(4)
    a, b, c = (world.node(name) for name in "abc")
    world.introduce(a, b)
    world.introduce(a, c)
    to_b = stream(world, a, b, 1 << 20)
    assert world.run(1, lambda: to_b() > 0)
    shut_for_b = Tap(a)
    shut_for_b.refuses = b.endpoint
    a.engine.direct = shut_for_b
    to_c = stream(world, a, c, 1 << 20)
    assert world.run(5, lambda: to_c() == 1 << 20)
    assert to_b() < 1 << 20


def test_a_bug_on_the_receiving_path_costs_one_burst_and_one_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, a, _, _ = setup()

    def explode(*args: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(a.engine.device, "receive", explode)
    for _ in range(3):
        a.engine.on_burst(Burst.of(b"\x04\0\0\0" + bytes(60)), UdpPath(a.endpoint))
    assert world.now == 0
    assert a.engine.counters["bugs"] == 3
    assert caplog.text.count("ZeroDivisionError: a bug") == 1
    assert a.engine.all_counters()["engine.bugs"] == 3
