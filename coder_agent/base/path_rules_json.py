"""PathRules as JSON: in connection information, in what an agent asks for, in a workspace's settings.

    {"direct": "auto", "prefer_region": 0, "ipv6": true, "set_by": "the deployment"}

Absent fields mean what `NO_RULES` says; unknown ones are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping

from .path_rules import DirectRule, PathRules

MAX_SET_BY = 200
"""Characters of the words that say whose rule it is."""
MAX_REGION = 65535
"""DERP region ids are 16 bits on the wire (disco's magic port)."""


def rules_to_json(rules: PathRules) -> dict[str, object]:
    """For `json.dumps`."""
    return {
        "direct": rules.direct.value,
        "prefer_region": rules.prefer_region,
        "ipv6": rules.ipv6,
        "set_by": rules.set_by,
    }


def rules_from_json(document: object) -> PathRules:
    """Read `rules_to_json`'s. Raises ValueError naming the field."""
    if not isinstance(document, Mapping):
        raise ValueError("path rules are not an object")
    direct, region = document.get("direct", DirectRule.AUTO.value), document.get("prefer_region", 0)
    ipv6, set_by = document.get("ipv6", True), document.get("set_by", "")
    if not isinstance(direct, str) or direct not in {rule.value for rule in DirectRule}:
        raise ValueError("direct is not one of auto, never, only")
    if not isinstance(region, int) or isinstance(region, bool) or not 0 <= region <= MAX_REGION:
        raise ValueError(f"prefer_region is not in 0…{MAX_REGION}")
    if not isinstance(ipv6, bool):
        raise ValueError("ipv6 is neither true nor false")
    if not isinstance(set_by, str) or len(set_by) > MAX_SET_BY or not set_by.isprintable():
        raise ValueError(f"set_by is not a line of at most {MAX_SET_BY} characters")
    return PathRules(DirectRule(direct), region, ipv6, set_by)
