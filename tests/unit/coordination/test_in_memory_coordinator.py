"""Our coordinator: the contract that all keep, and what is particular to this one."""

from __future__ import annotations

from uuid import UUID

import pytest

from coder_agent.base.coordinate import PeerRequest, UpdateKind
from coder_agent.coordination.core import MAX_TUNNELS, InMemoryCoordinator
from coder_agent.coordination.interface import Coordinator, CoordinatorSession
from coder_agent.coordination.roles import SingleTailnetAuth
from coder_agent.errors import CoordinationError
from coder_agent.testing.contracts.coordinator import AGENT, CLIENT, OTHER, CoordinatorContract, make_node


class TestInMemoryCoordinator(CoordinatorContract):
    def make(self) -> Coordinator:
        return InMemoryCoordinator()


def join(coordinator: InMemoryCoordinator, peer: UUID, woken: list[UUID] | None = None) -> CoordinatorSession:
    def wake() -> None:
        if woken is not None:
            woken.append(peer)

    return coordinator.connect(peer, SingleTailnetAuth(), name="", wake=wake)


def test_a_peer_that_does_not_read_is_removed_and_the_others_are_told() -> None:
    coordinator = InMemoryCoordinator(capacity=4)
    slow = join(coordinator, AGENT)
    fast = join(coordinator, CLIENT)
    fast.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
    slow.request(PeerRequest(update_self=make_node(AGENT)))
    fast.take()
    for _ in range(4):
        fast.request(PeerRequest(ready_for_handshake=(AGENT,)))
    assert slow.ended
    updates = [u for r in fast.take() for u in r.updates]
    assert [(u.id, u.kind, u.reason) for u in updates] == [(AGENT, UpdateKind.DISCONNECTED, "failed update")]
    assert [r.error for r in slow.take() if r.error] == ["you do not read your updates"]


def test_removing_one_that_does_not_read_may_reveal_the_next() -> None:
    coordinator = InMemoryCoordinator(capacity=1)
    sessions = [join(coordinator, UUID(int=i)) for i in range(1, 6)]
    for i, session in enumerate(sessions):
        for other in range(1, 6):
            if other != i + 1:
                session.request(PeerRequest(add_tunnel=UUID(int=other)))
    for i, session in enumerate(sessions, 1):
        session.request(PeerRequest(update_self=make_node(UUID(int=i))))
    assert all(len(session.take()) <= 2 for session in sessions)
    assert sum(not session.ended for session in sessions) <= 1


def test_a_node_that_waits_is_replaced_by_the_newer_one() -> None:
    coordinator = InMemoryCoordinator(capacity=4)
    client = join(coordinator, CLIENT)
    agent = join(coordinator, AGENT)
    client.request(PeerRequest(add_tunnel=AGENT))
    for port in range(1, 100):
        agent.request(PeerRequest(update_self=make_node(AGENT, port=port)))
    (response,) = client.take()
    (update,) = response.updates
    assert update.node == make_node(AGENT, port=99)


def test_order_survives_between_a_node_and_what_follows_it() -> None:
    coordinator = InMemoryCoordinator()
    client = join(coordinator, CLIENT)
    agent = join(coordinator, AGENT)
    client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
    agent.request(PeerRequest(update_self=make_node(AGENT, port=1)))
    agent.request(PeerRequest(ready_for_handshake=(CLIENT,)))
    agent.request(PeerRequest(update_self=make_node(AGENT, port=2)))
    kinds = [u.kind for r in client.take() for u in r.updates]
    assert kinds == [UpdateKind.NODE, UpdateKind.READY_FOR_HANDSHAKE, UpdateKind.NODE]


def test_many_updates_are_cut_into_responses() -> None:
    coordinator = InMemoryCoordinator()
    hub = join(coordinator, AGENT)
    for i in range(1, 201):
        join(coordinator, UUID(int=i)).request(PeerRequest(update_self=make_node(UUID(int=i)), add_tunnel=AGENT))
    sizes = [len(r.updates) for r in hub.take()]
    assert sum(sizes) == 200
    assert max(sizes) <= 64


def test_sessions_are_woken_when_there_is_something() -> None:
    woken: list[UUID] = []
    coordinator = InMemoryCoordinator()
    agent = join(coordinator, AGENT, woken)
    client = join(coordinator, CLIENT, woken)
    client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
    assert woken == [AGENT]
    agent.request(PeerRequest(disconnect=True))
    assert woken == [AGENT, CLIENT, AGENT]


def test_tunnels_are_bounded() -> None:
    coordinator = InMemoryCoordinator()
    client = join(coordinator, CLIENT)
    for i in range(MAX_TUNNELS + 1):
        client.request(PeerRequest(add_tunnel=UUID(int=i)))
    assert client.ended
    assert client.take()[-1].error == f"more than {MAX_TUNNELS} tunnels"


def test_a_closed_coordinator_takes_nobody() -> None:
    coordinator = InMemoryCoordinator()
    coordinator.close()
    with pytest.raises(CoordinationError, match="closed"):
        join(coordinator, OTHER)
    assert list(coordinator.peers()) == []
