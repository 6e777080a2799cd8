"""Verdicts about what generated networks do not have: decisions, quality, portals, unfinished searches, stock peers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import PathKind
from coder_agent.verdict.causes import Cause
from coder_agent.verdict.fixes import FixCode, Where
from coder_agent.verdict.judge import judge
from coder_agent.verdict.situation import Attempt, RelayFacts, Situation, Verdict

HERE, THERE = AddrPort("198.51.100.1", 1111), AddrPort("203.0.113.1", 2222)
EASY = NatFacts(udp=True, ipv4=True, ipv6=False, mapping_varies=False, mtu=1500, nat_layers=1)
OURS = replace(EASY, public_v4=HERE)
THEIRS = replace(EASY, public_v4=THERE)
TRIED = Attempt(THERE, ("coordinator",), 3, 0, None, 0, "no answer")
RELAYED = Situation(
    local=PathReport(OURS, sent=3),
    remote=PathReport(THEIRS, sent=3),
    kind=PathKind.RELAYED,
    region=1,
    attempts=(TRIED,),
    published=(THERE, AddrPort("192.168.2.10", 2222)),
    own=(HERE, AddrPort("192.168.1.10", 1111)),
    searching=60.0,
)


def with_facts(here: NatFacts = OURS, there: NatFacts = THEIRS) -> Situation:
    return replace(RELAYED, local=PathReport(here, sent=3), remote=PathReport(there, sent=3))


def fixes(verdict: Verdict) -> list[list[tuple[FixCode, Where]]]:
    return [[(fix.code, fix.where) for fix in remedy.all_of] for remedy in verdict.fixes]


@pytest.mark.parametrize(
    ("situation", "cause"),
    [
        (replace(RELAYED, peer_known=False), Cause.PEER_GONE),
        (
            replace(RELAYED, rules_deployment=PathRules(DirectRule.NEVER, set_by="the deployment")),
            Cause.BLOCKED_BY_DEPLOYMENT,
        ),
        (replace(RELAYED, relay=RelayFacts(connected=False)), Cause.NO_RELAY_SIGNALLING),
        (
            replace(RELAYED, attempts=(Attempt(THERE, (), 9, 9, 0.01, 1338, "worse than the relay"),)),
            Cause.QUALITY_PREFERS_RELAY,
        ),
        (with_facts(replace(OURS, udp=False, captive_portal=True)), Cause.CAPTIVE_PORTAL),
        (replace(RELAYED, searching=3.0), Cause.STILL_SEARCHING),
        (replace(with_facts(there=replace(THEIRS, mapping_varies=True)), birthday=True), Cause.BIRTHDAY_RUNNING),
        (replace(RELAYED, remote=None, published=()), Cause.PEER_PUBLISHES_NOTHING),
        (replace(RELAYED, remote=None), Cause.PEER_IS_STOCK_UNKNOWN),
        (RELAYED, Cause.UDP_FILTERED_BETWEEN),
    ],
    ids=lambda value: value.value if isinstance(value, Cause) else "",
)
def test_the_cause_is(situation: Situation, cause: Cause) -> None:
    verdict = judge(situation)
    assert verdict.code is cause
    assert verdict.summary.startswith("relayed: ")
    assert verdict.fixes or verdict.next_step


def test_the_sentence_of_a_symmetric_nat_and_a_strict_firewall() -> None:
    verdict = judge(with_facts(here=replace(OURS, mapping_varies=True)))
    assert verdict.summary == (
        "relayed: your network gives each destination a different port (symmetric NAT) and the workspace's firewall "
        "drops UDP from unknown ports"
    )
    texts = [remedy.text for remedy in verdict.fixes]
    assert "open UDP 41641 on the workspace" in texts
    assert "enable UPnP, NAT-PMP or PCP on your router" in texts


def test_a_router_behind_another_is_not_proposed_for_port_mapping() -> None:
    behind_two = with_facts(here=replace(OURS, mapping_varies=True, nat_layers=2))
    assert [(FixCode.ENABLE_PORT_MAPPING, Where.HERE)] not in fixes(judge(behind_two))
    unknown = with_facts(here=replace(OURS, mapping_varies=True, nat_layers=0))
    assert [(FixCode.ENABLE_PORT_MAPPING, Where.HERE)] not in fixes(judge(unknown))


@pytest.mark.parametrize(
    ("whose", "text"),
    [
        (
            "the deployment's rule for alice/dev",
            "allow direct connections to this workspace (`coder path-rules alice/dev --direct auto`)",
        ),
        (
            "the deployment",
            "allow direct connections (the deployment's rule, --block-direct-connections of its server)",
        ),
    ],
)
def test_a_rule_of_the_server_is_one_change(whose: str, text: str) -> None:
    """It forbids at both ends, and it is named once, with what to do about it."""
    known = replace(RELAYED, local=PathReport(OURS), rules_deployment=PathRules(DirectRule.NEVER, set_by=whose))
    verdict = judge(replace(known, remote=PathReport(replace(THEIRS, direct_allowed=False, direct_rule=whose))))
    assert [[fix.text for fix in remedy.all_of if fix.code is FixCode.ALLOW_DIRECT] for remedy in verdict.fixes] == [
        [text] for _ in verdict.fixes
    ]
    own_wish = replace(known, remote=PathReport(replace(THEIRS, direct_allowed=False, direct_rule="[network]")))
    assert (FixCode.ALLOW_DIRECT, Where.THERE) in fixes(judge(own_wish))[0]


def test_what_is_not_known_is_not_promised_away() -> None:
    """How the NAT behaves shows only when UDP passes: opening the firewall alone may not be enough."""
    verdict = judge(with_facts(here=NatFacts(udp=False, mtu=1500)))
    assert verdict.code is Cause.UDP_BLOCKED_HERE
    assert all(len(remedy.all_of) > 1 for remedy in verdict.fixes)
    assert verdict.next_step.startswith("first allow outgoing UDP in your network")


def test_pings_that_arrived_prove_more_than_silent_stun_servers() -> None:
    quiet = replace(THEIRS, udp=False)
    situation = replace(RELAYED, remote=PathReport(quiet, sent=3, seen=2, seen_from=(HERE,)))
    assert judge(situation).code is not Cause.UDP_BLOCKED_THERE


def test_lesser_causes_stand_beside_the_primary_one() -> None:
    hard = replace(OURS, mapping_varies=True, mtu=1280)
    verdict = judge(with_facts(here=hard, there=replace(THEIRS, mapping_varies=True)))
    assert (verdict.code, verdict.also) == (Cause.LOW_MTU_HERE, (Cause.HARD_NAT_BOTH,))


def test_every_attempt_and_both_networks_are_in_the_evidence() -> None:
    texts = [one.text for one in judge(RELAYED).evidence]
    assert any(text.startswith("your network: UDP works; all destinations see the same port") for text in texts)
    assert any(text.startswith("the workspace's network: ") for text in texts)
    assert "tried 203.0.113.1:2222 (named by coordinator): 3 pings, 0 answered: no answer" in texts
    assert "you sent 3 pings over UDP: 0 answered, 0 arrived" in texts


def test_a_wish_of_this_end_is_not_called_the_deployments() -> None:
    wish = PathRules(DirectRule.NEVER, set_by="--disable-direct-connections")
    evidence = judge(replace(RELAYED, rules_here=wish)).evidence
    assert [one.where for one in evidence if one.text == f"{wish.set_by}: direct connections never"] == [Where.HERE]


def test_a_hundred_attempts_are_not_a_hundred_lines() -> None:
    many = tuple(replace(TRIED, addr=AddrPort("203.0.113.1", port)) for port in range(1, 101))
    lines = [one for one in judge(replace(RELAYED, attempts=many)).evidence if "tried" in one.text]
    assert len(lines) == 13
    assert lines[-1].text == "88 more addresses tried: 264 pings sent"


def test_a_stock_peer_with_many_ports_at_one_address_has_a_symmetric_nat() -> None:
    endpoints = (THERE, AddrPort(THERE.host, 3333), AddrPort("192.168.2.10", 2222))
    situation = replace(with_facts(here=replace(OURS, mapping_varies=True)), remote=None, published=endpoints)
    assert judge(situation).code is Cause.HARD_NAT_BOTH


@pytest.mark.parametrize(
    ("addr", "changes", "cause"),
    [
        ("192.168.1.20:5", {}, Cause.DIRECT_LAN),
        ("[2001:db8::5]:5", {}, Cause.DIRECT_IPV6),
        ("203.0.113.9:5", {"own": (HERE, AddrPort("203.0.113.9", 1111), AddrPort("10.0.0.1", 1))}, Cause.DIRECT_LAN),
        ("198.51.100.1:5", {}, Cause.DIRECT_PUNCHED),  # our NAT's outside: another guest of it, by hairpinning
        ("203.0.113.1:2222", {}, Cause.DIRECT_PUNCHED),
        ("203.0.113.1:2222", {"socket": 7}, Cause.DIRECT_BIRTHDAY),
        ("203.0.113.1:2222", {"published": (THERE,)}, Cause.DIRECT_PUBLIC),
        (
            "203.0.113.1:2222",
            {"remote": PathReport(replace(THEIRS, port_mapped=True))},
            Cause.DIRECT_PORT_MAPPED,
        ),
    ],
    ids=["lan", "ipv6", "same machine", "hairpin", "punched", "birthday", "public", "port mapped"],
)
def test_the_means_of_a_direct_path(addr: str, changes: dict[str, object], cause: Cause) -> None:
    direct = replace(RELAYED, kind=PathKind.DIRECT, addr=AddrPort.parse(addr))
    verdict = judge(replace(direct, **changes))  # type: ignore[arg-type]
    assert (verdict.code, verdict.fixes) == (cause, ())
    assert verdict.summary.startswith("direct: ")
