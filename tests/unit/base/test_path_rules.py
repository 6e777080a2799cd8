"""Rules below rules, and their JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.path_rules import NO_RULES, DirectRule, PathRules
from coder_agent.base.path_rules_json import rules_from_json, rules_to_json

NEVER = PathRules(DirectRule.NEVER, set_by="the deployment")
ONLY = PathRules(DirectRule.ONLY, set_by="--direct-only")
RULES = st.builds(
    PathRules,
    direct=st.sampled_from(DirectRule),
    prefer_region=st.integers(0, 65535),
    ipv6=st.booleans(),
    set_by=st.sampled_from(["", "the deployment", "workspace alice/dev"]),
)


def test_the_higher_rules_win_and_the_rest_stays() -> None:
    mine = PathRules(DirectRule.ONLY, prefer_region=5, set_by="me")
    assert mine.under(NO_RULES) == mine
    assert mine.under(NEVER) == PathRules(DirectRule.NEVER, prefer_region=5, set_by="the deployment")
    assert NO_RULES.under(PathRules(ipv6=False, set_by="the deployment")).ipv6 is False
    assert PathRules(ipv6=False).under(NO_RULES).ipv6 is False


@given(RULES, RULES)
def test_what_the_higher_rules_state_always_holds(mine: PathRules, higher: PathRules) -> None:
    both = mine.under(higher)
    assert both.direct is (higher.direct if higher.direct is not DirectRule.AUTO else mine.direct)
    assert both.ipv6 is (mine.ipv6 and higher.ipv6)
    assert both.under(higher) == both


@pytest.mark.parametrize(
    ("wish", "higher", "words"),
    [
        (ONLY, NEVER, "--direct-only was asked for, but the deployment blocks direct connections"),
        (
            PathRules(DirectRule.NEVER),
            PathRules(DirectRule.ONLY, set_by="workspace alice/dev"),
            "--disable-direct-connections was asked for, but workspace alice/dev allows direct connections only",
        ),
        (ONLY, NO_RULES, ""),
        (NO_RULES, NEVER, ""),
        (NEVER, NEVER, ""),
    ],
    ids=["only-never", "never-only", "nothing-higher", "no-wish", "agreed"],
)
def test_a_wish_that_cannot_be_granted_is_explained(wish: PathRules, higher: PathRules, words: str) -> None:
    assert wish.conflict(higher) == words


@given(RULES)
def test_json_carries_all_of_it(rules: PathRules) -> None:
    assert rules_from_json(rules_to_json(rules)) == rules


def test_absent_fields_mean_no_rule_and_unknown_ones_nothing() -> None:
    assert rules_from_json({"later": 1}) == NO_RULES


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"direct": "maybe"},
        {"direct": []},
        {"prefer_region": -1},
        {"prefer_region": True},
        {"prefer_region": 65536},
        {"ipv6": 1},
        {"set_by": "two\nlines"},
        {"set_by": "x" * 201},
        {"set_by": None},
    ],
    ids=repr,
)
def test_nonsense_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match=r"rules|direct|prefer_region|ipv6|set_by"):
        rules_from_json(document)
