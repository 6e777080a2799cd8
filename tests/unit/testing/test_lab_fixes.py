"""Each fix, done to a network that lacks just that, makes its path direct; done where it is no use, it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.testing.lab import (
    STATEFUL,
    LinkRules,
    Pair,
    Topology,
    topology_of,
    with_direct_allowed,
    with_endpoint_independent_nat,
    with_forwarded_port,
    with_hairpin,
    with_ipv6,
    with_larger_mtu,
    with_open_firewall,
    with_port_mapping,
    with_stun,
    with_udp_allowed,
)
from coder_agent.testing.lab.matrix import Meeting, meet
from coder_agent.testing.lab.means import Means, means_of

LIMIT = 2.0
"""Seconds: enough for all that needs no luck; ports are guessed only later."""


def pair(a: str, b: str, hairpin: bool | None = None) -> Topology:
    return topology_of(Pair(a, b, hairpin))


def met(topology: Topology) -> Meeting:
    return meet(topology, limit=LIMIT)


@dataclass(frozen=True)
class Case:
    broken: Topology
    fix: Callable[[Topology], Topology]
    means: set[Means]


HARD_BOTH = pair("symmetric-random", "symmetric-random")
CASES = {
    "port mapping": Case(HARD_BOTH, lambda t: with_port_mapping(t, "b"), {Means.PORT_MAPPING, Means.PING}),
    "forwarded port": Case(HARD_BOTH, lambda t: with_forwarded_port(t, "a", 5000), {Means.CONFIGURED, Means.PING}),
    "forwarded through two routers": Case(
        pair("double-nat", "udp-blocked"),
        lambda t: with_udp_allowed(with_forwarded_port(t, "a"), "b"),
        {Means.CONFIGURED, Means.STUN},
    ),
    "UDP allowed": Case(pair("easy", "udp-blocked"), lambda t: with_udp_allowed(t, "b"), {Means.STUN}),
    "rule lifted": Case(
        pair("easy", "easy").with_host("b", lambda host: replace(host, allow_direct=False, direct_rule="a rule")),
        lambda t: with_direct_allowed(t, "b"),
        {Means.STUN},
    ),
    "IPv6 at both ends": Case(HARD_BOTH, lambda t: with_ipv6(with_ipv6(t, "a"), "b"), {Means.IPV6}),
    "STUN": Case(replace(pair("easy", "easy"), stun=()), with_stun, {Means.STUN}),
    "larger MTU": Case(
        replace(pair("easy", "easy"), core=LinkRules(latency=0.02, mtu=1280)), with_larger_mtu, {Means.STUN}
    ),
    "better NAT": Case(
        HARD_BOTH,
        lambda t: with_endpoint_independent_nat(with_endpoint_independent_nat(t, "a"), "b"),
        {Means.STUN},
    ),
    "hairpin": Case(pair("same-nat", "same-nat", False), lambda t: with_hairpin(t, "a"), {Means.HAIRPIN}),
    "opened host firewall": Case(
        pair("symmetric-random", "open").with_host("b", lambda host: replace(host, firewall=STATEFUL)),
        lambda t: with_open_firewall(t, "b"),
        {Means.INTERFACE, Means.PING},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fix_makes_the_path_direct(case: Case) -> None:
    assert met(case.broken).seconds is None
    mended = met(case.fix(case.broken))
    assert mended.seconds is not None
    assert set(means_of(mended.a, mended.b)) <= case.means


def test_a_port_mapping_of_the_home_router_is_of_no_use_behind_a_carrier() -> None:
    topology = pair("double-nat", "symmetric-random")
    found = met(with_port_mapping(topology, "a"))
    assert found.seconds is None
    assert found.a.mapped == AddrPort("100.64.0.2", 41641)
    assert (found.a.facts.port_mapped, found.a.facts.nat_layers) == (True, 2)


def test_ipv6_at_one_end_is_of_no_use() -> None:
    assert met(with_ipv6(HARD_BOTH, "a")).seconds is None


def test_a_fix_changes_only_the_side_where_it_is_done() -> None:
    for fix in (with_port_mapping, with_forwarded_port, with_udp_allowed, with_ipv6, with_endpoint_independent_nat):
        fixed = fix(HARD_BOTH, "a")
        assert fixed.host("b") == HARD_BOTH.host("b")
        assert fixed.chain("b") == HARD_BOTH.chain("b")
