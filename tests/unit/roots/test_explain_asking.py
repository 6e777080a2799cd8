"""Asking a peer for its newest report: waited for as long as question and answer may have to wait for their turn."""

from __future__ import annotations

from typing import Any, cast

import anyio
import pytest

from coder_agent.base.keys import NodePublic
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.explain import ASK_TIMEOUT, ask
from coder_agent.magicsock.constants import REPORT_INTERVAL
from coder_agent.magicsock.status import PathStatus
from coder_agent.node import TailnetNode
from coder_agent.testing.virtual_time import VirtualLoop

pytestmark = pytest.mark.anyio
PEER = NodePublic(bytes(32))
OLD, NEW = PathReport(), PathReport(NatFacts(port_mapped=True))


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": VirtualLoop}


class Node:
    """A node whose peer answers `after` seconds (None = never)."""

    def __init__(self, after: float | None, before: PathReport | None) -> None:
        self.engine: Any = self
        self.magicsock: Any = self
        self._after, self._before = after, before
        self._asked = float("inf")

    def now(self) -> float:
        return anyio.current_time()

    def ask_report(self, peer: NodePublic, now: float) -> list[object]:
        self._asked = now
        return []

    def apply(self, effects: list[object]) -> None:
        """Nothing is sent here."""

    def path(self, peer: NodePublic) -> PathStatus:
        answered = self._after is not None and self.now() >= self._asked + self._after
        return PathStatus(remote=NEW if answered else self._before)


@pytest.mark.parametrize("before", [None, OLD], ids=["unknown", "known"])
async def test_an_answer_that_had_to_wait_for_its_turn_still_counts(before: PathReport | None) -> None:
    node = cast(TailnetNode, Node(REPORT_INTERVAL + 0.2, before))
    assert await ask(node, PEER)
    assert node.path(PEER).remote == NEW


async def test_an_answer_is_not_waited_for_longer_than_it_takes() -> None:
    began = anyio.current_time()
    assert await ask(cast(TailnetNode, Node(0.1, OLD)), PEER)
    assert anyio.current_time() - began < 0.2


@pytest.mark.parametrize(("before", "told"), [(None, False), (OLD, True)], ids=["stock", "gone silent"])
async def test_who_does_not_answer_costs_the_time_out(before: PathReport | None, told: bool) -> None:
    began = anyio.current_time()
    assert await ask(cast(TailnetNode, Node(None, before)), PEER) is told
    assert anyio.current_time() - began == pytest.approx(ASK_TIMEOUT, abs=0.1)
