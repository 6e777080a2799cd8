"""The relay map: both dialects in and out, sentences about what is wrong, merging, and each viewer's own address."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder_agent.base.derp_map import DerpMap, DerpNode, DerpRegion, merge, rewrite_embedded
from coder_agent.base.derp_map_json import from_json, to_json
from coder_agent.base.derp_map_rules import validate
from coder_agent.errors import RemoteProtocolError

SAMPLE = """{
  "HomeParams": {"RegionScore": {"901": 0.9}},
  "Regions": {
    "901": {"RegionID": 901, "RegionCode": "lab", "RegionName": "Lab rack",
      "Nodes": [
        {"Name": "901a", "RegionID": 901, "HostName": "relay-a.lab.example", "IPv4": "192.0.2.10", "IPv6": "none",
         "CanPort80": true},
        {"Name": "901s", "RegionID": 901, "HostName": "stun.lab.example", "STUNOnly": true, "STUNPort": 3479}]},
    "902": {"RegionID": 902, "RegionCode": "ip", "RegionName": "Self-signed by IP", "NoMeasureNoHome": true,
      "Nodes": [
        {"Name": "902a", "RegionID": 902, "HostName": "198.51.100.4",
         "CertName": "sha256-raw:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
         "DERPPort": 8443, "STUNPort": -1}]}
  },
  "omitDefaultRegions": true
}"""

NODE = DerpNode("1a", 1, "relay.example")
REGION = DerpRegion(1, "one", "One", (NODE,))


def test_the_sample_reads_is_valid_and_comes_back() -> None:
    derp_map = from_json(json.loads(SAMPLE))
    assert validate(derp_map) == []
    assert derp_map.region_score == {901: 0.9}
    assert derp_map.omit_default_regions
    node = derp_map.regions[902].nodes[0]
    assert (node.derp_port, node.stun_port, node.cert_name[:11]) == (8443, -1, "sha256-raw:")
    assert derp_map.regions[901].nodes[1].stun_only
    assert from_json(json.loads(json.dumps(to_json(derp_map)))) == derp_map


def test_names_in_any_case_null_regions_and_unknown_fields() -> None:
    document = {"regions": {"7": {"regionid": 7, "NODES": [{"name": "7a", "hostName": "h"}], "new": 1}, "8": None}}
    derp_map = from_json(document)
    assert derp_map.regions == {7: DerpRegion(7, nodes=(DerpNode("7a", 0, "h"),))}


def test_coders_dialect_is_written() -> None:
    region = DerpRegion(999, "coder", "Coder", (DerpNode("999b", 999, "h", force_http=True),), embedded_relay=True)
    assert to_json(DerpMap({999: region})) == {
        "Regions": {
            "999": {
                "EmbeddedRelay": True,
                "RegionID": 999,
                "RegionCode": "coder",
                "RegionName": "Coder",
                "Nodes": [{"Name": "999b", "RegionID": 999, "HostName": "h", "ForceHTTP": True}],
            }
        }
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the relay map must be a JSON object"),
        ({"Regions": []}, "Regions must be a JSON object"),
        ({"Regions": {"x": {}}}, "decimal digits"),
        ({"Regions": {"1": 5}}, "region '1' must be a JSON object"),
        ({"Regions": {"1": {"RegionID": "1"}}}, "region '1': RegionID must be a whole number"),
        ({"Regions": {"1": {"Nodes": {}}}}, "Nodes must be a list"),
        ({"Regions": {"1": {"Nodes": [{"Name": 5}]}}}, "region '1', node 1: Name must be a string"),
        ({"Regions": {"1": {"Avoid": 1}}}, "Avoid must be true or false"),
        ({"Regions": {"1": {"Latitude": "x"}}}, "Latitude must be a number"),
    ],
)
def test_wrong_types_are_named(document: object, words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        from_json(document)


names = st.text(max_size=8)
nodes = st.builds(
    DerpNode, names, st.integers(1, 9), names, names, names, names, st.integers(-1, 65535), st.booleans(),
    st.integers(0, 65535), st.booleans(), st.booleans(), names, st.booleans(),
)  # fmt: skip
regions = st.builds(
    DerpRegion, st.integers(1, 99), names, names, st.lists(nodes, max_size=3).map(tuple), st.booleans(), st.booleans(),
    st.booleans(), st.floats(-90, 90), st.floats(-180, 180),
)  # fmt: skip
maps = st.builds(
    DerpMap,
    st.lists(regions, max_size=3).map(lambda found: {region.region_id: region for region in found}),
    st.dictionaries(st.integers(1, 99), st.floats(0.1, 10), max_size=3),
    st.booleans(),
)


@given(maps)
def test_json_round_trip(derp_map: DerpMap) -> None:
    assert from_json(json.loads(json.dumps(to_json(derp_map)))) == derp_map


@pytest.mark.parametrize(
    ("region", "severity", "words"),
    [
        (replace(REGION, region_id=2), "error", "calls itself 2"),
        (replace(REGION, nodes=()), "warning", "no nodes"),
        (replace(REGION, nodes=(replace(NODE, name=""),)), "error", "no Name"),
        (replace(REGION, nodes=(replace(NODE, region_id=3),)), "error", "belongs to region 3"),
        (replace(REGION, nodes=(replace(NODE, host_name=""),)), "error", "no HostName"),
        (replace(REGION, nodes=(replace(NODE, derp_port=70000),)), "error", "DERPPort 70000"),
        (replace(REGION, nodes=(replace(NODE, stun_port=-2),)), "error", "STUNPort -2"),
        (replace(REGION, nodes=(replace(NODE, stun_only=True, stun_port=-1),)), "error", "does nothing"),
        (replace(REGION, nodes=(replace(NODE, cert_name="sha256-raw:12"),)), "error", "64 lower-case hex"),
        (replace(REGION, nodes=(replace(NODE, ipv4="::1"),)), "warning", "no IPv4 address"),
        (replace(REGION, nodes=(replace(NODE, ipv4="none", ipv6="none"),)), "error", "cannot be dialled"),
        (replace(REGION, nodes=(NODE, NODE)), "error", "used twice"),
        (replace(REGION, avoid=True), "warning", "no region can be a home"),
        (replace(REGION, nodes=(replace(NODE, stun_only=True),)), "warning", "no region can be a home"),
    ],
)
def test_problems_are_sentences(region: DerpRegion, severity: str, words: str) -> None:
    found = validate(DerpMap({1: region}))
    assert any(problem.severity == severity and words in problem.message for problem in found), found


def test_ids_and_scores_out_of_place() -> None:
    found = validate(DerpMap({70000: replace(REGION, region_id=70000, nodes=())}, {5: 1.0}))
    assert any("ids go from 1 to 65535" in problem.message for problem in found)
    assert any("RegionScore names region 5" in str(problem) for problem in found)


def test_merge_joins_and_refuses_a_clash() -> None:
    other = DerpRegion(2, "two", "Two")
    assert merge(DerpMap({1: REGION}), DerpMap({2: other}, {2: 0.5}, True)) == DerpMap(
        {1: REGION, 2: other}, {2: 0.5}, True
    )
    with pytest.raises(ValueError, match="region 1 exists twice: 'One' and 'Uno'"):
        merge(DerpMap({1: REGION}), DerpMap({1: replace(REGION, region_name="Uno")}))


@pytest.mark.parametrize(
    ("scheme", "port", "expected"),
    [
        ("https", None, (443, False)),
        ("http", None, (80, True)),
        ("http", 3000, (3000, True)),
        ("https", 8443, (8443, False)),
    ],
)
def test_the_embedded_relay_is_where_the_viewer_found_the_server(
    scheme: str, port: int | None, expected: tuple[int, bool]
) -> None:
    stun = DerpNode("999s", 999, "stun.example", stun_only=True)
    relay = DerpNode("999b", 999, "internal", cert_name="x", ipv4="10.0.0.1", stun_port=3478)
    embedded = DerpRegion(999, "coder", "Coder", (relay, stun), embedded_relay=True)
    seen = rewrite_embedded(DerpMap({1: REGION, 999: embedded}), scheme, "coder.example", port)
    node = seen.regions[999].nodes[0]
    assert (node.host_name, node.derp_port, node.force_http) == ("coder.example", *expected)
    assert (node.cert_name, node.ipv4, node.stun_port) == ("", "", 3478)
    assert seen.regions[999].nodes[1] == stun
    assert seen.regions[1] == REGION
