"""When a user's program that vanished is given up, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address, IPv6Network
from random import Random
from typing import Any
from uuid import UUID

import anyio
import pytest

from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.errors import PeerUnreachable
from coder_agent.testing.virtual_time import VirtualLoop
from coder_agent.vigil import GRACE, INTERVAL, Vigil

pytestmark = pytest.mark.anyio
PEER = UUID(int=7)
ADDRESS = IPv6Address("fd7a:115c:a1e0::7")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class World:
    """A node and a book of peers; `answers` tells whether the peer's tunnel works at a time."""

    def __init__(self, answers: Callable[[float], bool], *, known: bool = True) -> None:
        rng = Random(1)
        network = (IPv6Network(ADDRESS),)
        self.node = Node(1, NodePublic(rng.randbytes(32)), DiscoPublic(rng.randbytes(32)), 1, network, network)
        self.known = known
        self.lost = True
        self.given_up: list[float] = []
        self.pings: list[float] = []
        self._answers = answers
        self._began = 0.0
        self.vigil = Vigil(self, self)  # type: ignore[arg-type]

    async def run(self, seconds: float, later: Callable[[World], None] = lambda world: None) -> None:
        self._began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            self.vigil.begin(PEER)
            self.vigil.begin(PEER)
            await anyio.sleep(seconds)
            later(self)
            await anyio.sleep(10 * GRACE)
            tasks.cancel_scope.cancel()

    @property
    def now(self) -> float:
        return anyio.current_time() - self._began

    # -- of a TailnetNode

    def start_soon(self, function: Callable[..., Coroutine[Any, Any, object]], *args: object) -> None:
        self._tasks.start_soon(function, *args)

    async def ping_tunnel(self, address: IPv6Address, *, timeout: float) -> None:
        assert address == ADDRESS
        self.pings.append(self.now)
        if not self._answers(self.now):
            await anyio.sleep(timeout)
            raise PeerUnreachable("no answer")

    # -- of a PeerBook

    def get(self, peer: UUID) -> Node | None:
        return self.node if self.known else None

    def is_lost(self, peer: UUID) -> bool:
        return self.lost

    def give_up(self, peer: UUID, reason: str) -> None:
        assert self.lost
        self.lost = False
        self.given_up.append(self.now)


async def test_a_killed_program_is_given_up_after_the_grace_and_watched_once() -> None:
    world = World(lambda now: False)
    await world.run(0)
    assert world.given_up == [pytest.approx(GRACE)]
    assert world.pings == [pytest.approx(n * INTERVAL) for n in range(5)]


async def test_a_tunnel_that_works_without_a_coordinator_is_left_alone() -> None:
    world = World(lambda now: True)
    await world.run(0)
    assert world.given_up == []
    assert len(world.pings) <= 11, "and asked seldom"


async def test_an_outage_shorter_than_the_grace_costs_nothing() -> None:
    world = World(lambda now: now > GRACE - 1.5 * INTERVAL)
    await world.run(0)
    assert world.given_up == []


async def test_who_dies_later_is_noticed_as_well() -> None:
    world = World(lambda now: now < 3 * GRACE)
    await world.run(0)
    (when,) = world.given_up
    assert 4 * GRACE <= when <= 5 * GRACE + INTERVAL


async def test_who_comes_back_is_not_pinged_any_more() -> None:
    def back(world: World) -> None:
        world.lost = False

    world = World(lambda now: False)
    await world.run(GRACE / 2, back)
    assert world.given_up == []
    assert max(world.pings) < GRACE


async def test_a_peer_without_a_node_is_given_up_without_pings() -> None:
    world = World(lambda now: True, known=False)
    await world.run(0)
    assert len(world.given_up) == 1
    assert world.pings == []


async def test_who_is_not_lost_is_not_watched() -> None:
    world = World(lambda now: False)
    world.lost = False
    await world.run(0)
    assert world.pings == []
