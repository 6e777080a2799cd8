"""A health report in words. Pure, and tolerant: the server may be another version, or stock Coder's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coder_agent.hooks.health import REMEDIES

Document = Mapping[str, Any]

KNOWN = ("derp", "access_url", "websocket", "database", "workspace_proxy", "provisioner_daemons")
TITLES = {
    "derp": "relays",
    "access_url": "access URL",
    "websocket": "WebSocket",
    "database": "database",
    "workspace_proxy": "workspace proxies",
    "provisioner_daemons": "provisioners",
}


def sections(report: Document) -> Iterator[tuple[str, Document]]:
    """All sections: the known ones in their order, then others by name."""
    others = sorted(name for name, value in report.items() if name not in KNOWN and _is_section(value))
    for name in (*KNOWN, *others):
        if _is_section(report.get(name)):
            yield name, report[name]


def _is_section(value: object) -> bool:
    return isinstance(value, Mapping) and "severity" in value


def rows(report: Document) -> list[tuple[str, str, str]]:
    """Section, severity, what was found."""
    return [(TITLES.get(name, name), _severity(section), summary(name, section)) for name, section in sections(report)]


def _severity(section: Document) -> str:
    return f"{section.get('severity', '?')}{' (dismissed)' if section.get('dismissed') else ''}"


def summary(name: str, section: Document) -> str:
    """What is worth a cell."""
    if name == "derp":
        regions = _mapping(section.get("regions"))
        good = sum(1 for region in regions.values() if _mapping(region).get("healthy"))
        return f"{good} of {len(regions)} regions work"
    if name == "access_url":
        status = section.get("status_code")
        return f"{section.get('access_url', '')} {f'answers {status}' if status else 'is not reached'}"
    if name == "websocket":
        return "messages come back" if section.get("healthy") else "does not work"
    if name == "database":
        reached = section.get("reachable")
        return f"{section.get('latency', '?')} (limit {section.get('threshold_ms', '?')}ms)" if reached else "no answer"
    return ""


def region_rows(report: Document) -> list[tuple[str, str, str, str, str, str]]:
    """Region, node, exchange, round trip, STUN, severity; one row per node."""
    found = []
    for number, region in sorted(_mapping(_mapping(report.get("derp")).get("regions")).items(), key=_by_number):
        described = _mapping(_mapping(region).get("region"))
        title = f"{described.get('RegionName') or described.get('RegionCode') or 'unnamed'} ({number})"
        for node in _list(_mapping(region).get("node_reports")):
            found.append((title, *_node(_mapping(node))))
    return found


def _by_number(entry: tuple[str, object]) -> tuple[int, str]:
    number = entry[0]
    return (int(number) if number.isdigit() else 0, number)


def _node(report: Document) -> tuple[str, str, str, str, str]:
    node, stun = _mapping(report.get("node")), _mapping(report.get("stun"))
    works = bool(report.get("can_exchange_messages"))
    how = "STUN only" if node.get("STUNOnly") else "no"
    if works:
        how = "WebSocket" if report.get("uses_websocket") else "yes"
    answers = "yes" if stun.get("CanSTUN") else "no" if stun.get("Enabled") else "-"
    trip = f"{report.get('round_trip_ping_ms', '?')}ms" if works else ""
    return str(node.get("Name", "?")), how, trip, answers, str(report.get("severity", "?"))


def remarks(report: Document) -> Iterator[str]:
    """Errors and warnings with what to do, each once; those of dismissed sections are left out."""
    told: set[str] = set()
    for name, section in sections(report):
        if section.get("dismissed"):
            continue
        for line in _of_section(section):
            if line not in told:
                told.add(line)
                yield f"{TITLES.get(name, name)}: {line}"


def _of_section(section: Document) -> Iterator[str]:
    if error := section.get("error"):
        yield _advised("error", str(error).partition(":")[0], str(error))
    level = "error" if section.get("severity") == "error" and not section.get("error") else "warning"
    for warning in _list(section.get("warnings")):
        code, message = str(_mapping(warning).get("code", "EUNKNOWN")), str(_mapping(warning).get("message", ""))
        yield _advised(level, code, f"{code}: {message}")


def _advised(level: str, code: str, text: str) -> str:
    advice = REMEDIES.get(code)
    return f"{level} {text}" + (f"\n      what to do: {advice}" if advice else "")


def is_failing(report: Document) -> bool:
    """Does a section that nobody dismissed have an error?"""
    return any(s.get("severity") == "error" and not s.get("dismissed") for _, s in sections(report))


def verdict(report: Document) -> str:
    """The last line."""
    if is_failing(report):
        return "This deployment is not healthy."
    if any(s.get("severity") == "warning" and not s.get("dismissed") for _, s in sections(report)):
        return "This deployment works, with warnings."
    return "This deployment is healthy."


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
