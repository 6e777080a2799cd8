"""What an agent says about itself, in the documents that stock clients read. Values in, documents out.

Source: coder agent/health.go, codersdk/healthsdk/healthsdk.go, codersdk/agentsdk/agentsdk.go; tailscale tailcfg.go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from coder_agent.base.nat_facts import SAFE_MTU, NatFacts

if TYPE_CHECKING:
    from coder_agent.base.addresses import AddrPort
    from coder_agent.hooks.interfaces import AgentFacts

Document = dict[str, object]

SECRET = "***REDACTED***"
"""Stands for the value of a variable, as in a stock client's support bundle."""
METRIC = "coder_agent_node_total"


def netcheck_document(facts: AgentFacts) -> Document:
    """``GET /api/v0/netcheck``: `coder ping` of a stock client explains with it why there is no direct path."""
    nat = facts.nat or NatFacts()
    is_known = nat.udp is not None or nat.direct_allowed is False
    return {
        **_report([]),
        "net_info": _net_info(nat, facts.home) if is_known else None,  # nobody has looked yet
        "interfaces": _interfaces(nat),
    }


def _report(warnings: list[Document]) -> Document:
    """What every health document has."""
    return {"error": None, "severity": "warning" if warnings else "ok", "warnings": warnings, "dismissed": False}


def _net_info(nat: NatFacts, home: int) -> Document:
    """Tailscale's NetInfo: null = not known, but for its last six, which are false then."""

    def speaks(protocol: str) -> bool | None:
        return protocol in nat.port_mapping if nat.gateway_asked else None

    return {
        "MappingVariesByDestIP": nat.mapping_varies,
        "HairPinning": None,
        "WorkingIPv6": nat.ipv6,
        "OSHasIPv6": None,
        "WorkingUDP": nat.udp,
        "WorkingICMPv4": None,
        "UPnP": speaks("upnp"),
        "PMP": speaks("pmp"),
        "PCP": speaks("pcp"),
        "CaptivePortal": nat.captive_portal,
        "PreferredDERP": home,
        "GlobalV4": _text(nat.public_v4),
        "GlobalV6": _text(nat.public_v6),
        "HavePortMap": bool(nat.port_mapped),
        "UDP": nat.udp is not False,  # where direct paths are forbidden, nobody looks
        "IPv4": bool(nat.ipv4),
        "IPv6": bool(nat.ipv6),
        "IPv4CanSend": bool(nat.ipv4),
        "IPv6CanSend": bool(nat.ipv6),
    }


def _text(addr: AddrPort | None) -> str:
    return "" if addr is None else str(addr)


def _interfaces(nat: NatFacts) -> Document:
    """No interface by name, but the warning that clients show."""
    small = 0 < nat.mtu < SAFE_MTU
    message = (
        f"The smallest network interface in use has MTU {nat.mtu} (less than {SAFE_MTU}), which may degrade the "
        "quality of direct connections or render them unusable."
    )
    return {**_report([{"code": "EIF01", "message": message}] if small else []), "interfaces": []}


def manifest_document(facts: AgentFacts) -> Document:
    """``GET /debug/manifest``: whom the agent serves. Of its environment, the names only."""
    return {
        "agent_id": str(facts.agent_id),
        "agent_name": facts.agent_name,
        "owner_name": facts.owner_username,
        "workspace_id": str(facts.workspace_id),
        "workspace_name": facts.workspace_name,
        "apps": [],
        "environment_variables": dict.fromkeys(facts.environment, SECRET),
        "directory": facts.directory,
        "metadata": [],
        "scripts": [],
    }


def metrics_text(counters: Mapping[str, int]) -> str:
    """``GET /debug/prometheus``: the node's counters in Prometheus' text format."""
    lines = [f"# HELP {METRIC} What the node sent, received and dropped.", f"# TYPE {METRIC} counter"]
    lines += [f'{METRIC}{{what="{_label(name)}"}} {count}' for name, count in sorted(counters.items())]
    return "".join(f"{line}\n" for line in lines)


def _label(text: str) -> str:
    return re.sub(r"[^\w .:/-]", "_", text, flags=re.ASCII)
