"""``/derp-map``: the relay map as JSON messages of a WebSocket, as older programs ask for it, and as a document.

Source: coder coderd/tailnet.go (derpMapUpdates), coderd/coderd.go.
"""

from __future__ import annotations

import json

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from coder_agent.base.derp_map import DerpMap
from coder_agent.base.derp_map_json import to_json

from ..deployment import deployment
from ..documents import Document
from ..problems import Problem
from ..rpc.sockets import refuse
from ..scopes import Need
from .access import signed_in


def routes() -> list[BaseRoute]:
    """Routes under /api/v2."""
    return [Route("/derp-map", derp_map, methods=["GET"]), WebSocketRoute("/derp-map", follow)]


def document(derp_map: DerpMap) -> Document:
    """As stock programs read it."""
    return {"HomeParams": {"RegionScore": {}}, **to_json(derp_map)}


async def derp_map(request: Request) -> Response:
    """The map in force, once."""
    await signed_in(request, Need.CONNECT)
    return JSONResponse(document(deployment(request).derp_map.current))


async def follow(socket: WebSocket) -> None:
    """The map now and whenever it changes."""
    server = deployment(socket)
    try:
        await signed_in(socket, Need.CONNECT)
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    async with anyio.create_task_group() as tasks:

        async def until_closed() -> None:
            while (await socket.receive())["type"] != "websocket.disconnect":
                pass
            tasks.cancel_scope.cancel()

        async def until_stopped() -> None:
            await server.stopping.wait()
            tasks.cancel_scope.cancel()

        tasks.start_soon(until_closed)
        tasks.start_soon(until_stopped)
        try:
            async for current in server.derp_map.follow():
                await socket.send_text(json.dumps(document(current)))
        except (WebSocketDisconnect, RuntimeError):
            tasks.cancel_scope.cancel()
