"""The network page: regions by latency, relay load, direct against relayed over a day, health with remedies. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.node import Node
from coder_agent.hooks.health import REMEDIES

from ..live.day import Day
from . import Document

SECTION_TITLES = {
    "derp": "relays",
    "access_url": "access URL",
    "websocket": "WebSocket",
    "database": "database",
}
"""What the report's sections are called, as in `coder health`; those that this server does not have are left out."""
_SHORT = re.compile(r"([0-9.]+)(s|ms|µs)")
ABSENT = ("workspace_proxy", "provisioner_daemons")


def regions_table(derp_map: DerpMap, nodes: Sequence[Node], report: Document | None) -> list[Document]:
    """Each region with the latencies that agents measured, and the one of this server's last health check; ms."""
    rows = []
    for number, region in sorted(derp_map.regions.items()):
        measured = sorted(ms for node in nodes if (ms := latency_to(node, number)) is not None)
        rows.append(
            {
                "id": number,
                "name": region.region_name,
                "code": region.region_code,
                "hosts": [node.host_name for node in region.nodes],
                "home_of": sum(node.preferred_derp == number for node in nodes),
                "agents": None
                if not measured
                else {
                    "count": len(measured),
                    "best": round(measured[0], 2),
                    "median": round(median(measured), 2),
                    "worst": round(measured[-1], 2),
                },
                "server": _server_latency(report, number),
            }
        )
    return rows


def latency_to(node: Node, region: int) -> float | None:
    """A node's latency to a region in ms: the better of IPv4 and IPv6."""
    prefix = f"{region}-"
    found = [seconds * 1000 for name, seconds in node.derp_latency.items() if name.startswith(prefix)]
    return min(found, default=None)


def _server_latency(report: Document | None, region: int) -> Document | None:
    """Round trip and severity of a region in the last health report."""
    found: Any = report
    for name in ("derp", "regions", str(region)):
        found = found.get(name) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    nodes = [node for node in found.get("node_reports") or () if isinstance(node, Mapping)]
    trips = [trip for node in nodes if (trip := milliseconds(str(node.get("round_trip_ping", ""))))]
    return {"ms": min(trips, default=None), "severity": found.get("severity", "")}


def milliseconds(text: str) -> float | None:
    """A duration as Go prints a short one: ``1.234ms``. The report's own milliseconds are whole ones, 0 on a LAN."""
    match = _SHORT.fullmatch(text)
    return None if match is None else round(float(match[1]) * {"s": 1e3, "ms": 1.0, "µs": 1e-3}[match[2]], 3)


def day_document(day: Day, now: datetime) -> Document:
    """Seconds of connections in use over the last day: direct, relayed, and why."""
    totals = day.totals(now)
    by_way: dict[str, float] = {"direct": 0.0, "relayed": 0.0}
    causes = []
    for (way, cause), seconds in sorted(totals.items(), key=lambda item: -item[1]):
        if way in by_way:
            by_way[way] += seconds
            causes.append({"kind": way, "cause": cause or "unknown", "seconds": round(seconds)})
    return {
        "direct_seconds": round(by_way["direct"]),
        "relayed_seconds": round(by_way["relayed"]),
        "causes": causes,
        "hours": [[round(direct), round(relayed)] for direct, relayed in day.hours(now)],
    }


def health_sections(report: Document | None) -> list[Document]:
    """The last report's sections with remarks and what to do about them; [] = nobody asked for one yet."""
    found = []
    for name, section in (report or {}).items():
        if isinstance(section, Mapping) and "severity" in section and name not in ABSENT:
            found.append(
                {
                    "name": name,
                    "title": SECTION_TITLES.get(name, name.replace("_", " ")),
                    "severity": section["severity"],
                    "dismissed": section.get("dismissed", False),
                    "remarks": list(_remarks(section)),
                }
            )
    return found


def _remarks(section: Mapping[str, Any]) -> list[Document]:
    remarks = []
    if error := section.get("error"):
        code, _, message = str(error).partition(": ")
        remarks.append({"code": code, "message": message or code, "remedy": REMEDIES.get(code, "")})
    for warning in section.get("warnings") or ():
        remarks.append({**warning, "remedy": REMEDIES.get(str(warning.get("code")), "")})
    return remarks
