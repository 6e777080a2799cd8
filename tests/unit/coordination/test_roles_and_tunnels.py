"""Who may ask for what; which peer is linked to which."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import CODER_PREFIX, TAILSCALE_PREFIX, overlay_address
from coder_agent.base.coordinate import PeerRequest
from coder_agent.coordination.interface import Role
from coder_agent.coordination.roles import (
    LEGACY_AGENT_ADDRESS,
    AgentAuth,
    ClientAuth,
    SingleTailnetAuth,
    UserAuth,
)
from coder_agent.coordination.tunnels import Tunnels
from coder_agent.errors import Forbidden
from coder_agent.testing.contracts.coordinator import AGENT, CLIENT, OTHER, make_node

OWN = tuple(
    IPv6Network(a)
    for a in (
        overlay_address(TAILSCALE_PREFIX, AGENT),
        overlay_address(CODER_PREFIX, AGENT),
        LEGACY_AGENT_ADDRESS,
    )
)
WIDE = (IPv6Network("fd7a:115c:a1e0::/48"),)


@pytest.mark.parametrize(
    ("role", "request_", "allowed"),
    [
        (ClientAuth(AGENT), PeerRequest(add_tunnel=AGENT), True),
        (ClientAuth(AGENT), PeerRequest(add_tunnel=OTHER), False),
        (ClientAuth(AGENT), PeerRequest(remove_tunnel=OTHER), True),
        (ClientAuth(AGENT), PeerRequest(ready_for_handshake=(AGENT,)), False),
        (ClientAuth(AGENT), PeerRequest(update_self=make_node(CLIENT)), True),
        (ClientAuth(AGENT), PeerRequest(update_self=replace(make_node(CLIENT), addresses=WIDE)), False),
        (ClientAuth(AGENT), PeerRequest(update_self=replace(make_node(CLIENT), allowed_ips=WIDE)), False),
        (UserAuth(lambda agent: agent == AGENT), PeerRequest(add_tunnel=AGENT), True),
        (UserAuth(lambda agent: agent == AGENT), PeerRequest(add_tunnel=OTHER), False),
        (UserAuth(lambda agent: True), PeerRequest(ready_for_handshake=(AGENT,)), False),
        (AgentAuth(AGENT), PeerRequest(add_tunnel=CLIENT), False),
        (AgentAuth(AGENT), PeerRequest(ready_for_handshake=(CLIENT,)), True),
        (AgentAuth(AGENT), PeerRequest(disconnect=True), True),
        (AgentAuth(AGENT), PeerRequest(update_self=replace(make_node(AGENT), addresses=OWN)), True),
        (AgentAuth(AGENT), PeerRequest(update_self=make_node(OTHER)), False),
        (AgentAuth(AGENT), PeerRequest(update_self=replace(make_node(AGENT), allowed_ips=WIDE)), False),
        (
            AgentAuth(AGENT),
            PeerRequest(update_self=replace(make_node(AGENT), allowed_ips=make_node(OTHER).addresses)),
            False,
        ),
        (SingleTailnetAuth(), PeerRequest(add_tunnel=OTHER, update_self=make_node(OTHER)), True),
    ],
)
def test_what_each_role_may_do(role: Role, request_: PeerRequest, allowed: bool) -> None:
    if allowed:
        role.check(request_)
    else:
        with pytest.raises(Forbidden):
            role.check(request_)


@given(st.lists(st.tuples(st.sampled_from("+-x"), st.integers(0, 4), st.integers(0, 4)), max_size=60))
def test_both_indexes_agree_with_a_set_of_pairs(steps: list[tuple[str, int, int]]) -> None:
    tunnels = Tunnels()
    model: set[tuple[UUID, UUID]] = set()
    ids = [UUID(int=i) for i in range(5)]
    for step, a, b in steps:
        source, destination = ids[a], ids[b]
        if step == "+":
            tunnels.add(source, destination)
            model.add((source, destination))
        elif step == "-":
            assert tunnels.remove(source, destination) == ((source, destination) in model)
            model.discard((source, destination))
        else:
            tunnels.remove_from(source)
            model = {pair for pair in model if pair[0] != source}
    for one in ids:
        ends = {d for s, d in model if s == one} | {s for s, d in model if d == one}
        assert tunnels.peers(one) == ends
        assert set(tunnels.destinations(one)) == {d for s, d in model if s == one}
        assert tunnels.count_from(one) == len(tunnels.destinations(one))
        assert all(tunnels.linked(one, other) == (other in ends) for other in ids)
