"""The engine carries out what birthday probing asks for: sockets beside the main one."""

from __future__ import annotations

from collections.abc import Sequence

from coder_agent.magicsock import CloseSockets, OpenSockets
from coder_agent.testing.lab.places import EASY, SYMMETRIC_RANDOM, Pair, topology_of
from coder_agent.testing.lab.world import World


class Sockets:
    """Records what is opened and closed, in front of a real transport of the virtual network."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.opened: list[int] = []
        self.closed: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def open_extra(self, count: int) -> Sequence[int]:
        self.opened.append(count)
        return list(range(1, count + 1))

    def close_extra(self, names: Sequence[int]) -> None:
        self.closed += names


def test_sockets_are_opened_told_to_the_core_and_closed_if_nobody_wants_them_any_more() -> None:
    world = World()
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    sockets = Sockets(a.engine.direct)
    a.engine.direct = sockets  # type: ignore[assignment]  # the rest is passed on
    a.engine.apply([OpenSockets(b.key, 3)])
    assert sockets.opened == [3]
    assert sockets.closed == [1, 2, 3]  # no attempt is on: the core gives them back
    a.engine.apply([CloseSockets((7,))])
    assert sockets.closed == [1, 2, 3, 7]


def test_without_a_direct_transport_there_are_none() -> None:
    world = World()
    a, b = world.node("a"), world.node("b")
    world.introduce(a, b)
    a.engine.direct = None
    a.engine.apply([OpenSockets(b.key, 3), CloseSockets((1,))])
    assert a.engine.counters["bugs"] == 0


def test_whole_nodes_talk_through_a_guessed_port() -> None:
    world = World(topology=topology_of(Pair(EASY, SYMMETRIC_RANDOM)))
    a, b = world.node("a"), world.node("b")
    for node in (a, b):
        node.start()
    world.introduce(a, b)
    pongs: list[float] = []
    a.engine.stack.on_tsmp_pong = lambda remote, data, port: pongs.append(world.now)

    def ping() -> None:
        a.engine.stack.tsmp_ping(b.address, b"12345678", world.now)
        a.engine.flush()
        world.call_at(world.now + 0.5, ping)

    ping()
    assert world.run(30, lambda: a.is_direct(b) and b.is_direct(a))
    status = b.engine.magicsock.path(a.key)
    assert status.socket != 0
    assert len(b.sockets) < 1 + 4  # the others are closed
    world.relay = lambda *args: None  # type: ignore[method-assign]  # the relay is gone
    before = len(pongs)
    world.run(20)
    assert len(pongs) >= before + 38
