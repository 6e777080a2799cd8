"""The ASGI application: routes, error documents, and our version on every reply."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from .deployment import Deployment
from .problems import Problem, on_bug, on_http_exception, on_problem
from .routes import agents, debug, keys, meta, pages, paths, relay, users, workspaces
from .rpc import agent as agent_rpc
from .rpc import client as client_rpc
from .rpc.sockets import refuse

VERSION_HEADER = "X-Coder-Build-Version"
"""Without it on a 404, `coder login` says that this is not a coder instance."""


def build_app(server: Deployment, plugin_routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The whole server as one application. `plugin_routes` come after ours, which cannot be replaced."""
    api: list[BaseRoute] = [
        *users.routes(),
        *keys.routes(),
        *workspaces.routes(),
        *agent_rpc.routes(),
        *client_rpc.routes(),
        *paths.routes(),
        *agents.routes(),
        *meta.routes(),
        *relay.api_routes(),
        *debug.routes(),
        WebSocketRoute("/{path:path}", unknown_socket),
    ]
    app = Starlette(
        routes=[
            Route("/healthz", meta.healthz, methods=["GET"]),
            *relay.routes(),
            *pages.routes(),
            Route("/api/v2", meta.hello, methods=["GET"]),
            Mount("/api/v2", app=Router(api, redirect_slashes=False)),
            *plugin_routes,
            WebSocketRoute("/{path:path}", unknown_socket),
        ],
        exception_handlers={Problem: on_problem, HTTPException: on_http_exception, Exception: on_bug},
    )
    app.router.redirect_slashes = False  # a redirect would answer a stock client's POST with another method
    app.state.deployment = server
    return VersionHeader(app, server.version)


class VersionHeader:
    """Adds the version to every reply: pages, errors, upgrades, refused WebSockets."""

    _STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

    def __init__(self, app: ASGIApp, version: str) -> None:
        self._app = app
        self._version = version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def send_with_version(message: Message) -> None:
            if message["type"] in self._STARTS:
                message.setdefault("headers", [])
                MutableHeaders(scope=message)[VERSION_HEADER] = self._version
            await send(message)

        await self._app(scope, receive, send_with_version)


async def unknown_socket(socket: WebSocket) -> None:
    """A WebSocket to nowhere gets the same document as any other unknown route."""
    await refuse(socket, Problem(404, "Route not found."))
