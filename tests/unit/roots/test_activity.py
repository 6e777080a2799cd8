"""How much a workspace is used, as its agent tells the server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast
from uuid import UUID

import pytest

from coder_agent.activity import SSH_PORT, TERMINAL_PORT, Activity
from coder_agent.base.keys import NodePublic
from coder_agent.base.node import Node
from coder_agent.node import TailnetNode
from coder_agent.runtime.agent_link import AgentStats
from coder_agent.runtime.streams import TunnelStream

ALICE, BOB, CAROL = (NodePublic(bytes([number] * 32)) for number in (1, 2, 3))


class FakeNode:
    """A node with these peers: bytes both ways, and seconds of latency."""

    def __init__(self) -> None:
        self.counts: dict[NodePublic, tuple[int, int]] = {}
        self.latency: dict[NodePublic, float] = {}
        self.connection_count = 0

    def traffic(self, key: NodePublic) -> tuple[int, int]:
        return self.counts.get(key, (0, 0))

    def path(self, key: NodePublic) -> SimpleNamespace:
        return SimpleNamespace(latency=self.latency.get(key))


def watching(*keys: NodePublic) -> tuple[FakeNode, Activity, dict[UUID, Node]]:
    node, activity = FakeNode(), Activity()
    peers = {UUID(int=number): cast(Node, SimpleNamespace(key=key)) for number, key in enumerate(keys)}
    activity.watch(cast(TailnetNode, node), peers)
    return node, activity, peers


def test_nothing_is_told_while_nothing_happens() -> None:
    assert Activity().stats() is None, "not before there is a node"
    node, activity, _ = watching(ALICE)
    node.connection_count = 3  # open, and silent
    assert activity.stats() is None


def test_a_report_holds_what_came_since_the_last_one() -> None:
    node, activity, _ = watching(ALICE, BOB, CAROL)
    node.counts, node.connection_count = {ALICE: (10, 20), BOB: (1, 2)}, 5
    node.latency = {ALICE: 0.010, BOB: 0.030, CAROL: 9.0}
    assert activity.stats() == AgentStats({"TCP": 5}, 5, 20.0, rx_bytes=11, tx_bytes=22)
    assert activity.stats() is None
    node.counts[BOB] = (4, 2)
    assert activity.stats() == AgentStats({"TCP": 5}, 5, 30.0, rx_bytes=3)


def test_who_came_and_went_in_between_was_there() -> None:
    node, activity, _ = watching(ALICE)
    node.counts = {ALICE: (10, 20)}
    stats = activity.stats()
    assert stats is not None
    assert stats.connection_count == 1
    assert stats.median_latency_ms < 0, "nobody knows"


def test_a_peer_that_was_forgotten_counts_anew() -> None:
    node, activity, peers = watching(ALICE, BOB)
    node.counts = {ALICE: (100, 200)}
    assert activity.stats() is not None
    node.counts = {ALICE: (5, 1)}
    assert activity.stats() == AgentStats({"TCP": 0}, 1, rx_bytes=5, tx_bytes=1)
    peers.clear()
    assert activity.stats() is None


@pytest.mark.anyio
async def test_open_sessions_are_counted_until_they_end() -> None:
    node, activity, _ = watching(ALICE)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        received, sent = node.traffic(ALICE)
        node.counts[ALICE] = (received + 1, sent)
        stats = activity.stats()
        assert stats is not None
        seen.append((stats.ssh_sessions, stats.terminal_sessions))

    async def failing(stream: TunnelStream) -> None:
        look()
        raise RuntimeError("it breaks")

    async def nested(stream: TunnelStream) -> None:
        look()
        with pytest.raises(RuntimeError):
            await activity.counted(TERMINAL_PORT, failing)(stream)

    await activity.counted(SSH_PORT, nested)(cast(TunnelStream, None))
    look()
    assert seen == [(1, 0), (1, 1), (0, 0)]
