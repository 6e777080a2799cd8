"""How packets reach a workspace, as a JSON document: of `coder path` and of a support bundle."""

from __future__ import annotations

from coder_agent.client import Workspace
from coder_agent.node import PathStatus
from coder_agent.verdict.document import report_to_document, to_document
from coder_agent.verdict.situation import Verdict


def path_document(workspace: Workspace, status: PathStatus, verdict: Verdict) -> dict[str, object]:
    """The path for programs; names and codes are stable."""
    return {
        "path": {
            "kind": status.kind.value,
            "addr": None if status.addr is None else str(status.addr),
            "derp_region": workspace.region_name(status.region) if status.region else None,
            "latency_ms": None if status.latency is None else round(status.latency * 1e3, 3),
            "wire_mtu": status.wire_mtu or None,
            "tunnel_mtu": status.tunnel_mtu,
        },
        "candidates": [
            {
                "addr": str(one.addr),
                "sources": list(one.sources),
                "sent": one.sent,
                "answered": one.answered,
                "latency_ms": None if one.latency is None else round(one.latency * 1e3, 3),
                "wire_mtu": one.wire_mtu or None,
                "why_not": one.why_not or None,
            }
            for one in status.candidates
        ],
        "local": report_to_document(status.local),
        "remote": None if status.remote is None else report_to_document(status.remote),
        "verdict": to_document(verdict),
        "counters": workspace.node.counters(),
    }
