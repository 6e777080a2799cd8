"""A network check as `coder netcheck` has always printed it: ClientNetcheckReport, field by field. Pure.

Source: coder codersdk/healthsdk/{healthsdk,interfaces}.go, coderd/healthcheck/health/model.go (codes); netcheck's own
fields are Go's names in tailscale net/netcheck/netcheck.go, durations in nanoseconds.
"""

from __future__ import annotations

from typing import Any

from coder_agent.base.derp_map import DerpMap, DerpRegion
from coder_agent.base.derp_map_json import to_json
from coder_agent.base.nat_facts import SAFE_MTU

from ..plan import stun_port
from .report import NetcheckReport, NodeReport

Document = dict[str, Any]


def client_report(report: NetcheckReport) -> Document:
    """The whole document."""
    return {"derp": derp_document(report), "interfaces": _interfaces(report)}


def derp_document(report: NetcheckReport) -> Document:
    """Its part about relays and STUN: DERPHealthReport, which is also a section of a server's health report."""
    regions = {str(number): _region(report, number) for number in sorted(report.derp_map.regions)}
    warnings = [warning for region in regions.values() for warning in region["warnings"]]
    asked = [node for node in report.nodes if stun_port(node.node) is not None]
    if report.nodes and not any(_answers_stun(node) for node in asked):
        why = "none of them answers" if asked else "the relay map has none"
        warnings.append(
            _warning("ESTUN01", f"No STUN servers are available: {why}. Peers behind NAT are relayed without one.")
        )
    elif report.facts.mapping_varies:
        warnings.append(_warning("ESTUN02", "STUN returned different addresses; you may be behind a hard NAT."))
    healthy = bool(regions) and all(region["healthy"] for region in regions.values())
    return {
        **_base(healthy=healthy, warnings=warnings, error=None if regions else "the relay map has no regions"),
        "regions": regions,
        "netcheck": _netcheck(report),
        "netcheck_logs": [],
    }


def _region(report: NetcheckReport, number: int) -> Document:
    region = report.derp_map.regions[number]
    nodes = [_node(report, node) for node in report.of_region(number)]
    bad = [node for node in nodes if not node["healthy"]]
    warnings = [warning for node in nodes for warning in node["warnings"]]
    healthy = not bad
    error = "; ".join(node["error"] for node in bad if "error" in node) or None
    if bad and len(nodes) > 1 and len(bad) == 1:  # the others carry on
        healthy, name = True, bad[0]["node"]["Name"]
        message = f"Region {_title(region)} works, but its node {name} does not: {error}"
        warnings.append(_warning("EDERP02", message))
        error = None
    elif bad:
        warnings.append(_warning("EDERP02", f"Region {_title(region)} does not work: {error}"))
    described = to_json(DerpMap({number: region}))["Regions"]
    assert isinstance(described, dict)
    return {
        **_base(healthy=healthy, warnings=warnings, error=error),
        "region": described[str(number)],
        "node_reports": nodes,
    }


def _node(report: NetcheckReport, node: NodeReport) -> Document:
    relay, asked = node.relay, stun_port(node.node) is not None
    can_stun = _answers_stun(node)
    healthy = can_stun if relay is None else relay.exchanged
    warnings = []
    if relay is not None and relay.uses_websocket:
        warnings.append(_warning("EDERP01", relay.error or f"{node.node.host_name} is reached by WebSocket."))
    if relay is not None and asked and not can_stun and report.facts.udp:  # else it is all of them, and said once
        warnings.append(_warning("ESTUN01", f"{node.node.name} does not answer STUN: {node.stun_error}"))
    round_trip = relay.round_trip if relay is not None and relay.round_trip is not None else 0.0
    error = None if healthy else _failure(node)
    described = to_json(DerpMap({node.node.region_id: report.derp_map.regions[node.node.region_id]}))["Regions"]
    assert isinstance(described, dict)
    (plain,) = [n for n in described[str(node.node.region_id)]["Nodes"] if n["Name"] == node.node.name][:1]
    return {
        **_base(healthy=healthy, warnings=warnings, error=error),
        "node": plain,
        "node_info": {"TokenBucketBytesPerSecond": 0, "TokenBucketBytesBurst": 0},
        "can_exchange_messages": relay is not None and relay.exchanged,
        "round_trip_ping": go_duration(round_trip),
        "round_trip_ping_ms": int(round_trip * 1000),
        "uses_websocket": relay is not None and relay.uses_websocket,
        "client_logs": [list(lines) for lines in relay.logs] if relay is not None else [],
        "client_errs": [[error]] if error else [],
        "stun": {"Enabled": asked, "CanSTUN": can_stun, "Error": node.stun_error if asked and not can_stun else None},
    }


