"""Pages for owners when something is wrong: who is connected to the coordinator, and what the server's own node does.

HTML for people, JSON with ``Accept: application/json``. No scripts, and nothing in it is a secret: public keys are
shortened, addresses are those that peers published. Source: coder coderd/debug.go, tailnet/coordinator.go (HTMLDebug).
"""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..deployment import Deployment, deployment
from ..documents import Document
from .access import owner_only

MAX_ROWS = 2000
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/debug."""
    return [
        Route("/debug/coordinator", coordinator, methods=["GET"]),
        Route("/debug/tailnet", tailnet, methods=["GET"]),
    ]


async def coordinator(request: Request) -> Response:
    """Peers, their nodes and their tunnels."""
    await owner_only(request)
    return _answer(request, "Coordinator", coordinator_rows(deployment(request)))


async def tailnet(request: Request) -> Response:
    """The agents that the server's own node is connected to, and which way."""
    await owner_only(request)
    return _answer(request, "Tailnet", tailnet_rows(deployment(request)))


def coordinator_rows(server: Deployment) -> list[Document]:
    """One row per peer."""
    rows = []
    for peer in server.coordinator.peers()[:MAX_ROWS]:
        node = peer.node
        rows.append(
            {
                "id": str(peer.id),
                "name": peer.name,
                "key": "" if node is None else str(node.key)[:24],
                "home_region": 0 if node is None else node.preferred_derp,
                "endpoints": [] if node is None else [str(one) for one in node.endpoints],
                "tunnels": sorted(str(one) for one in peer.tunnels),
                "overwrites": peer.overwrites,
            }
        )
    return rows


def tailnet_rows(server: Deployment) -> list[Document]:
    """One row per connected agent that has a path."""
    rows = []
    for peer in server.coordinator.peers()[:MAX_ROWS]:
        path = server.tailnet.path(peer.id)
        if path is not None:
            rows.append(
                {
                    "agent_id": str(peer.id),
                    "name": peer.name,
                    "kind": path.kind.value,
                    "address": str(path.addr) if path.addr is not None else "",
                    "region": path.region_name,
                    "latency_ms": None if path.latency is None else round(path.latency * 1000, 2),
                    "loss": path.loss,
                    "mtu": path.tunnel_mtu,
                    "reason": path.reason,
                }
            )
    return rows


def _answer(request: Request, title: str, rows: list[Document]) -> Response:
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"rows": rows})
    columns = list(rows[0]) if rows else []
    head = "".join(f"<th scope=col>{escape(name)}" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(_text(row[name]))}" for name in columns) for row in rows)
    table = f"<table><thead><tr>{head}<tbody>{body}</table>" if rows else "<p>Nobody is connected.</p>"
    html = f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><h1>{title}</h1>{table}"
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
