"""A report leads back to a network with the same verdict, and a redacted one names nobody."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import PathKind
from coder_agent.errors import RemoteProtocolError
from coder_agent.testing.lab.generated import generated
from coder_agent.testing.lab.judging import search, situation_of
from coder_agent.testing.lab.replay import replayed
from coder_agent.testing.lab.topology import Topology
from coder_agent.verdict.causes import Cause
from coder_agent.verdict.judge import judge
from coder_agent.verdict.report_file import judge_report, redact, report_document, situation_of_report
from coder_agent.verdict.situation import Attempt, Region, RelayFacts, Situation, Verdict

CHUNKS, PER_CHUNK = 4, 60
HEALTHY = NatFacts(
    udp=True,
    ipv4=True,
    ipv6=False,
    mapping_varies=False,
    public_v4=AddrPort("192.0.2.50", 5),
    nat_layers=1,
    mtu=1500,
)


@cache
def situation(seed: int) -> Situation:
    _, a, b = search(generated(seed), seed)
    return situation_of(a, b)


def verdict_in(topology: Topology) -> Verdict:
    _, a, b = search(topology)
    return judge(situation_of(a, b))


def promises(verdict: Verdict) -> set[frozenset[tuple[str, str]]]:
    return {frozenset((fix.code.value, fix.where.value) for fix in remedy.all_of) for remedy in verdict.fixes}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_replayed_report_of_a_network_has_its_verdict(chunk: int) -> None:
    """Cause and fixes, from the redacted file as JSON, in 95 of 100."""
    wrong = []
    for seed in range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK):
        text = json.dumps(report_document(situation(seed), made_by="a test"))
        before, after = judge(situation(seed)), verdict_in(replayed(situation_of_report(json.loads(text))))
        if after.code is not before.code or promises(after) != promises(before):
            wrong.append(f"{seed}: {after.code} {promises(after)}, was {before.code} {promises(before)}")
    assert len(wrong) <= PER_CHUNK * 0.05, "\n".join(wrong)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_redacted_report_of_a_network_holds_no_address_of_it(chunk: int) -> None:
    for seed in range(chunk * PER_CHUNK, (chunk + 1) * PER_CHUNK):
        topology = generated(seed)
        hosts = {address for host in topology.hosts for address in host.addresses}
        hosts |= {router.address for router in topology.routers}
        text = json.dumps(report_document(situation(seed), made_by="a test"))
        assert set(re.findall(r"[0-9a-f.:]{7,}", text.replace("]:", "] ").replace("[", " "))).isdisjoint(hosts)
        assert not any(re.search(rf"(?<![\d.]){re.escape(host)}(?![\d.])", text) for host in hosts if ":" not in host)


def test_names_and_foreign_words_do_not_pass() -> None:
    told = Situation(
        local=PathReport(NatFacts(direct_rule="workspace secret-project")),
        attempts=(Attempt(AddrPort("192.0.2.99", 4), ("mole",), 1, 0, None, 0, "not allowed by alice"),),
        relay=RelayFacts(regions=(Region(7, "Relay of ACME"),)),
        rules_here=PathRules(DirectRule.NEVER, set_by="--disable-direct-connections"),
        rules_deployment=PathRules(set_by="the deployment acme.example"),
    )
    text = json.dumps(report_document(told, made_by="a test"))
    assert not re.search("secret|alice|mole|ACME|acme|192.0.2.99", text)
    assert "--disable-direct-connections" in text


@given(st.lists(st.ip_addresses().map(str), max_size=40))
def test_placeholders_keep_class_and_identity(hosts: list[str]) -> None:
    told = Situation(published=tuple(AddrPort.of(host, 7) for host in hosts))
    found = [addr.host for addr in redact(told).published]
    assert len(set(found)) == len({addr.host for addr in told.published})
    assert set(found).isdisjoint(addr.host for addr in told.published)
    assert [":" in one for one in found] == [addr.is_ipv6 for addr in told.published]


def test_an_unredacted_report_is_the_situation() -> None:
    told = Situation(kind=PathKind.RELAYED, published=(AddrPort("192.0.2.99", 4),))
    assert situation_of_report(json.loads(json.dumps(report_document(told, made_by="x", redacted=False)))) == told


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        (NatFacts(udp=False, mtu=1500), Cause.UDP_BLOCKED_HERE),
        (NatFacts(udp=True, ipv4=True, mapping_varies=False, mtu=1280, nat_layers=1), Cause.LOW_MTU_HERE),
        (NatFacts(direct_allowed=False, direct_rule="--disable-direct-connections"), Cause.BLOCKED_BY_RULE_HERE),
        (HEALTHY, Cause.DIRECT_PUNCHED),
        (replace(HEALTHY, mapping_varies=True), Cause.HARD_NAT_HERE_STRICT_THERE),
    ],
    ids=["udp blocked", "low mtu", "rule", "healthy", "symmetric"],
)
def test_the_report_of_one_end_alone_is_replayed_against_an_ordinary_peer(facts: NatFacts, cause: Cause) -> None:
    alone = Situation(local=PathReport(facts), own=(AddrPort("192.168.7.7", 41641),))
    assert judge_report(alone).code is cause
    assert verdict_in(replayed(alone)).code is cause


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "no network report"),
        ({"format": "coder-network-report", "version": 2}, "version 2"),
        ({"format": "coder-network-report", "version": 1}, "report.situation must be a JSON object"),
        (
            {"format": "coder-network-report", "version": 1, "situation": {"kind": "magic"}},
            "kind must be one of direct",
        ),
    ],
)
def test_what_is_no_report_is_refused(document: object, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        situation_of_report(document)
