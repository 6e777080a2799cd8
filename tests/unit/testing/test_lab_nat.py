"""The laboratory's NATs: both axes of RFC 4787 apart, ports, time-outs, forwards; then their laws on random traffic."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.testing.lab import Filtering, Forward, Mapping, NatRules, Ports
from coder_agent.testing.lab.nat import Nat

OUTSIDE = "198.51.100.1"
INSIDE = AddrPort("192.168.1.2", 41641)
OTHER_INSIDE = AddrPort("192.168.1.3", 41641)
A = AddrPort("203.0.113.1", 1000)
A_OTHER_PORT = AddrPort("203.0.113.1", 1001)
B = AddrPort("203.0.113.2", 1000)

SEQUENTIAL = NatRules(ports=Ports.SEQUENTIAL, filtering=Filtering.ENDPOINT_INDEPENDENT)
SYMMETRIC = NatRules(mapping=Mapping.ADDRESS_AND_PORT_DEPENDENT)


def out(nat: Nat, source: AddrPort, target: AddrPort, now: float = 0.0) -> AddrPort:
    outside = nat.outbound(source, target, now)
    assert outside is not None
    return outside


# ------------------------------------------------------------ the two axes


@pytest.mark.parametrize(
    ("mapping", "ports"),
    [
        (Mapping.ENDPOINT_INDEPENDENT, [20000, 20000, 20000]),
        (Mapping.ADDRESS_DEPENDENT, [20000, 20000, 20001]),
        (Mapping.ADDRESS_AND_PORT_DEPENDENT, [20000, 20001, 20002]),
    ],
)
def test_mapping(mapping: Mapping, ports: list[int]) -> None:
    nat = Nat(OUTSIDE, replace(SEQUENTIAL, mapping=mapping))
    assert [out(nat, INSIDE, target, 0).port for target in (A, A_OTHER_PORT, B)] == ports
    assert [out(nat, INSIDE, target, 1).port for target in (A, A_OTHER_PORT, B)] == ports


@pytest.mark.parametrize(
    ("filtering", "admitted"),
    [
        (Filtering.ENDPOINT_INDEPENDENT, [True, True, True]),
        (Filtering.ADDRESS_DEPENDENT, [True, True, False]),
        (Filtering.ADDRESS_AND_PORT_DEPENDENT, [True, False, False]),
    ],
)
def test_filtering(filtering: Filtering, admitted: list[bool]) -> None:
    nat = Nat(OUTSIDE, NatRules(filtering=filtering))
    outside = out(nat, INSIDE, A)
    came_in = [nat.inbound(source, outside, 1) for source in (A, A_OTHER_PORT, B)]
    assert came_in == [INSIDE if ok else None for ok in admitted]
    assert nat.counters["filtered"] == admitted.count(False)


# ------------------------------------------------------------ ports


def test_a_port_is_preserved_while_no_other_mapping_has_it() -> None:
    nat = Nat(OUTSIDE, NatRules())
    assert out(nat, INSIDE, A).port == 41641
    assert out(nat, OTHER_INSIDE, A).port == 41642
    symmetric = Nat(OUTSIDE, SYMMETRIC)
    assert [out(symmetric, INSIDE, target).port for target in (A, A_OTHER_PORT, B)] == [41641, 41642, 41643]


@pytest.mark.parametrize("step", [1, 2, -3])
def test_sequential_ports_are_a_step_apart(step: int) -> None:
    nat = Nat(OUTSIDE, replace(SYMMETRIC, ports=Ports.SEQUENTIAL, step=step))
    ports = [out(nat, INSIDE, AddrPort("203.0.113.1", 1000 + i)).port for i in range(8)]
    assert {later - earlier for earlier, later in pairwise(ports)} == {step}


def test_random_ports_follow_the_seed_and_no_pattern() -> None:
    def ports(seed: int) -> list[int]:
        nat = Nat(OUTSIDE, replace(SYMMETRIC, ports=Ports.RANDOM), Random(seed))
        return [out(nat, INSIDE, AddrPort("203.0.113.1", 1000 + i)).port for i in range(50)]

    assert ports(1) == ports(1) != ports(2)
    assert len(set(ports(1))) == 50
    assert sum(later > earlier for earlier, later in pairwise(ports(1))) in range(10, 40)


def test_a_full_table_drops_new_flows_and_keeps_the_old() -> None:
    nat = Nat(OUTSIDE, replace(SYMMETRIC, limit=2))
    kept = [out(nat, INSIDE, A), out(nat, INSIDE, B)]
    assert nat.outbound(INSIDE, A_OTHER_PORT, 1) is None
    assert nat.counters["exhausted"] == 1
    assert [out(nat, INSIDE, A, 1), out(nat, INSIDE, B, 1)] == kept
    assert nat.outbound(INSIDE, A_OTHER_PORT, 200) is not None, "expired ones make room"


# ------------------------------------------------------------ time


def test_mappings_are_kept_by_outbound_packets_only() -> None:
    nat = Nat(OUTSIDE, replace(SEQUENTIAL, lifetime=30))
    outside = out(nat, INSIDE, A)
    assert nat.inbound(A, outside, 29) == INSIDE
    assert nat.inbound(A, outside, 31) is None
    assert out(nat, INSIDE, A, 31) != outside


def test_inbound_packets_keep_a_mapping_where_the_router_does_so() -> None:
    nat = Nat(OUTSIDE, NatRules(lifetime=30, inbound_refresh=True))
    outside = out(nat, INSIDE, A)
    assert [nat.inbound(A, outside, now) for now in (29, 58, 87)] == [INSIDE] * 3
    assert nat.inbound(B, outside, 100) is None
    assert nat.inbound(A, outside, 118) is None, "a stranger's packet keeps nothing"


def test_a_restart_forgets_what_was_learnt() -> None:
    nat = Nat(OUTSIDE, NatRules(), forwards=(Forward(5000, INSIDE),))
    outside = out(nat, INSIDE, A)
    nat.restart()
    assert nat.inbound(A, outside, 1) is None
    assert nat.inbound(A, AddrPort(OUTSIDE, 5000), 1) == INSIDE


# ------------------------------------------------------------ what comes in


def test_nothing_comes_in_at_a_port_never_used() -> None:
    nat = Nat(OUTSIDE, NatRules(filtering=Filtering.ENDPOINT_INDEPENDENT))
    assert nat.inbound(A, AddrPort(OUTSIDE, 20000), 0) is None


def test_a_packet_that_comes_too_early_does_not_take_the_port_from_the_host_inside() -> None:
    nat = Nat(OUTSIDE, NatRules())
    seen_by_stun = out(nat, INSIDE, A)
    assert nat.inbound(B, seen_by_stun, 1) is None
    assert out(nat, INSIDE, B, 2) == seen_by_stun, "the way to the early sender has the port that was announced"
    assert nat.inbound(B, seen_by_stun, 3) == INSIDE


def test_a_forwarded_port_lets_anybody_in_and_answers_leave_by_it() -> None:
    nat = Nat(OUTSIDE, SYMMETRIC, forwards=(Forward(5000, INSIDE),))
    assert nat.inbound(B, AddrPort(OUTSIDE, 5000), 0) == INSIDE
    assert out(nat, INSIDE, B) == AddrPort(OUTSIDE, 5000)
    assert out(nat, INSIDE, A).port != 5000


def test_the_port_mapping_service_opens_a_port_and_gives_it_to_nobody_else() -> None:
    nat = Nat(OUTSIDE, NatRules())
    assert out(nat, INSIDE, A).port == 41641
    opened = nat.open_port(INSIDE, 0)
    assert opened == AddrPort(OUTSIDE, 41641), "its own mapping does not stand in its way"
    assert nat.open_port(INSIDE, 1) == opened
    assert nat.inbound(B, opened, 1) == INSIDE
    other = nat.open_port(OTHER_INSIDE, 1)
    assert other is not None
    assert other.port != opened.port
    assert out(nat, OTHER_INSIDE, A, 2).port not in (opened.port, other.port)


# ------------------------------------------------------------ laws

INSIDES = st.builds(AddrPort, st.sampled_from(["192.168.1.2", "192.168.1.3"]), st.integers(40000, 40003))
REMOTES = st.builds(AddrPort, st.sampled_from(["203.0.113.1", "203.0.113.2"]), st.integers(1000, 1003))
RULES = st.builds(
    NatRules,
    mapping=st.sampled_from(Mapping),
    filtering=st.sampled_from(Filtering),
    ports=st.sampled_from(Ports),
    step=st.integers(1, 5),
    lifetime=st.just(30.0),
    inbound_refresh=st.booleans(),
    limit=st.sampled_from([3, 4096]),
)
TRAFFIC = st.lists(st.tuples(st.booleans(), INSIDES, REMOTES, st.floats(0, 40)), max_size=40)


def scope(axis: Mapping | Filtering, remote: AddrPort) -> object:
    full = {"endpoint-independent": None, "address-dependent": remote.host}
    return full.get(axis.value, remote)


@given(RULES, TRAFFIC)
def test_laws(rules: NatRules, traffic: list[tuple[bool, AddrPort, AddrPort, float]]) -> None:
    """A model of what is promised, kept beside the table: who has which port, who was sent to, and when."""
    nat = Nat(OUTSIDE, rules, Random(1))
    now = 0.0
    used: dict[tuple[AddrPort, object], tuple[AddrPort, float]] = {}
    sent: dict[tuple[AddrPort, AddrPort, object], float] = {}
    for goes_out, inside, remote, pause in traffic:
        now += pause
        alive = {key: (at_outside, at) for key, (at_outside, at) in used.items() if now - at <= rules.lifetime}
        if goes_out:
            outside = nat.outbound(inside, remote, now)
            key = (inside, scope(rules.mapping, remote))
            if outside is None:
                assert len(alive) >= rules.limit
                assert key not in alive
                continue
            if key in alive:
                assert outside == alive[key][0], "one mapping, one port"
            else:
                assert outside not in [taken for taken, _ in alive.values()], "two insides on one outside port"
                for old in [old for old in sent if old[1] == outside]:
                    del sent[old]
            used[key] = (outside, now)
            sent[inside, outside, scope(rules.filtering, remote)] = now
        else:
            for key, (outside, _) in list(alive.items()):
                told = sent.get((key[0], outside, scope(rules.filtering, remote)))
                admitted = told is not None and now - told <= rules.lifetime
                assert nat.inbound(remote, outside, now) == (key[0] if admitted else None)
                if admitted and rules.inbound_refresh:
                    used[key] = (outside, now)
                    sent[key[0], outside, scope(rules.filtering, remote)] = now
