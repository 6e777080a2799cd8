"""Peers as the coordinator tells of them."""

from __future__ import annotations

from ipaddress import IPv6Network
from random import Random
from uuid import UUID

import pytest

from coder_agent.base.coordinate import UpdateKind
from coder_agent.base.keys import DiscoPublic, NodePublic
from coder_agent.base.node import Node
from coder_agent.peers import LOST_TIMEOUT, SWEEP_INTERVAL, PeerBook

PEER = UUID(int=7)


class FakeNode:
    """Records what a PeerBook asks of a TailnetNode."""

    def __init__(self) -> None:
        self.log: list[tuple[str, NodePublic]] = []
        self.ages: dict[NodePublic, float] = {}

    def upsert_peer(self, node: Node) -> None:
        self.log.append(("upsert", node.key))

    def remove_peer(self, key: NodePublic, *, gone: str = "") -> None:
        self.log.append(("gone" if gone else "remove", key))

    def handshake(self, key: NodePublic) -> None:
        self.log.append(("handshake", key))

    def last_handshake(self, key: NodePublic) -> float | None:
        return self.ages.get(key)


def peer_node(seed: int, home: int = 999) -> Node:
    rng = Random(seed)
    network = (IPv6Network("fd7a:115c:a1e0::7/128"),)
    return Node(seed, NodePublic(rng.randbytes(32)), DiscoPublic(rng.randbytes(32)), home, network, network)


def book(acknowledged: list[UUID] | None = None) -> tuple[FakeNode, PeerBook]:
    fake = FakeNode()
    acknowledge = None if acknowledged is None else acknowledged.append
    return fake, PeerBook(fake, acknowledge=acknowledge)  # type: ignore[arg-type]


def test_an_agent_acknowledges_each_node_after_installing_it() -> None:
    acknowledged: list[UUID] = []
    fake, peers = book(acknowledged)
    node = peer_node(1)
    peers.update(PEER, UpdateKind.NODE, node, "")
    assert fake.log == [("upsert", node.key)]
    assert acknowledged == [PEER]


def test_a_client_starts_the_handshake_when_the_agent_is_ready_and_not_before() -> None:
    fake, peers = book()
    node = peer_node(1)
    peers.update(PEER, UpdateKind.NODE, node, "")
    assert ("handshake", node.key) not in fake.log
    peers.update(PEER, UpdateKind.READY_FOR_HANDSHAKE, None, "")
    assert fake.log[-1] == ("handshake", node.key)


def test_ready_before_the_node_is_remembered() -> None:
    fake, peers = book()
    node = peer_node(1)
    peers.update(PEER, UpdateKind.READY_FOR_HANDSHAKE, None, "")
    assert fake.log == []
    peers.update(PEER, UpdateKind.NODE, node, "")
    assert fake.log == [("upsert", node.key), ("handshake", node.key)]


def test_a_node_without_a_home_relay_is_ignored() -> None:
    fake, peers = book()
    peers.update(PEER, UpdateKind.NODE, peer_node(1, home=0), "")
    assert fake.log == []
    assert peers.get(PEER) is None


def test_a_restarted_peer_replaces_the_old_one() -> None:
    fake, peers = book()
    old, new = peer_node(1), peer_node(2)
    peers.update(PEER, UpdateKind.NODE, old, "")
    peers.update(PEER, UpdateKind.NODE, new, "")
    assert fake.log == [("upsert", old.key), ("remove", old.key), ("upsert", new.key)]


def test_disconnected_removes_at_once_and_lost_does_not() -> None:
    fake, peers = book()
    node = peer_node(1)
    peers.update(PEER, UpdateKind.NODE, node, "")
    peers.update(PEER, UpdateKind.LOST, None, "")
    assert peers.is_lost(PEER)
    assert peers.get(PEER) == node
    peers.update(PEER, UpdateKind.DISCONNECTED, None, "goodbye")
    assert peers.get(PEER) is None
    assert fake.log[-1] == ("gone", node.key)


def test_a_node_update_finds_a_lost_peer_again() -> None:
    _, peers = book()
    node = peer_node(1)
    peers.update(PEER, UpdateKind.NODE, node, "")
    peers.all_lost()
    assert peers.is_lost(PEER)
    peers.update(PEER, UpdateKind.NODE, node, "")
    assert not peers.is_lost(PEER)


@pytest.mark.parametrize(("age", "stays"), [(LOST_TIMEOUT - 1, True), (LOST_TIMEOUT + 1, False), (None, False)])
def test_a_lost_peer_goes_fifteen_minutes_after_its_last_handshake(age: float | None, stays: bool) -> None:
    fake, peers = book()
    node = peer_node(1)
    if age is not None:
        fake.ages[node.key] = age
    peers.update(PEER, UpdateKind.NODE, node, "")
    peers.forget_stale()
    assert peers.get(PEER) == node, "only lost peers are looked at"
    peers.all_lost()
    peers.forget_stale()
    assert (peers.get(PEER) == node) is stays
    assert SWEEP_INTERVAL < LOST_TIMEOUT
