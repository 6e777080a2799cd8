"""Verdicts and situations survive JSON; what a stranger wrote is refused with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coder_agent.base.addresses import AddrPort
from coder_agent.base.nat_facts import NatFacts, PathReport
from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.paths import PathKind
from coder_agent.errors import RemoteProtocolError
from coder_agent.verdict.causes import Cause
from coder_agent.verdict.document import (
    from_document,
    report_from_document,
    report_to_document,
    situation_from_document,
    situation_to_document,
    to_document,
)
from coder_agent.verdict.fixes import Fix, FixCode, Remedy, Where
from coder_agent.verdict.situation import Attempt, Evidence, Region, RelayFacts, Situation, Verdict

texts = st.text(max_size=20)
maybe = st.none() | st.booleans()
counts = st.integers(0, 1 << 31)
seconds = st.none() | st.floats(0, 1e4)
addrs = st.builds(AddrPort.of, st.ip_addresses(), st.integers(0, 65535))
facts = st.builds(
    NatFacts,
    udp=maybe,
    ipv4=maybe,
    ipv6=maybe,
    mapping_varies=maybe,
    port_step=counts,
    public_v4=st.none() | addrs,
    public_v6=st.none() | addrs,
    port_mapping=st.frozensets(st.sampled_from(["pmp", "pcp", "upnp"])),
    port_mapped=maybe,
    gateway_asked=maybe,
    captive_portal=maybe,
    mtu=counts,
    direct_allowed=maybe,
    direct_rule=texts,
    listen_port=counts,
    nat_layers=counts,
)
reports = st.builds(
    PathReport,
    facts=facts,
    sent=counts,
    answered=counts,
    seen=counts,
    tried=st.tuples(addrs),
    seen_from=st.tuples(addrs),
    is_direct=st.booleans(),
    too_small=st.booleans(),
)
rules = st.builds(PathRules, direct=st.sampled_from(DirectRule), prefer_region=counts, ipv6=st.booleans(), set_by=texts)
situations = st.builds(
    Situation,
    local=reports,
    remote=st.none() | reports,
    kind=st.sampled_from(PathKind),
    addr=st.none() | addrs,
    socket=counts,
    region=counts,
    latency=seconds,
    wire_mtu=counts,
    attempts=st.lists(
        st.builds(Attempt, addr=addrs, sources=st.tuples(texts), sent=counts, latency=seconds, trouble=texts),
        max_size=3,
    ).map(tuple),
    published=st.tuples(addrs),
    own=st.tuples(addrs),
    relay=st.builds(
        RelayFacts,
        has_stun=st.booleans(),
        regions=st.tuples(st.builds(Region, id=counts, name=texts, latency=seconds)),
        connected=maybe,
    ),
    rules_here=rules,
    rules_there=rules,
    rules_deployment=rules,
    searching=seconds,
    birthday=st.booleans(),
    peer_known=st.booleans(),
)
verdicts = st.builds(
    Verdict,
    code=st.sampled_from(Cause),
    kind=st.sampled_from(PathKind),
    summary=texts,
    evidence=st.tuples(st.builds(Evidence, where=st.sampled_from(Where), text=texts)),
    also=st.tuples(st.sampled_from(Cause)),
    fixes=st.tuples(
        st.builds(
            Remedy,
            st.lists(
                st.builds(Fix, code=st.sampled_from(FixCode), where=st.sampled_from(Where), text=texts), max_size=2
            ).map(tuple),
        )
    ),
    next_step=texts,
)


@settings(max_examples=50)
@given(situations)
def test_a_situation_survives_json(situation: Situation) -> None:
    assert situation_from_document(json.loads(json.dumps(situation_to_document(situation)))) == situation


@settings(max_examples=50)
@given(verdicts)
def test_a_verdict_survives_json(verdict: Verdict) -> None:
    assert from_document(json.loads(json.dumps(to_document(verdict)))) == verdict


def test_fields_of_the_future_are_ignored_and_absent_ones_have_defaults() -> None:
    assert report_from_document({"sent": 3, "colour": "red"}) == PathReport(sent=3)
    assert situation_from_document({}) == Situation()


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "report must be a JSON object"),
        ({"sent": "3"}, "report: sent must be a whole number"),
        ({"sent": True}, "report: sent must be a whole number"),
        ({"sent": 1 << 60}, "report: sent must be a whole number"),
        ({"tried": ["nowhere"]}, "must be an endpoint"),
        ({"tried": ["1.2.3.4:5"] * 257}, "report: tried must be a list of at most 256 items"),
        ({"facts": {"udp": 1}}, "report.facts: udp must be true, false or null"),
        ({"facts": {"direct_rule": "x" * 1001}}, "report.facts: direct_rule must be a text"),
        ({"facts": {"port_mapping": [{}]}}, "must be a text"),
    ],
)
def test_what_is_no_report_is_refused_with_its_place(document: object, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match="^" + ".*" + complaint.replace("[", r"\[")):
        report_from_document(document)


def test_an_unknown_code_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="code must be one of direct_lan"):
        from_document({"code": "moon_phase"})


def test_the_document_of_a_report_is_plain_json() -> None:
    report = PathReport(
        facts=NatFacts(udp=True, public_v4=AddrPort("198.51.100.7", 41641), port_mapping=frozenset(["upnp", "pcp"])),
        seen_from=(AddrPort("2001:db8::1", 7),),
    )
    document = report_to_document(report)
    assert document["seen_from"] == ["[2001:db8::1]:7"]
    facts = document["facts"]
    assert isinstance(facts, dict)
    assert (facts["public_v4"], facts["port_mapping"]) == ("198.51.100.7:41641", ["pcp", "upnp"])
