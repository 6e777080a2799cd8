"""The relay map as JSON, in Tailscale's and in Coder's dialect of it.

Written with Go's field names; read as Go reads: names in any case, unknown ones ignored. Region keys are decimal
strings; a region that is null (deleted by a delta) is left out.

Source: tailscale tailcfg/derpmap.go @de9ec7ee, coder/tailscale tailcfg/derpmap.go
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from ..errors import RemoteProtocolError
from .derp_map import DerpMap, DerpNode, DerpRegion

Value = TypeVar("Value", str, bool)


def to_json(derp_map: DerpMap) -> dict[str, object]:
    """The document for `json.dumps`. Fields that Go omits when empty are omitted."""
    document: dict[str, object] = {}
    if derp_map.region_score:
        scores = {str(region): score for region, score in sorted(derp_map.region_score.items())}
        document["HomeParams"] = {"RegionScore": scores}
    document["Regions"] = {str(key): _region_to_json(region) for key, region in sorted(derp_map.regions.items())}
    if derp_map.omit_default_regions:
        document["omitDefaultRegions"] = True
    return document


def _region_to_json(region: DerpRegion) -> dict[str, object]:
    document: dict[str, object] = {
        "EmbeddedRelay": region.embedded_relay,
        "RegionID": region.region_id,
        "RegionCode": region.region_code,
        "RegionName": region.region_name,
    }
    optional = {
        "Latitude": region.latitude,
        "Longitude": region.longitude,
        "Avoid": region.avoid,
        "NoMeasureNoHome": region.no_measure_no_home,
    }
    document |= {name: value for name, value in optional.items() if value}
    document["Nodes"] = [_node_to_json(node) for node in region.nodes]
    return document


def _node_to_json(node: DerpNode) -> dict[str, object]:
    document: dict[str, object] = {"Name": node.name, "RegionID": node.region_id, "HostName": node.host_name}
    optional = {
        "CertName": node.cert_name,
        "IPv4": node.ipv4,
        "IPv6": node.ipv6,
        "STUNPort": node.stun_port,
        "STUNOnly": node.stun_only,
        "DERPPort": node.derp_port,
        "InsecureForTests": node.insecure_for_tests,
        "ForceHTTP": node.force_http,
        "STUNTestIP": node.stun_test_ip,
        "CanPort80": node.can_port_80,
    }
    return document | {name: value for name, value in optional.items() if value}


def from_json(document: object) -> DerpMap:
    """Read a parsed JSON document. Raises RemoteProtocolError with the place of the first thing that has a wrong type.

    Whether the map makes sense is another question: `derp_map_rules.validate`.
    """
    top = _Fields(document, "the relay map")
    regions: dict[int, DerpRegion] = {}
    for key, value in top.mapping("Regions").items():
        where = f"region {key!r}"
        if value is not None:
            regions[_number_in(key, where)] = _region(_Fields(value, where))
    home = top.get("HomeParams")
    scores: dict[int, float] = {}
    if home is not None:
        for key, value in _Fields(home, "HomeParams").mapping("RegionScore").items():
            if isinstance(value, int | float) and math.isfinite(value) and value > 0:
                scores[_number_in(key, "HomeParams.RegionScore")] = float(value)
    return DerpMap(regions, scores, top.flag("omitDefaultRegions"))


def _region(fields: _Fields) -> DerpRegion:
    nodes = fields.get("Nodes")
    if nodes is not None and not isinstance(nodes, list):
        raise RemoteProtocolError(f"{fields.where}: Nodes must be a list")
    return DerpRegion(
        region_id=fields.number("RegionID"),
        region_code=fields.text("RegionCode"),
        region_name=fields.text("RegionName"),
        nodes=tuple(_node(_Fields(node, f"{fields.where}, node {i + 1}")) for i, node in enumerate(nodes or ())),
        embedded_relay=fields.flag("EmbeddedRelay"),
        avoid=fields.flag("Avoid"),
        no_measure_no_home=fields.flag("NoMeasureNoHome"),
        latitude=fields.real("Latitude"),
        longitude=fields.real("Longitude"),
    )


def _node(fields: _Fields) -> DerpNode:
    return DerpNode(
        name=fields.text("Name"),
        region_id=fields.number("RegionID"),
        host_name=fields.text("HostName"),
        cert_name=fields.text("CertName"),
        ipv4=fields.text("IPv4"),
        ipv6=fields.text("IPv6"),
        stun_port=fields.number("STUNPort"),
        stun_only=fields.flag("STUNOnly"),
        derp_port=fields.number("DERPPort"),
        insecure_for_tests=fields.flag("InsecureForTests"),
        force_http=fields.flag("ForceHTTP"),
        stun_test_ip=fields.text("STUNTestIP"),
        can_port_80=fields.flag("CanPort80"),
    )


class _Fields:
    """A JSON object, its names in any case; a missing or null field is zero, as in Go."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise RemoteProtocolError(f"{where} must be a JSON object")
        self.where = where
        self._fields = {str(name).lower(): item for name, item in value.items()}

    def get(self, name: str) -> object:
        return self._fields.get(name.lower())

    def text(self, name: str) -> str:
        return self._typed(name, str, "")

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, False)

    def number(self, name: str) -> int:
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise RemoteProtocolError(f"{self.where}: {name} must be a whole number")
        return value

    def real(self, name: str) -> float:
        value = self.get(name)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RemoteProtocolError(f"{self.where}: {name} must be a number")
        return float(value)

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise RemoteProtocolError(f"{self.where}: {name} must be a JSON object")
        return {str(key): item for key, item in value.items()}

    def _typed(self, name: str, kind: type[Value], default: Value) -> Value:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise RemoteProtocolError(f"{self.where}: {name} must be {'a string' if kind is str else 'true or false'}")
        return value


def _number_in(key: str, where: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) <= 16):
        raise RemoteProtocolError(f"{where}: the key must be a region id in decimal digits")
    return int(key)
