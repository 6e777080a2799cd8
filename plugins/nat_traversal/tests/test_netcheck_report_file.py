"""The file of `coder netcheck --report`: what is in it, and what a redacted one must not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from coder_agent_nat_traversal.netcheck.interface import Interface
from coder_agent_nat_traversal.netcheck.report import NetcheckReport, NodeReport, RelayCheck
from coder_agent_nat_traversal.netcheck.report_file import write_report

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.nat_facts import NatFacts
from coder_agent.errors import ConfigError
from coder_agent.verdict.report_file import situation_of_report

NODE = DerpNode("9a", 9, "relay.secret-company.example")
REPORT = NetcheckReport(
    facts=NatFacts(udp=True, ipv4=True, mapping_varies=True, port_step=1, public_v4=AddrPort("198.51.100.7", 4000)),
    home=9,
    nodes=(NodeReport(NODE, v4=0.012, relay=RelayCheck(0.014, exchanged=True)),),
    interfaces=(Interface("eth0", 1400, ("192.168.1.5/24", "fe80::1/64")),),
    derp_map=DerpMap({9: DerpRegion(9, "secret", "Secret Company", (NODE,))}),
)


def test_a_report_holds_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(REPORT, path, redacted=False)
    situation = situation_of_report(json.loads(path.read_text("utf-8")))
    assert situation.local.facts == REPORT.facts
    assert situation.own == (AddrPort("198.51.100.7", 4000), AddrPort("192.168.1.5", 4000))
    assert [(r.id, r.name, r.latency) for r in situation.relay.regions] == [(9, "Secret Company", 0.012)]
    assert (situation.relay.home_here, situation.relay.has_stun, situation.relay.connected) == (9, True, True)


def test_a_redacted_report_holds_no_address_and_no_name(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report(REPORT, path, redacted=True)
    text = path.read_text("utf-8")
    for secret in ("198.51.100", "192.168.1.5", "ecret", "relay."):
        assert secret not in text
    facts = situation_of_report(json.loads(text)).local.facts
    assert (facts.mapping_varies, facts.port_step, facts.udp) == (True, 1, True)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the report"):
        write_report(REPORT, tmp_path / "no" / "report.json", redacted=False)
