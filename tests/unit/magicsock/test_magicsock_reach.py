"""Addresses that may not be talked to: never tried, never answered, whoever names them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from coder_agent.base.addresses import AddrPort
from coder_agent.base.keys import DiscoPrivate, NodePrivate, NodePublic
from coder_agent.base.paths import DerpPath, UdpPath
from coder_agent.magicsock import Effect, Magicsock
from coder_agent.protocols import disco
from coder_agent.protocols.effects import Dropped, SendRaw

T0 = 5000.0
INSIDE, OUTSIDE = AddrPort("10.0.0.2", 41641), AddrPort("203.0.113.9", 41641)
HOME = 1


class World:
    """A core that may only reach 10.0.0.0/8, and a peer whose packets are made by hand."""

    def __init__(self) -> None:
        rng = Random(11).randbytes
        self.rng = rng
        ours, self.theirs = DiscoPrivate.generate(rng), DiscoPrivate.generate(rng)
        self.peer = NodePrivate.generate(rng).public()
        self.asked: list[tuple[AddrPort, NodePublic]] = []
        self.core = Magicsock(NodePrivate.generate(rng).public(), ours, rng=rng, reach=self.reach)
        shared = disco.precompute(self.theirs, ours.public())
        assert shared is not None
        self.shared = shared

    def reach(self, addr: AddrPort, peer: NodePublic) -> bool:
        self.asked.append((addr, peer))
        return addr.host.startswith("10.")

    def know(self, *endpoints: AddrPort) -> None:
        self.core.upsert_peer(self.peer, self.theirs.public(), home=HOME, endpoints=endpoints, now=T0)

    def seal(self, plaintext: bytes) -> bytes:
        return disco.seal(self.theirs.public(), self.shared, self.rng(24), plaintext)

    def search(self) -> list[Effect]:
        return self.core.route(self.peer, T0)[1]


def sent_to(effects: Sequence[Effect]) -> set[AddrPort]:
    return {one.path.addr for one in effects if isinstance(one, SendRaw) and isinstance(one.path, UdpPath)}


def test_endpoints_of_the_coordinator() -> None:
    world = World()
    world.know(INSIDE, OUTSIDE)
    assert sent_to(world.search()) == {INSIDE}
    assert world.asked == [(INSIDE, world.peer), (OUTSIDE, world.peer)]


def test_endpoints_of_our_own_sources() -> None:
    world = World()
    world.know()
    world.core.suggest_endpoints(world.peer, [OUTSIDE, INSIDE], T0)
    assert sent_to(world.search()) == {INSIDE}


def test_endpoints_of_a_call() -> None:
    world = World()
    world.know()
    call = world.seal(disco.CallMeMaybe((OUTSIDE, INSIDE)).encode())
    assert sent_to(world.core.receive_disco(call, DerpPath(HOME, world.peer), T0)) == {INSIDE}
    assert OUTSIDE not in sent_to(world.search())


def test_a_ping_from_outside_is_not_answered_nor_pinged_back() -> None:
    world = World()
    world.know()
    ping = world.seal(disco.Ping(b"t" * 12, world.peer).encode())
    assert world.core.receive_disco(ping, UdpPath(OUTSIDE), T0) == [Dropped("egress-refused")]
    assert OUTSIDE not in sent_to(world.search())
    assert sent_to(world.core.receive_disco(ping, UdpPath(INSIDE), T0)) == {INSIDE}


def test_no_timer_ever_tries_it() -> None:
    world = World()
    world.know(OUTSIDE)
    effects = world.search()
    while (due := world.core.deadline()) is not None and due < T0 + 60:
        effects += world.core.on_timer(due)
    assert effects
    assert sent_to(effects) == set()
