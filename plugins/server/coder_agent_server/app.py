"""The ASGI application: routes, error documents, and our version on every reply."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from .deployment import Deployment
from .front import Front, FrontRules
from .problems import Problem, on_bug, on_http_exception, on_problem
from .redirects import redirect_rule
from .routes import (
    agents,
    apps,
    authcheck,
    connection_log,
    debug,
    debug_pages,
    deployment_config,
    derp_map,
    keys,
    live,
    meta,
    pages,
    paths,
    port_shares,
    relay,
    user_changes,
    users,
    workspaces,
)
from .rpc import agent as agent_rpc
from .rpc import client as client_rpc
from .rpc import user as user_rpc
from .rpc.sockets import refuse
from .web.error_pages import for_people


def build_app(server: Deployment, plugin_routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The whole server as one application. `plugin_routes` come after ours, which cannot be replaced."""
    api: list[BaseRoute] = [
        *users.routes(),
        *user_changes.routes(),
        *keys.routes(),
        *workspaces.routes(),
        *port_shares.routes(),
        *apps.routes(),
        *connection_log.routes(),
        *agent_rpc.routes(),
        *client_rpc.routes(),
        *user_rpc.routes(),
        *derp_map.routes(),
        *deployment_config.routes(),
        *paths.routes(),
        *live.routes(),
        *agents.routes(),
        *authcheck.routes(),
        *meta.routes(),
        *relay.api_routes(),
        *debug.routes(),
        *debug_pages.routes(),
    ]
    api.insert(0, Route("/openapi.json", openapi_route(list(api), server), methods=["GET"]))
    others = Router([*plugin_routes, WebSocketRoute("/{path:path}", unknown_socket)], redirect_slashes=False)
    app = Starlette(
        routes=[
            Route("/healthz", meta.healthz, methods=["GET"]),
            *relay.routes(),
            *pages.routes(),
            Route("/api/v2", meta.hello, methods=["GET"]),
            Mount("/api/v2", app=Router(api, redirect_slashes=False, default=_from_the_root(others))),
            *others.routes,
        ],
        exception_handlers={
            Problem: for_people(on_problem),
            HTTPException: for_people(on_http_exception),
            Exception: for_people(on_bug),
        },
    )
    app.router.redirect_slashes = False  # a redirect would answer a stock client's POST with another method
    app.state.deployment = server
    return Front(app, front_rules(server), server.tally)


def openapi_route(api: Sequence[BaseRoute], server: Deployment) -> Callable[[Request], Awaitable[Response]]:
    """The API's own description: not secret, and made when somebody asks for it."""

    async def openapi(request: Request) -> Response:
        """The API's own description (OpenAPI 3.1)."""
        from .openapi import openapi_document  # at first use

        return JSONResponse(openapi_document(api, server.version, server.access_url))

    return openapi


def front_rules(server: Deployment) -> FrontRules:
    """What holds for every request."""
    options = server.options
    rules = FrontRules(server.version, options.proxies, options.hsts)
    if not options.redirect_to_access_url:
        return rules
    by_scheme = options.tls is not None or bool(options.proxies.headers)
    redirect = redirect_rule(server.access_url, options.wildcard_access_url, by_scheme=by_scheme)
    return replace(rules, redirect=redirect)


def _from_the_root(app: ASGIApp) -> ASGIApp:
    """For what a mount has no route for: `app` sees the whole path, so that plugins may add routes below it, too."""

    async def unmounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "root_path": scope.get("app_root_path", "")}, receive, send)

    return unmounted


async def unknown_socket(socket: WebSocket) -> None:
    """A WebSocket to nowhere gets the same document as any other unknown route."""
    await refuse(socket, Problem(404, "Route not found."))
