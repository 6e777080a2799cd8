"""``/derp``: the door to the embedded relay, by HTTP upgrade or WebSocket, and the latency probes.

Open to everybody: relay clients carry no session, only keys, and see nothing but ciphertext.
"""

from __future__ import annotations

from ipaddress import ip_address

import anyio
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from coder_agent.base.addresses import AddrPort
from coder_agent.errors import CoderAgentError

from ..bodies import read_json
from ..deployment import deployment
from ..problems import Problem
from ..rpc.sockets import RelaySocket, refuse
from ..upgrade import HandedOver, UpgradeUnavailable, offered_upgrade

SUBPROTOCOL = "derp"
VERIFY_PATIENCE = 2.0
"""Seconds; relays wait 5 for the answer."""
VERIFY_POLL = 0.1
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, Content-Type, X-LATENCY-CHECK, X-CSRF-TOKEN",
    "Timing-Allow-Origin": "*",
    "Cache-Control": "no-cache, no-store, must-revalidate",
}
"""Dashboards of other deployments measure us from the browser. Source: coder coderd/httpmw/cors.go, latencycheck.go."""


class VerifyBody(BaseModel):
    """A relay's question. `source` is the client's address as the relay sees it; nothing depends on it here."""

    node_public: str = Field(alias="NodePublic", max_length=128)
    source: str = Field("", alias="Source", max_length=64)


def routes() -> list[BaseRoute]:
    """Routes at the root."""
    return [
        Route("/derp", upgrade, methods=["GET"]),
        WebSocketRoute("/derp", websocket),
        Route("/derp/latency-check", derp_latency_check, methods=["GET", "HEAD"]),
        Route("/latency-check", latency_check, methods=["GET", "HEAD", "OPTIONS"]),
    ]


def api_routes() -> list[BaseRoute]:
    """Routes under ``/api/v2``."""
    return [Route("/derp/verify", verify, methods=["POST"])]


async def verify(request: Request) -> Response:
    """May this node use a relay? Asked by stand-alone relays (`coder derp --coder-url`, or a stock derper's
    ``-verify-client-url``); source: tailscale tailcfg/derpmap.go DERPAdmitClientRequest.

    Open to everybody: the answer says no more than whether a key, which only its peers know, is connected here. A node
    may reach its relay a moment before its news reaches us, so a no is thought over for `VERIFY_PATIENCE`.
    """
    server = deployment(request)
    body = await read_json(request, VerifyBody)
    allowed = False
    with anyio.move_on_after(VERIFY_PATIENCE):
        while not (allowed := server.knows_key(body.node_public)):  # noqa: ASYNC110  (coordinators tell nobody)
            await anyio.sleep(VERIFY_POLL)
    return JSONResponse({"Allow": allowed})


async def upgrade(request: Request) -> Response:
    """``Upgrade: DERP``. Anything else is told 426, as Tailscale's own relay does."""
    relay = deployment(request).relay
    if relay is None:
        raise Problem(404, "This deployment has no embedded relay.")
    offered = offered_upgrade(request)
    if offered is None:
        return PlainTextResponse(
            "DERP requires connection upgrade\n", 426, {"Upgrade": "DERP", "Connection": "Upgrade"}
        )
    try:
        transport, initial = offered.take()
    except UpgradeUnavailable as exc:
        raise Problem(400, "The connection cannot be upgraded.", detail=str(exc)) from exc
    if request.headers.get("derp-fast-start") != "1":  # with it, the client already knows our key and wants no head
        transport.write(relay.upgrade_head())
    relay.accept(transport, initial, _remote(request))
    if not transport.is_closing() and not transport.is_reading():
        transport.resume_reading()
    return HandedOver()


async def websocket(socket: WebSocket) -> None:
    """The same bytes inside WebSocket messages, for proxies that allow no other upgrade. Any Origin is welcome."""
    relay = deployment(socket).relay
    if relay is None:
        await refuse(socket, Problem(404, "This deployment has no embedded relay."))
        return
    offered = socket.scope.get("subprotocols") or []
    if SUBPROTOCOL not in offered:
        await refuse(socket, Problem(400, "The WebSocket needs the subprotocol derp."))
        return
    await socket.accept(subprotocol=SUBPROTOCOL)
    wrapped = RelaySocket(socket)
    try:
        await relay.accept_websocket(wrapped, _remote(socket))
    except (anyio.BrokenResourceError, anyio.EndOfStream, CoderAgentError):
        pass  # the client is gone
    finally:
        with anyio.CancelScope(shield=True):
            await wrapped.close()


async def derp_latency_check(request: Request) -> Response:
    """Netcheck measures the time of this answer."""
    return PlainTextResponse("OK", headers={"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"})


async def latency_check(request: Request) -> Response:
    """Browsers measure the time of this answer; a preflight comes first, because they send X-LATENCY-CHECK."""
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=_CORS)
    return PlainTextResponse("OK", headers=_CORS)


def _remote(connection: HTTPConnection) -> AddrPort | None:
    if connection.client is None:
        return None
    try:
        ip_address(connection.client.host)
        return AddrPort.of(connection.client.host, connection.client.port)
    except ValueError:
        return None
