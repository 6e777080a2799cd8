"""What a check's findings mean: history, home, words, and Coder's document. All pure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from coder_agent_nat_traversal.history import LatencyHistory
from coder_agent_nat_traversal.netcheck import text
from coder_agent_nat_traversal.netcheck.document import client_report, go_duration
from coder_agent_nat_traversal.netcheck.interface import Interface
from coder_agent_nat_traversal.netcheck.report import (
    NetcheckReport,
    NodeReport,
    RelayCheck,
    preferred_region,
)

from coder_agent.base.addresses import AddrPort
from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion
from coder_agent.base.nat_facts import NatFacts

US = AddrPort("203.0.113.7", 41641)
RELAY = DerpNode("999b", 999, "relay.example")
STUN = DerpNode("1000stun0", 1000, "stun.example", stun_only=True)
MAP = DerpMap(
    {
        999: DerpRegion(999, "coder", "Embedded", (RELAY,), embedded_relay=True),
        1000: DerpRegion(1000, "coder_stun_1000", "Coder STUN 1000", (STUN,)),
    }
)
ETH = Interface("eth0", 1500, ("192.168.1.5/24",), used=True)
HEALTHY = NetcheckReport(
    facts=NatFacts(
        udp=True, ipv4=True, ipv6=False, mapping_varies=False, public_v4=US, gateway_asked=True,
        port_mapping=frozenset({"pmp", "upnp"}), captive_portal=False, mtu=1500,
    ),
    ipv4_can_send=True,
    home=999,
    nodes=(
        NodeReport(RELAY, v4=0.012, relay=RelayCheck(0.015, exchanged=True, round_trip=0.0125)),
        NodeReport(STUN, v4=0.020),
    ),
    seen={US: 2},
    interfaces=(ETH,),
    derp_map=MAP,
)  # fmt: skip
BLOCKED = replace(
    HEALTHY,
    facts=NatFacts(udp=False, ipv4=False),
    home=0,
    nodes=(
        NodeReport(RELAY, stun_error="no answer over UDP from relay.example:3478",
                   relay=RelayCheck(error="relay.example:443 does not answer within 1.5 s", hint="check the firewall")),
        NodeReport(STUN, stun_error="no answer over UDP from stun.example:3478"),
    ),
    seen={},
)  # fmt: skip


def words(report: NetcheckReport) -> dict[str, str]:
    return dict(text.checks(report))


def test_a_healthy_network_in_words() -> None:
    said = words(HEALTHY)
    assert said["UDP"] == "works"
    assert said["IPv4"] == "works; seen from outside as 203.0.113.7:41641"
    assert said["IPv6"] == "this machine has no such address"
    assert said["NAT"].startswith("easy")
    assert said["port mapping"] == "NAT-PMP, UPnP"
    assert said["home relay"] == "Embedded (12ms)"
    assert list(text.warnings(HEALTHY)) == []
    assert text.region_rows(HEALTHY) == [
        ("Embedded (999)", "12ms", "-", "15ms (HTTPS)", "home", ""),
        ("Coder STUN 1000 (1000)", "20ms", "-", "STUN only", "", ""),
    ]


def test_a_network_that_lets_nothing_through_says_so_and_why() -> None:
    assert words(BLOCKED)["UDP"].startswith("blocked")
    assert not BLOCKED.reachable
    assert next(text.warnings(BLOCKED)).startswith("nothing answers")
    (row, _) = text.region_rows(BLOCKED)
    assert row[3] == "no"
    assert row[5] == "relay.example:443 does not answer within 1.5 s (check the firewall)"


@pytest.mark.parametrize(
    ("facts", "starts"),
    [
        pytest.param(NatFacts(), "not known", id="unknown"),
        pytest.param(NatFacts(mapping_varies=True), "hard (symmetric)", id="random"),
        pytest.param(NatFacts(mapping_varies=True, port_step=-2), "hard", id="counts"),
        pytest.param(NatFacts(mapping_varies=False, public_v4=AddrPort("192.168.1.5", 9)), "none for IPv4", id="open"),
    ],
)  # fmt: skip
def test_the_kind_of_nat_in_words(facts: NatFacts, starts: str) -> None:
    said = text.nat(replace(HEALTHY, facts=facts))
    assert said.startswith(starts)
    assert ("2 apart" in said) == (facts.port_step == -2)


def test_each_trouble_is_named_with_what_to_do() -> None:
    report = replace(
        HEALTHY,
        facts=replace(HEALTHY.facts, udp=False, mapping_varies=True, captive_portal=True),
        interfaces=(ETH, Interface("wg0", 1280, ("10.9.0.1/24",))),
        dropped={"stun-private-address": 3},
    )
    warnings = list(text.warnings(report))
    for start in ("UDP is blocked", "hard NAT", "a captive portal", "interface wg0 has an MTU of 1280", "some STUN"):
        assert any(warning.startswith(start) for warning in warnings), start


def test_coders_document_of_a_healthy_network() -> None:
    document = json.loads(json.dumps(client_report(HEALTHY)))
    derp = document["derp"]
    assert (derp["healthy"], derp["severity"], derp["warnings"]) == (True, "ok", [])
    (node,) = derp["regions"]["999"]["node_reports"]
    assert node["can_exchange_messages"] is True
    assert (node["round_trip_ping"], node["round_trip_ping_ms"]) == ("12.5ms", 12)
    assert node["stun"] == {"Enabled": True, "CanSTUN": True, "Error": None}
    assert derp["regions"]["999"]["region"]["EmbeddedRelay"] is True
    netcheck = derp["netcheck"]
    assert netcheck["RegionV4Latency"] == {"999": 12_000_000, "1000": 20_000_000}
    assert netcheck["PreferredDERP"] == 999
    assert (netcheck["UPnP"], netcheck["PMP"], netcheck["PCP"]) == (True, True, False)
    assert netcheck["GlobalV4"] == "203.0.113.7:41641"
    assert netcheck["GlobalV4Counters"] == {"203.0.113.7:41641": 2}
    assert document["interfaces"]["interfaces"] == [{"name": "eth0", "mtu": 1500, "addresses": ["192.168.1.5/24"]}]


def test_coders_document_of_a_network_that_lets_nothing_through() -> None:
    derp = client_report(BLOCKED)["derp"]
    assert (derp["healthy"], derp["severity"]) == (False, "error")
    (node,) = derp["regions"]["999"]["node_reports"]
    assert node["error"] == "relay.example:443 does not answer within 1.5 s (check the firewall)"
    assert {w["code"] for w in derp["warnings"]} == {"EDERP02", "ESTUN01"}
    assert node["stun"]["Error"] == "no answer over UDP from relay.example:3478"
    assert derp["netcheck"]["UDP"] is False
    assert derp["netcheck"]["MappingVariesByDestIP"] is None


@pytest.mark.parametrize(
    ("facts", "code"),
    [pytest.param(NatFacts(mapping_varies=True), "ESTUN02", id="hard"), pytest.param(NatFacts(), None, id="easy")],
)
def test_coders_document_has_coders_codes(facts: NatFacts, code: str | None) -> None:
    codes = [w["code"] for w in client_report(replace(HEALTHY, facts=facts))["derp"]["warnings"]]
    assert codes == ([code] if code else [])
    small = client_report(replace(HEALTHY, interfaces=(Interface("tun9", 1280, ("10.1.1.1/8",)),)))["interfaces"]
    assert (small["severity"], [w["code"] for w in small["warnings"]]) == ("warning", ["EIF01"])


def test_a_map_without_stun_has_its_own_code() -> None:
    node = replace(RELAY, stun_port=-1)
    report = NetcheckReport(
        nodes=(NodeReport(node, relay=RelayCheck(0.01, exchanged=True)),),
        derp_map=DerpMap({999: DerpRegion(999, nodes=(node,))}),
    )
    assert [w["code"] for w in client_report(report)["derp"]["warnings"]] == ["ESTUN01"]
    assert words(report)["UDP"].startswith("not checked")


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, "0s"), (1.5, "1.5s"), (0.0125, "12.5ms"), (12e-6, "12µs")])
def test_durations_as_go_prints_them(seconds: float, shown: str) -> None:
    assert go_duration(seconds) == shown


def test_one_slow_answer_moves_no_home_but_five_minutes_of_them_do() -> None:
    history = LatencyHistory()
    assert history.best(1, "v4", 0.020, 0.0) == 0.020
    assert history.best(1, "v4", 0.500, 23.0) == 0.020
    assert history.best(1, "v6", 0.500, 23.0) == 0.500  # another family
    assert history.best(1, "v4", 0.400, 305.0) == 0.020
    assert history.best(1, "v4", 0.450, 305.1) == 0.400
    assert history.best(1, "v4", 0.010, 306.0) == 0.010
    assert history.best(1, "v4", 0.600, 200.0) == 0.600  # the clock went back: what it noted counts no more
    history.keep([2])
    assert history.best(1, "v4", 0.700, 307.0) == 0.700


def test_the_history_stays_small() -> None:
    history = LatencyHistory()
    for step in range(10_000):
        history.best(1, "v4", 0.001 + step * 1e-6, float(step))
    assert len(history._samples[1, "v4"]) <= 306


def test_the_preferred_region_is_the_nearest_that_may_be_one() -> None:
    regions = {number: DerpRegion(number, nodes=(DerpNode("x", number, "x"),)) for number in (1, 2, 3)}
    regions[3] = replace(regions[3], avoid=True)
    derp_map = DerpMap({**regions, 1000: MAP.regions[1000]}, {1: 0.5})
    assert preferred_region(derp_map, {1: 0.030, 2: 0.020, 3: 0.001, 1000: 0.001}) == 1  # by its score
    assert preferred_region(derp_map, {2: 0.020, 3: 0.001}) == 2
    assert preferred_region(derp_map, {}) == 0
