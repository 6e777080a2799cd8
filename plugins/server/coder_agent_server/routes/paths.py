"""Which way packets go, and which way they may: path rules and path reports. All of it is ours, not Coder's."""

from __future__ import annotations

import logging
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from coder_agent.base.path_rules import DirectRule, PathRules
from coder_agent.base.path_rules_json import MAX_REGION, rules_to_json

from ..auth import agent_of, presented_token
from ..bodies import read_json
from ..deployment import Deployment, deployment
from ..documents import Document, moment
from ..path_rules import own_rules, rules_for, stored
from ..problems import Problem
from ..scopes import Need
from ..store import workspaces as store
from ..store.schema import Agent, Workspace
from .access import path_workspace, signed_in

logger = logging.getLogger("coder_agent.server")

MAX_REPORTED_PEERS = 64
"""Peers of one report (coder_agent/path_reports.py sends no more)."""

LATER_FIELDS = frozenset({"loss", "rx_bytes", "tx_bytes", "nat", "peer_nat"})


class RulesBody(BaseModel):
    """A workspace's path rules; what is left out has no rule."""

    model_config = ConfigDict(extra="forbid")

    direct: DirectRule = DirectRule.AUTO
    prefer_region: int = Field(0, ge=0, le=MAX_REGION)
    ipv6: bool = True


class PeerBody(BaseModel):
    """One peer of an agent, and the way to it."""

    peer_id: UUID
    key: str = Field(max_length=128)
    kind: Literal["direct", "relayed", "none"]
    path: str = Field("", max_length=128)
    latency_ms: float | None = Field(None, ge=0, le=1e6, allow_inf_nan=False)
    loss: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    wire_mtu: int | None = Field(None, ge=0, le=65535)
    active: bool = False
    rx_bytes: int | None = Field(None, ge=0, lt=1 << 63)
    tx_bytes: int | None = Field(None, ge=0, lt=1 << 63)
    nat: Literal["none", "easy", "hard", "blocked"] | None = None
    peer_nat: Literal["none", "easy", "hard", "blocked"] | None = None
    verdict: dict[str, Any] | None = None


class ReportBody(BaseModel):
    """All peers of an agent; replaces what it said before."""

    peers: list[PeerBody] = Field(default_factory=list, max_length=MAX_REPORTED_PEERS)


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [
        Route("/workspaces/{workspace}/paths", get_paths, methods=["GET"]),
        Route("/workspaces/{workspace}/path-rules", get_rules, methods=["GET"]),
        Route("/workspaces/{workspace}/path-rules", put_rules, methods=["PUT"]),
        Route("/workspaceagents/me/path-rules", agent_rules, methods=["GET"]),
        Route("/workspaceagents/me/paths", report_paths, methods=["POST"]),
    ]


async def get_paths(request: Request) -> Response:
    """The way to each connected client, as the workspace's agents told it last."""
    workspace = await path_workspace(request, await signed_in(request, Need.READ))
    server = deployment(request)
    return JSONResponse({"agents": [_paths_document(server, agent) for agent in workspace.agents]})


def _paths_document(server: Deployment, agent: Agent) -> Document:
    connected = server.presence.last_seen(agent.id) is not None
    report = server.paths.newest(agent.id) if connected else None
    return {
        "agent_id": str(agent.id),
        "agent_name": agent.name,
        "connected": connected,
        "reported_at": None if report is None else moment(report.at),
        "peers": [] if report is None else report.peers,
    }


async def report_paths(request: Request) -> Response:
    """An agent tells which way its packets go."""
    server = deployment(request)
    agent = await agent_of(server.database, presented_token(request))
    server.report_limit.check(agent.id)
    body = await read_json(request, ReportBody)
    if server.presence.last_seen(agent.id) is None:
        raise Problem(409, "The agent is not connected.", detail="Paths are kept for connected agents only.")
    peers = [_without_unsaid(peer.model_dump(mode="json")) for peer in body.peers]
    server.paths.put(agent.id, peers, server.clock())
    server.live.paths_reported(agent.id, peers)
    return Response(status_code=204)


def _without_unsaid(peer: Document) -> Document:
    """Older agents do not count bytes nor tell of NATs."""
    return {name: value for name, value in peer.items() if value is not None or name not in LATER_FIELDS}


async def get_rules(request: Request) -> Response:
    """A workspace's own rules, the deployment's, and what both together mean."""
    workspace = await path_workspace(request, await signed_in(request, Need.READ))
    return JSONResponse(_rules_document(deployment(request), workspace))


async def put_rules(request: Request) -> Response:
    """Replace a workspace's own rules. Its agents are made to ask for them at once; clients do when they connect."""
    workspace = await path_workspace(request, await signed_in(request))
    server = deployment(request)
    body = await read_json(request, RulesBody)
    wanted = PathRules(body.direct, body.prefer_region, body.ipv6)
    if refusal := wanted.conflict(server.options.rules):
        refusal = refusal.partition(" was asked for, but ")[2]
        raise Problem(
            409, f"These rules cannot hold: {refusal}.", validations=[("direct", "the deployment's rule wins")]
        )
    changed = stored(wanted) != workspace.path_rules
    if wanted.prefer_region not in (0, own_rules(workspace).prefer_region):  # an old one may have left the map since
        _check_region(server, wanted.prefer_region)
    if changed:
        async with server.database.write() as session:
            await store.set_path_rules(session, workspace.id, stored(wanted), server.clock())
        workspace.path_rules = stored(wanted)
        for agent in workspace.agents:
            server.presence.close(agent.id, "the path rules of this workspace changed")
        logger.info("path rules of workspace %s/%s changed", workspace.owner.username, workspace.name)
    return JSONResponse(_rules_document(server, workspace))


def _check_region(server: Deployment, wanted: int) -> None:
    """Raises Problem for a region that cannot relay: nothing would ever come of preferring it."""
    regions = server.derp_map.current.regions
    if wanted in regions and regions[wanted].has_relay:
        return
    known = ", ".join(f"{key} ({regions[key].region_name})" for key in sorted(regions) if regions[key].has_relay)
    what = "has no relay" if wanted in regions else "is not in the relay map"
    raise Problem(
        400, f"Relay region {wanted} {what}; there is {known}.", validations=[("prefer_region", "not such a region")]
    )


async def agent_rules(request: Request) -> Response:
    """What holds for the agent that asks."""
    server = deployment(request)
    agent = await agent_of(server.database, presented_token(request))
    return JSONResponse(rules_to_json(rules_for(server.options, agent.workspace)))


def _rules_document(server: Deployment, workspace: Workspace) -> Document:
    return {
        "workspace": rules_to_json(own_rules(workspace)),
        "deployment": rules_to_json(server.options.rules),
        "effective": rules_to_json(rules_for(server.options, workspace)),
    }
