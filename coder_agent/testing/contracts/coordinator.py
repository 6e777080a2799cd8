"""What every coordinator must do, as cases to inherit.

    class TestMyCoordinator(CoordinatorContract):
        def make(self) -> Coordinator:
            return MyCoordinator()

A store whose answers take a moment also overrides `settle`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from ipaddress import IPv6Network
from uuid import UUID

from ...base.addresses import TAILSCALE_PREFIX, AddrPort, node_id, overlay_address
from ...base.coordinate import PeerRequest, PeerUpdate, UpdateKind
from ...base.keys import DiscoPublic, NodePublic
from ...base.node import Node
from ...coordination.interface import Coordinator, CoordinatorSession, Role
from ...coordination.roles import AgentAuth, ClientAuth, SingleTailnetAuth

AGENT = UUID("11111111-1111-4111-8111-111111111111")
CLIENT = UUID("22222222-2222-4222-8222-222222222222")
OTHER = UUID("33333333-3333-4333-8333-333333333333")

NODE, DISCONNECTED, LOST, READY = UpdateKind
Seen = list[tuple[UUID, UpdateKind]]


def make_node(peer: UUID, *, port: int = 1000) -> Node:
    """A plausible node of `peer`; `port` makes versions of it."""
    address = overlay_address(TAILSCALE_PREFIX, peer)
    network = IPv6Network(address)
    return Node(
        id=node_id(peer),
        key=NodePublic(peer.bytes * 2),
        disco=DiscoPublic(peer.bytes[::-1] * 2),
        preferred_derp=999,
        addresses=(network,),
        allowed_ips=(network,),
        endpoints=(AddrPort("192.0.2.1", port),),
        derp_latency={"999-v4": 0.02},
        as_of=1_700_000_000.0,
    )


class CoordinatorContract(ABC):
    """Inherit, implement `make`, and let pytest collect the subclass."""

    @abstractmethod
    def make(self) -> Coordinator:
        """A fresh coordinator that knows nobody."""

    def settle(self) -> None:  # noqa: B027 - most coordinators have nothing to wait for
        """Wait until what was asked has reached everybody."""

    # ------------------------------------------------------------ tools

    def join(self, coordinator: Coordinator, peer: UUID, role: Role | None = None) -> CoordinatorSession:
        """Connect `peer`, who may do anything unless `role` says otherwise."""
        return coordinator.connect(peer, role or SingleTailnetAuth(), name=str(peer)[:1], wake=lambda: None)

    def updates(self, session: CoordinatorSession) -> list[PeerUpdate]:
        """What `session` is told now; errors fail the case."""
        self.settle()
        responses = session.take()
        assert not [r.error for r in responses if r.error]
        return [update for response in responses for update in response.updates]

    def seen(self, session: CoordinatorSession) -> Seen:
        """The same as pairs of peer and kind."""
        return [(update.id, update.kind) for update in self.updates(session)]

    def errors(self, session: CoordinatorSession) -> list[str]:
        """The errors that `session` is told now."""
        self.settle()
        return [response.error for response in session.take() if response.error]

    def linked(self, coordinator: Coordinator) -> tuple[CoordinatorSession, CoordinatorSession]:
        """Agent and client with nodes and a tunnel, everything told."""
        agent = self.join(coordinator, AGENT, AgentAuth(AGENT))
        client = self.join(coordinator, CLIENT, ClientAuth(AGENT))
        agent.request(PeerRequest(update_self=make_node(AGENT)))
        client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        self.settle()
        agent.take()
        client.take()
        return agent, client

    # ------------------------------------------------------------ nodes and tunnels

    def test_a_tunnel_shows_both_ends_to_each_other(self) -> None:
        coordinator = self.make()
        agent = self.join(coordinator, AGENT, AgentAuth(AGENT))
        client = self.join(coordinator, CLIENT, ClientAuth(AGENT))
        agent.request(PeerRequest(update_self=make_node(AGENT)))
        client.request(PeerRequest(update_self=make_node(CLIENT)))
        assert self.seen(agent) == []
        client.request(PeerRequest(add_tunnel=AGENT))
        assert [(u.id, u.kind, u.node) for u in self.updates(client)] == [(AGENT, NODE, make_node(AGENT))]
        assert [(u.id, u.kind, u.node) for u in self.updates(agent)] == [(CLIENT, NODE, make_node(CLIENT))]

    def test_fields_of_one_request_are_handled_in_order(self) -> None:
        coordinator = self.make()
        agent = self.join(coordinator, AGENT)
        client = self.join(coordinator, CLIENT)
        client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT, disconnect=True))
        assert self.seen(agent)[-1:] == [(CLIENT, DISCONNECTED)]
        assert client.ended
        assert coordinator.node(CLIENT) is None

    def test_a_tunnel_to_somebody_who_comes_later_works(self) -> None:
        coordinator = self.make()
        client = self.join(coordinator, CLIENT, ClientAuth(AGENT))
        client.request(PeerRequest(update_self=make_node(CLIENT), add_tunnel=AGENT))
        assert self.seen(client) == []
        agent = self.join(coordinator, AGENT, AgentAuth(AGENT))
        assert self.seen(agent) == [(CLIENT, NODE)]
        agent.request(PeerRequest(update_self=make_node(AGENT)))
        assert self.seen(client) == [(AGENT, NODE)]

    def test_updates_go_to_both_directions_of_a_tunnel_and_nobody_else(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        other = self.join(coordinator, OTHER)
        agent.request(PeerRequest(update_self=make_node(AGENT, port=2)))
        client.request(PeerRequest(update_self=make_node(CLIENT, port=2)))
        assert [u.node for u in self.updates(client)] == [make_node(AGENT, port=2)]
        assert [u.node for u in self.updates(agent)] == [make_node(CLIENT, port=2)]
        assert self.seen(other) == []

    def test_an_unchanged_node_is_not_sent_again(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.request(PeerRequest(update_self=replace(make_node(AGENT), as_of=1_800_000_000.0)))
        client.request(PeerRequest(add_tunnel=AGENT))
        assert self.seen(client) == []
        assert self.seen(agent) == []

    def test_removing_a_tunnel_disconnects_both(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        client.request(PeerRequest(remove_tunnel=AGENT))
        assert self.seen(agent) == [(CLIENT, DISCONNECTED)]
        assert self.seen(client) == [(AGENT, DISCONNECTED)]
        agent.request(PeerRequest(update_self=make_node(AGENT, port=2)))
        assert self.seen(client) == []
        client.request(PeerRequest(add_tunnel=AGENT))
        assert self.seen(client) == [(AGENT, NODE)]
        assert self.seen(agent) == [(CLIENT, NODE)]

    def test_removing_a_tunnel_that_is_not_there_changes_nothing(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        client.request(PeerRequest(remove_tunnel=OTHER))
        agent.request(PeerRequest(remove_tunnel=CLIENT))
        assert self.seen(agent) == []
        assert self.seen(client) == []
        assert not client.ended

    # ------------------------------------------------------------ leaving

    def test_disconnect_is_told_and_ends_the_stream(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.request(PeerRequest(disconnect=True))
        assert self.seen(client) == [(AGENT, DISCONNECTED)]
        assert agent.ended
        agent.close()
        assert self.seen(client) == []

    def test_a_stream_that_just_ends_is_lost(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.close()
        agent.close()
        assert self.seen(client) == [(AGENT, LOST)]
        assert coordinator.node(AGENT) is None

    def test_a_lost_agent_comes_back_through_the_tunnel_that_waits_for_it(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.close()
        again = self.join(coordinator, AGENT, AgentAuth(AGENT))
        assert self.seen(again) == [(CLIENT, NODE)]
        again.request(PeerRequest(update_self=make_node(AGENT)))
        assert self.seen(client) == [(AGENT, LOST), (AGENT, NODE)]

    def test_the_tunnels_of_a_lost_client_are_forgotten(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        client.close()
        assert self.seen(agent) == [(CLIENT, LOST)]
        again = self.join(coordinator, CLIENT, ClientAuth(AGENT))
        again.request(PeerRequest(update_self=make_node(CLIENT)))
        assert self.seen(again) == []
        assert self.seen(agent) == []
        again.request(PeerRequest(add_tunnel=AGENT))
        assert self.seen(agent) == [(CLIENT, NODE)]

    def test_a_second_stream_of_the_same_peer_takes_over(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        again = self.join(coordinator, CLIENT, ClientAuth(AGENT))
        assert client.ended
        assert self.seen(again) == [(AGENT, NODE)]
        client.request(PeerRequest(update_self=make_node(CLIENT, port=9)))
        client.close()
        assert self.seen(agent) == []
        again.request(PeerRequest(update_self=make_node(CLIENT, port=2)))
        assert [u.node for u in self.updates(agent)] == [make_node(CLIENT, port=2)]
        assert [p.overwrites for p in coordinator.peers() if p.id == CLIENT] == [1]

    def test_a_peer_removed_by_the_server_is_disconnected(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        coordinator.remove(AGENT, "the workspace was deleted")
        assert [(u.id, u.kind, u.reason) for u in self.updates(client)] == [
            (AGENT, DISCONNECTED, "the workspace was deleted")
        ]
        assert agent.ended
        coordinator.remove(AGENT, "again")

    def test_closing_the_coordinator_loses_everybody(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        coordinator.close()
        assert self.seen(agent) == [(CLIENT, LOST)]
        assert self.seen(client) == [(AGENT, LOST)]
        assert agent.ended
        assert client.ended

    # ------------------------------------------------------------ handshakes

    def test_ready_for_handshake_reaches_the_other_end(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.request(PeerRequest(ready_for_handshake=(CLIENT,)))
        assert self.seen(client) == [(AGENT, READY)]
        assert self.seen(agent) == []

    def test_ready_for_a_stranger_is_an_error_that_ends_nothing(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.request(PeerRequest(ready_for_handshake=(OTHER, CLIENT)))
        (error,) = self.errors(agent)
        assert error.startswith("ready for handshake error")
        assert not agent.ended
        assert self.seen(client) == [(AGENT, READY)]

    # ------------------------------------------------------------ who may what

    def test_a_forbidden_request_is_explained_and_ends_the_session(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        client.request(PeerRequest(add_tunnel=OTHER))
        (error,) = self.errors(client)
        assert "tunnel" in error
        assert client.ended
        assert self.seen(agent) == [(CLIENT, LOST)]

    def test_an_agent_cannot_take_another_agents_address(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        agent.request(PeerRequest(update_self=make_node(OTHER)))
        assert len(self.errors(agent)) == 1
        assert agent.ended
        assert self.seen(client) == [(AGENT, LOST)]

    def test_a_rejected_session_ends_with_the_reason(self) -> None:
        coordinator = self.make()
        agent, client = self.linked(coordinator)
        client.reject("an id has 16 bytes, not 3")
        assert self.errors(client) == ["an id has 16 bytes, not 3"]
        assert client.ended
        assert self.seen(agent) == [(CLIENT, LOST)]
        client.request(PeerRequest(update_self=make_node(CLIENT)))
        assert self.seen(agent) == []