def _answers_stun(node: NodeReport) -> bool:
    return node.v4 is not None or node.v6 is not None


def _failure(node: NodeReport) -> str:
    relay = node.relay
    if relay is None or not relay.error:
        return node.stun_error or f"{node.node.host_name} was not reached"
    return f"{relay.error} ({relay.hint})" if relay.hint else relay.error


def _title(region: DerpRegion) -> str:
    return f"{region.region_name or region.region_code or 'unnamed'} ({region.region_id})"


def _netcheck(report: NetcheckReport) -> Document:
    facts = report.facts
    asked = facts.gateway_asked is not None
    counters: dict[bool, dict[str, int]] = {False: {}, True: {}}
    for addr, count in report.seen.items():
        counters[addr.is_ipv6][str(addr)] = count
    return {
        "UDP": bool(facts.udp),
        "IPv6": bool(facts.ipv6),
        "IPv4": bool(facts.ipv4),
        "IPv6CanSend": report.ipv6_can_send,
        "IPv4CanSend": report.ipv4_can_send,
        "OSHasIPv6": report.os_has_ipv6,
        "ICMPv4": report.icmp_v4,
        "MappingVariesByDestIP": facts.mapping_varies,
        "HairPinning": None,
        "UPnP": "upnp" in facts.port_mapping if asked else None,
        "PMP": "pmp" in facts.port_mapping if asked else None,
        "PCP": "pcp" in facts.port_mapping if asked else None,
        "PreferredDERP": report.home,
        "RegionLatency": _nanoseconds(report.latencies()),
        "RegionV4Latency": _nanoseconds(report.latencies("v4")),
        "RegionV6Latency": _nanoseconds(report.latencies("v6")),
        "GlobalV4": str(facts.public_v4 or ""),
        "GlobalV6": str(facts.public_v6 or ""),
        "GlobalV4Counters": counters[False],
        "GlobalV6Counters": counters[True],
        "CaptivePortal": facts.captive_portal,
    }


def _interfaces(report: NetcheckReport) -> Document:
    warnings = [
        _warning(
            "EIF01",
            f"Network interface {each.name} has MTU {each.mtu} (less than {SAFE_MTU}), "
            "which may degrade the quality of direct connections",
        )
        for each in report.interfaces
        if each.too_small
    ]
    listed = [{"name": e.name, "mtu": e.mtu, "addresses": list(e.addresses)} for e in report.interfaces]
    return {**_base(healthy=True, warnings=warnings, error=None), "interfaces": listed}


def _base(*, healthy: bool, warnings: list[Document], error: str | None) -> Document:
    severity = "error" if not healthy else "warning" if warnings else "ok"
    document = {"healthy": healthy, "severity": severity, "warnings": warnings, "dismissed": False}
    return document if error is None else {"error": error, **document}


def _warning(code: str, message: str) -> Document:
    return {"code": code, "message": message}


def _nanoseconds(latencies: dict[int, float]) -> dict[str, int]:
    return {str(region): round(latency * 1e9) for region, latency in sorted(latencies.items())}


def go_duration(seconds: float) -> str:
    """As Go prints a duration under a minute: ``1.234ms``, ``12.5µs``, ``0s``."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.6f}".rstrip("0").rstrip(".") + unit
    return "0s"
