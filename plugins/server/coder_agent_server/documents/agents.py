"""The agent document, its status and its health."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.node import Node

from ..store.schema import Agent, AgentLog
from . import Document, maybe_moment, moment
from .apps import app_document

INACTIVE_TIMEOUT = timedelta(seconds=30)
"""An agent that was not heard for so long is disconnected: two pings of 15 s. Source: coder coderd/coderd.go."""

DISPLAY_APPS = ("port_forwarding_helper",)
"""What the dashboard offers for an agent without further plugins."""


@dataclass(frozen=True, slots=True)
class AgentView:
    """What is known about agents beside their rows: the present."""

    now: datetime
    last_seen: Callable[[UUID], datetime | None]
    node: Callable[[UUID], Node | None]
    derp_map: DerpMap


def agent_status(agent: Agent, view: AgentView) -> str:
    """``connecting``, ``timeout``, ``connected`` or ``disconnected``.

    Source: coder coderd/database/modelmethods.go, as rules: what was never there is awaited for its timeout; then the
    later of the two times decides.
    """
    if agent.first_connected_at is None:
        waited = (view.now - agent.created_at).total_seconds()
        timed_out = 0 < agent.connection_timeout_seconds < waited
        return "timeout" if timed_out else "connecting"
    last = _last_connected(agent, view)
    if last is None or view.now - last > INACTIVE_TIMEOUT:
        return "disconnected"
    if agent.disconnected_at is not None and agent.disconnected_at >= last:
        return "disconnected"
    return "connected"


def agent_health(agent: Agent, status: str) -> str:
    """What is wrong with an agent, in words; empty when nothing is."""
    if agent.lifecycle_state == "off" and status != "connected":
        return "agent is not running"
    by_status = {
        "connecting": "agent has not connected yet",
        "timeout": "agent is taking too long to connect",
        "disconnected": "agent has lost connection",
    }
    if status in by_status:
        return by_status[status]
    if agent.lifecycle_state == "start_error":
        return "agent startup script exited with an error"
    if agent.lifecycle_state in ("shutting_down", "shutdown_timeout", "shutdown_error", "off"):
        return "agent is shutting down"
    return ""


def agent_document(agent: Agent, resource_id: UUID, view: AgentView) -> Document:
    """The agent as `GET /workspaceagents/{id}` and as part of a workspace."""
    status = agent_status(agent, view)
    reason = agent_health(agent, status)
    return {
        "id": str(agent.id),
        "parent_id": None,
        "created_at": moment(agent.created_at),
        "updated_at": moment(agent.updated_at),
        "first_connected_at": maybe_moment(agent.first_connected_at),
        "last_connected_at": maybe_moment(_last_connected(agent, view)),
        "disconnected_at": maybe_moment(_disconnected_at(agent, status, view)),
        "started_at": maybe_moment(agent.started_at),
        "ready_at": maybe_moment(agent.ready_at),
        "status": status,
        "lifecycle_state": agent.lifecycle_state,
        "name": agent.name,
        "resource_id": str(resource_id),
        "instance_id": "",
        "architecture": agent.architecture,
        "operating_system": agent.operating_system,
        "environment_variables": {},
        "logs_length": agent.logs_size,
        "logs_overflowed": agent.logs_overflowed,
        "directory": agent.directory,
        "expanded_directory": agent.expanded_directory,
        "version": agent.version,
        "api_version": agent.api_version,
        "connection_timeout_seconds": agent.connection_timeout_seconds,
        "troubleshooting_url": "",
        "subsystems": agent.subsystems,
        "health": {"healthy": not reason, "reason": reason},
        "display_apps": list(DISPLAY_APPS),
        "log_sources": [],
        "scripts": [],
        "startup_script_behavior": "non-blocking",
        "latency": _latency(view.node(agent.id), view.derp_map) if status == "connected" else {},
        "apps": [app_document(app, agent) for app in agent.apps],
    }


def log_document(log: AgentLog) -> Document:
    """One line of a start-up script."""
    return {
        "id": log.id,
        "created_at": moment(log.created_at),
        "output": log.output,
        "level": log.level,
        "source_id": str(log.source_id),
    }


def _last_connected(agent: Agent, view: AgentView) -> datetime | None:
    seen = view.last_seen(agent.id)
    if seen is not None and agent.last_connected_at is not None:
        return max(seen, agent.last_connected_at)
    return seen or agent.last_connected_at


def _disconnected_at(agent: Agent, status: str, view: AgentView) -> datetime | None:
    """Stock clients crash on a disconnected agent without this time, e.g. after the server itself was killed."""
    if status != "disconnected":
        return None
    return agent.disconnected_at or _last_connected(agent, view) or agent.created_at


def _latency(node: Node | None, derp_map: DerpMap) -> Mapping[str, Document]:
    """Per region name: is it the agent's home, and how far. The best of IPv4 and IPv6 counts."""
    if node is None:
        return {}
    best: dict[int, float] = {}
    for name, seconds in node.derp_latency.items():
        number, _, _family = name.partition("-")
        if number.isascii() and number.isdigit():
            best[int(number)] = min(seconds, best.get(int(number), seconds))
    return {
        derp_map.regions[region].region_name: {
            "preferred": region == node.preferred_derp,
            "latency_ms": seconds * 1000,
        }
        for region, seconds in best.items()
        if region in derp_map.regions
    }
