"""Whom a round asks and when."""

from __future__ import annotations

from typing import Any

import pytest
from coder_agent_nat_traversal.interfaces import Family
from coder_agent_nat_traversal.plan import LastRound, Probe, literal_address, plan_round, stun_port

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion

BOTH: frozenset[Family] = frozenset({"v4", "v6"})
ONLY_V4: frozenset[Family] = frozenset({"v4"})


def node(region: int, name: str = "a", **fields: Any) -> DerpNode:
    defaults: dict[str, Any] = {"host_name": f"{name}{region}.example"}
    return DerpNode(name=f"{region}{name}", region_id=region, **(defaults | fields))


def derp_map(*regions: DerpRegion) -> DerpMap:
    return DerpMap({region.region_id: region for region in regions})


def region(number: int, *nodes: DerpNode, **fields: Any) -> DerpRegion:
    return DerpRegion(number, nodes=nodes or (node(number),), **fields)


def shape(sets: list[tuple[Probe, ...]]) -> dict[tuple[int, str], list[tuple[str, float]]]:
    return {(s[0].region, s[0].family): [(p.node.name, round(p.delay, 3)) for p in s] for s in sets}


def test_first_round_asks_every_region_three_times_in_both_families_round_its_nodes() -> None:
    regions = derp_map(region(1, node(1, "a"), node(1, "b")), region(2))
    tries_of_1 = [("1a", 0.0), ("1b", 0.1), ("1a", 0.2)]
    tries_of_2 = [("2a", 0.0), ("2a", 0.1), ("2a", 0.2)]
    assert shape(plan_round(regions, BOTH, None)) == {
        (1, "v4"): tries_of_1,
        (1, "v6"): tries_of_1,
        (2, "v4"): tries_of_2,
        (2, "v6"): tries_of_2,
    }


@pytest.mark.parametrize(
    "silent",
    [
        region(1, no_measure_no_home=True),
        DerpRegion(1),
        region(1, node(1, stun_port=-1)),
        region(1, node(1, stun_port=70000)),
        region(1, node(1, ipv4="none", ipv6="none")),
        region(1, node(1, host_name="")),
    ],
)
def test_regions_that_cannot_answer_are_never_asked(silent: DerpRegion) -> None:
    assert plan_round(derp_map(silent), BOTH, None) == []


def test_a_family_the_host_or_the_node_lacks_is_left_out() -> None:
    assert {s[0].family for s in plan_round(derp_map(region(1)), ONLY_V4, None)} == {"v4"}
    no_v6 = region(1, node(1, ipv6="none"))
    assert {s[0].family for s in plan_round(derp_map(no_v6), BOTH, None)} == {"v4"}
    assert plan_round(derp_map(region(1)), frozenset(), None) == []


@pytest.mark.parametrize(
    "local", [node(1, ipv4="127.0.0.1"), node(1, stun_test_ip="192.0.2.1"), node(1, host_name="127.0.0.1")]
)
def test_servers_on_this_machine_are_asked_even_without_a_network(local: DerpNode) -> None:
    assert {s[0].family for s in plan_round(derp_map(region(1, local)), frozenset(), None)} == {"v4"}


@pytest.mark.parametrize(
    ("fields", "v4", "v6"),
    [
        ({}, "", ""),
        ({"ipv4": "192.0.2.1"}, "192.0.2.1", ""),
        ({"ipv6": "2001:DB8::1"}, "", "2001:db8::1"),
        ({"ipv4": "none"}, None, ""),
        ({"ipv6": "none"}, "", None),
        ({"ipv4": "2001:db8::1"}, None, ""),
        ({"stun_test_ip": "192.0.2.9", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}, "192.0.2.9", None),
        ({"host_name": "192.0.2.3"}, "192.0.2.3", None),
        ({"host_name": "2001:db8::3"}, None, "2001:db8::3"),
        ({"host_name": ""}, None, None),
    ],
)
def test_where_a_nodes_address_comes_from(fields: dict[str, Any], v4: str | None, v6: str | None) -> None:
    assert literal_address(node(1, **fields), "v4") == v4
    assert literal_address(node(1, **fields), "v6") == v6


@pytest.mark.parametrize(("stated", "meant"), [(0, 3478), (3479, 3479), (-1, None), (65536, None)])
def test_stun_port_rules(stated: int, meant: int | None) -> None:
    assert stun_port(node(1, stun_port=stated)) == meant


def test_later_rounds_ask_the_three_fastest_and_avoided_ones_only_if_home() -> None:
    regions = derp_map(*(region(n) for n in range(1, 6)), region(6, avoid=True), region(7))
    last = LastRound({(n, "v4"): n / 100 for n in range(1, 7)})
    plan = shape(plan_round(regions, ONLY_V4, last))
    assert {number for number, _ in plan} == {1, 2, 3}
    home_avoided = LastRound({(6, "v4"): 0.001, (1, "v4"): 0.01, (2, "v4"): 0.02})
    plan = shape(plan_round(regions, ONLY_V4, home_avoided))
    assert {number for number, _ in plan} == {6, 1, 2}


def test_later_rounds_try_home_four_times_with_growing_pauses() -> None:
    last = LastRound({(1, "v4"): 0.010, (2, "v4"): 0.100, (3, "v4"): 0.200, (4, "v4"): 0.300})
    plan = shape(plan_round(derp_map(*(region(n) for n in range(1, 5))), ONLY_V4, last))
    assert [delay for _, delay in plan[1, "v4"]] == [0.0, 0.012, 0.124, 0.186]
    assert [delay for _, delay in plan[2, "v4"]] == [0.0, 0.12]
    assert [delay for _, delay in plan[3, "v4"]] == [0.0]


def test_a_region_not_measured_yet_is_retried_after_the_default_pause() -> None:
    plan = shape(plan_round(derp_map(region(1), region(2)), ONLY_V4, LastRound({(1, "v4"): 0.01})))
    assert [delay for _, delay in plan[2, "v4"]] == [0.0, 0.2]


def test_ipv6_that_did_not_work_is_tried_sparingly() -> None:
    last = LastRound({(n, "v4"): n / 100 for n in (1, 2, 3)})
    plan = shape(plan_round(derp_map(*(region(n) for n in (1, 2, 3))), BOTH, last))
    assert len(plan[1, "v6"]) == len(plan[2, "v6"]) == 1
    assert (3, "v6") not in plan


def test_the_third_region_known_in_both_families_is_asked_in_one() -> None:
    families: tuple[Family, Family] = ("v4", "v6")
    last = LastRound({(n, family): n / 100 for n in (1, 2, 3) for family in families})
    plan = shape(plan_round(derp_map(*(region(n) for n in (1, 2, 3))), BOTH, last))
    assert len(plan[1, "v6"]) == 4
    assert (3, "v4") in plan
    assert (3, "v6") not in plan


def test_a_round_that_heard_nothing_is_followed_by_a_full_one() -> None:
    regions = derp_map(region(1))
    assert plan_round(regions, BOTH, LastRound({})) == plan_round(regions, BOTH, None)
