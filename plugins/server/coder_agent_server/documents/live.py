"""What the dashboard's pages show, as JSON: one row per workspace, and everything about one. Pure.

States, in the words of CLI and documentation: ``direct``, ``relayed``, ``offline``, ``degraded``; besides ``ready``
(the agent is connected and nobody uses it), ``searching`` (a way is being looked for), ``waiting`` (the agent was never
seen).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from coder_agent.base.node import Node
from coder_agent.hooks.server_tailnet import TunnelPath

from ..live.history import AgentHistory, Entry, region_name
from ..live.observatory import ClientFacts, Observatory
from ..store.schema import Agent, ConnectionLog, Workspace
from . import Document, maybe_moment, moment
from .agents import AgentView, agent_document
from .apps import share_document

SHOWN_LATENCIES = 20
"""Points of a row's sparkline: five minutes of a control connection's pings."""
SHOWN_ENTRIES = 100
"""Lines of a workspace page's log."""


@dataclass(frozen=True, slots=True)
class LiveView:
    """The present, as one visitor may see it. `server_path`: what carries the server's own packets to an agent."""

    viewer: UUID
    now: datetime
    agents: AgentView
    reports: Callable[[UUID], Sequence[Mapping[str, Any]]]
    live: Observatory
    server_path: Callable[[UUID], TunnelPath | None]


def workspace_row(workspace: Workspace, view: LiveView) -> Document:
    """A workspace in the list."""
    return {
        "id": str(workspace.id),
        "owner": workspace.owner.username,
        "name": workspace.name,
        "created_at": moment(workspace.created_at),
        "agents": [_agent_row(agent, workspace, view) for agent in workspace.agents],
    }


def workspace_detail(workspace: Workspace, view: LiveView, past: Sequence[ConnectionLog] = ()) -> Document:
    """A workspace on its own page. `past`: its newest connections."""
    return {
        **workspace_row(workspace, view),
        "agents": [_agent_detail(agent, workspace, view) for agent in workspace.agents],
        "shares": [share_document(share) for share in workspace.shares],
        "past": [_past(row) for row in past],
    }


# ---------------------------------------------------------------- an agent


def _agent_row(agent: Agent, workspace: Workspace, view: LiveView) -> Document:
    document = agent_document(agent, workspace.resource_id, view.agents)
    history = view.live.history(agent.id)
    connected = document["status"] == "connected"
    paths = _paths(agent.id, view, history) if connected else []
    server = view.server_path(agent.id) if connected else None
    latencies, of = _latencies(history, paths)
    rate = history.rate
    return {
        "id": str(agent.id),
        "name": agent.name,
        "status": document["status"],
        "state": _state(document, paths),
        "reason": document["health"]["reason"],
        "first_connected_at": document["first_connected_at"],
        "last_seen_at": document["last_connected_at"],
        "disconnected_at": document["disconnected_at"],
        "paths": [_short(path) for path in paths],
        "server_path": None if server is None else _server_path(server),
        "latency": {"of": of, "ms": latencies[-1] if latencies and connected else None, "history": latencies},
        "rate": {"rx": round(rate.received), "tx": round(rate.sent)} if connected else None,
        "apps": [_app(app) for app in document["apps"] if not app.get("hidden")],
    }


def _agent_detail(agent: Agent, workspace: Workspace, view: LiveView) -> Document:
    row = _agent_row(agent, workspace, view)
    history = view.live.history(agent.id)
    connected = row["status"] == "connected"
    node = view.agents.node(agent.id) if connected else None
    return {
        **row,
        "paths": _paths(agent.id, view, history) if connected else [],
        "facts": _facts(agent, node, view),
        "latencies": {"control": _rounded(history.control), "path": _rounded(history.path)},
        "rates": [round(rate) for rate in history.rates],
        "sessions": [
            {"kind": session.kind, "from": session.address, "since": moment(session.since)}
            for session in history.sessions.values()
        ],
        "log": [_entry(entry) for entry in list(history.entries)[: -SHOWN_ENTRIES - 1 : -1]],
    }


def _state(document: Document, paths: Sequence[Document]) -> str:
    """One word for the mark. The viewer's own connection counts before others'."""
    status = document["status"]
    if status in ("connecting", "timeout"):
        return "waiting"
    if status != "connected":
        return "offline"
    if not document["health"]["healthy"]:
        return "degraded"
    mine = [path for path in paths if path["mine"]] or list(paths)
    kinds = {path["kind"] for path in mine if path["active"]} or {path["kind"] for path in mine}
    for kind in ("relayed", "direct"):
        if kind in kinds:
            return kind
    if not kinds:
        return "ready"
    return (
        "searching" if any(_code(path) in ("still_searching", "birthday_running", "") for path in mine) else "degraded"
    )


# ---------------------------------------------------------------- paths


def _paths(agent_id: UUID, view: LiveView, history: AgentHistory) -> list[Document]:
    """Connections to an agent now: whose, and which way. The viewer's own come first, then those in use."""
    told = {str(peer["peer_id"]): peer for peer in view.reports(agent_id)}
    found = []
    for client in view.live.clients_of(agent_id):
        found.append(_path(client, told.get(str(client.peer_id)), view, history))
    found.sort(key=lambda path: (not path["mine"], not path["active"]))
    return found


