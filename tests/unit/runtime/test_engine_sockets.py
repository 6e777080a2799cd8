"""The engine carries out what birthday probing asks for: sockets beside the main one."""

from __future__ import annotations

from collections.abc import Sequence

from coder_agent.magicsock import CloseSockets, OpenSockets
from coder_agent.testing.virtual_network import World


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
