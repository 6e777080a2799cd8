"""The choice of the home relay."""

from __future__ import annotations

import pytest

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.magicsock.home import choose_home


def region(number: int, *, stun_only: bool = False, avoid: bool = False, no_home: bool = False) -> DerpRegion:
    node = DerpNode(f"{number}a", number, "relay.example", stun_only=stun_only)
    return DerpRegion(number, nodes=(node,), avoid=avoid, no_measure_no_home=no_home)


def of(*regions: DerpRegion) -> DerpMap:
    return DerpMap({r.region_id: r for r in regions})


THREE = of(region(1), region(2), region(3))


@pytest.mark.parametrize(
    ("latency", "current", "expected"),
    [
        ({}, 0, 1),  # nothing measured: everybody takes the same one
        ({}, 3, 3),  # …unless there is a home already
        ({2: 0.02}, 0, 2),
        ({1: 0.030, 2: 0.022}, 1, 1),  # 8 ms better: less than 10 ms is not worth a move
        ({1: 0.060, 2: 0.045}, 1, 1),  # 15 ms better, but more than two thirds of it
        ({1: 0.060, 2: 0.030}, 1, 2),
        ({2: 0.5}, 1, 2),  # home did not answer
    ],
)
def test_home_moves_only_for_a_good_reason(latency: dict[int, float], current: int, expected: int) -> None:
    assert choose_home(THREE, latency, current) == expected


def test_regions_that_cannot_or_do_not_want_to_be_home_are_not() -> None:
    regions = of(region(1, stun_only=True), region(2, no_home=True), region(3, avoid=True), region(4))
    assert choose_home(regions, {1: 0.001, 2: 0.001, 3: 0.001}, 0) == 4


def test_a_home_to_avoid_is_better_than_none() -> None:
    assert choose_home(of(region(1, stun_only=True), region(7, avoid=True)), {}, 0) == 7


def test_a_map_without_relays_has_no_home() -> None:
    assert choose_home(of(region(1, stun_only=True)), {1: 0.01}, 1) == 0


def test_scores_weigh_latency() -> None:
    scored = DerpMap(THREE.regions, region_score={2: 0.5, 3: -1.0})
    assert choose_home(scored, {1: 0.050, 2: 0.060, 3: 0.055}, 0) == 2


def test_a_preferred_region_is_home_whatever_it_measures() -> None:
    derp_map = DerpMap(regions={1: region(1), 2: region(2)})
    assert choose_home(derp_map, {1: 0.01, 2: 0.3}, 1, preferred=2) == 2
    assert choose_home(derp_map, {1: 0.01, 2: 0.3}, 1, preferred=9) == 1