def _path(client: ClientFacts, report: Mapping[str, Any] | None, view: LiveView, history: AgentHistory) -> Document:
    document: Document = {
        "peer_id": str(client.peer_id),
        "who": client.username,
        "mine": client.user_id == view.viewer,
        "from": client.address,
        "program": client.program,
        "since": moment(client.since),
        "kind": "none",
        "via": "",
        "address": "",
        "latency_ms": None,
        "loss": None,
        "mtu": None,
        "active": False,
        "rate": {"rx": 0, "tx": 0},
        "bytes": None,
        "nat": None,
        "peer_nat": None,
        "verdict": None,
    }
    if report is None:
        return document
    rate = history.rate_of(str(client.peer_id))
    kind, path = str(report["kind"]), str(report["path"])
    counted = report.get("rx_bytes") is not None and report.get("tx_bytes") is not None
    return {
        **document,
        "kind": kind,
        "via": region_name(path, view.live.regions()) if kind == "relayed" else "",
        "address": path if kind == "direct" else "",
        "latency_ms": report["latency_ms"],
        "loss": report.get("loss"),
        "mtu": report["wire_mtu"],
        "active": report["active"],
        "rate": {"rx": round(rate.received), "tx": round(rate.sent)},
        "bytes": {"rx": report["rx_bytes"], "tx": report["tx_bytes"]} if counted else None,
        "nat": report.get("nat"),
        "peer_nat": report.get("peer_nat"),
        "verdict": report.get("verdict"),
    }


def _past(row: ConnectionLog) -> Document:
    """A line of the connection log. Bytes as the workspace sees them."""
    return {
        "id": str(row.id),
        "agent": row.agent_name,
        "kind": row.kind,
        "target": row.slug_or_port,
        "who": row.username,
        "from": row.ip,
        "program": row.user_agent,
        "at": moment(row.connected_at),
        "until": maybe_moment(row.disconnected_at),
        "status": row.status_code,
        "reason": row.reason,
        "bytes": None if row.rx_bytes is None else {"rx": row.rx_bytes, "tx": row.tx_bytes},
    }


def _short(path: Document) -> Document:
    """What a row of the list needs of a path."""
    return {name: path[name] for name in ("who", "mine", "kind", "via", "latency_ms", "active")}


def _server_path(path: TunnelPath) -> Document:
    return {
        "kind": path.kind.value,
        "via": path.region_name if path.kind.value == "relayed" else "",
        "address": "" if path.addr is None else str(path.addr),
        "latency_ms": None if path.latency is None else round(path.latency * 1000, 3),
        "loss": path.loss,
        "reason": path.reason,
    }


def _code(path: Document) -> str:
    verdict = path.get("verdict")
    return str(verdict.get("code", "")) if isinstance(verdict, Mapping) else ""


# ---------------------------------------------------------------- details


def _latencies(history: AgentHistory, paths: Sequence[Document]) -> tuple[list[float], str]:
    """The newest latencies: of the way to clients while somebody is connected, else of the control connection."""
    if any(path["active"] and path["latency_ms"] is not None for path in paths):
        return _rounded(history.path)[-SHOWN_LATENCIES:], "path"
    return _rounded(history.control)[-SHOWN_LATENCIES:], "control"


def _rounded(values: Sequence[float] | Any) -> list[float]:
    return [round(value, 2) for value in values]


def _facts(agent: Agent, node: Node | None, view: LiveView) -> Document:
    regions = view.live.regions()
    latency = {
        name: measured["latency_ms"]
        for name, measured in agent_document(agent, agent.id, view.agents)["latency"].items()
    }
    return {
        "version": agent.version,
        "api_version": agent.api_version,
        "os": agent.operating_system,
        "architecture": agent.architecture,
        "directory": agent.expanded_directory or agent.directory,
        "lifecycle": agent.lifecycle_state,
        "created_at": moment(agent.created_at),
        "started_at": maybe_moment(agent.started_at),
        "addresses": [] if node is None else [str(address) for address in node.addresses],
        "endpoints": [] if node is None else [str(endpoint) for endpoint in node.endpoints],
        "home": "" if node is None else regions.get(node.preferred_derp, ""),
        "regions": latency,
    }


def _app(app: Mapping[str, Any]) -> Document:
    """What a link to an app needs."""
    return {
        "slug": app.get("slug", ""),
        "name": app.get("display_name") or app.get("slug", ""),
        "url": app.get("url") or "",
        "external": bool(app.get("external")),
        "command": app.get("command") or "",
        "subdomain": bool(app.get("subdomain")),
        "subdomain_name": app.get("subdomain_name") or "",
        "share": app.get("sharing_level") or "owner",
        "health": app.get("health") or "disabled",
        "icon": app.get("icon") or "",
    }


def _entry(entry: Entry) -> Document:
    return {"at": moment(entry.at), "kind": entry.kind, "text": entry.text, "code": entry.code}
