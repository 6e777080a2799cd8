"""A wish for a relay region that does not exist is not swallowed."""

from __future__ import annotations

from coder_agent.base.derp_map import DerpMap, DerpRegion
from coder_agent.base.path_rules import NO_RULES, PathRules
from coder_agent.client import unknown_region

MAP = DerpMap({1: DerpRegion(1, "near", "Near by"), 7: DerpRegion(7, "far", "Far away")})


def test_a_region_that_does_not_exist_is_named_with_those_that_do() -> None:
    assert unknown_region(PathRules(prefer_region=77), MAP) == (
        "warning: there is no relay region 77 to prefer; the server has 1 (Near by), 7 (Far away)"
    )
    assert unknown_region(PathRules(prefer_region=7), MAP) == ""
    assert unknown_region(NO_RULES, DerpMap({})) == ""
