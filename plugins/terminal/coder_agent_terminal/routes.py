"""The server's side: the WebSocket that Coder's clients and our page open, the page, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from coder_agent.hooks import Identity, ServerContext
from coder_agent.hooks.web import AgentPlace

from .bridge import Bridge
from .page import asset, missing_page, terminal_page
from .protocol import MAX_CELLS, Init, Size

DEFAULT_CELLS = 80
"""Rows and columns of a client that says nothing (coder coderd/workspaceapps/proxy.go)."""


def terminal_routes(context: ServerContext) -> Sequence[BaseRoute]:
    """What `coder_server_routes` returns."""
    routes = _Routes(context)
    return [
        WebSocketRoute("/api/v2/workspaceagents/{agent}/pty", routes.attach),
        Route("/@{owner}/{place}/terminal", routes.page, methods=["GET"]),
        Route("/terminal-files/{name}", routes.file, methods=["GET"]),
    ]


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """Why there is no terminal, as the API says it."""

    status: int
    message: str
    detail: str = ""
    field: str = ""

    def response(self) -> Response:
        """The error document."""
        body: dict[str, object] = {"message": self.message}
        if self.detail:
            body["detail"] = self.detail
        if self.field:
            body["validations"] = [{"field": self.field, "detail": self.detail}]
        return JSONResponse(body, self.status)


class _Routes:
    def __init__(self, context: ServerContext) -> None:
        self._context = context

    # ------------------------------------------------------------ the WebSocket

    async def attach(self, socket: WebSocket) -> None:
        """``GET /api/v2/workspaceagents/{agent}/pty?reconnect=UUID&width=&height=&command=``."""
        try:
            visitor, place = await self._may(socket)
            init = requested(socket.query_params)
        except Refusal as exc:
            await socket.send_denial_response(exc.response())
            return
        await Bridge(self._context, socket, visitor, place, init).run()

    async def _may(self, socket: WebSocket) -> tuple[Identity, AgentPlace]:
        """Who asks, and for which agent. Raises Refusal: what is forbidden looks like what does not exist."""
        visitor = await self._context.authenticate(socket)
        if visitor is None:
            raise Refusal(401, "You are signed out or your session has expired. Please sign in again to continue.")
        if self._context.refuse_cross_site(socket):
            raise Refusal(403, "This request comes from another site.", "The Origin header names another host.")
        text = str(socket.path_params["agent"])
        try:
            agent_id = UUID(text)
        except ValueError:
            raise Refusal(400, f'Invalid UUID "{text[:64]}".', "This must be a UUID.", "agent") from None
        place = await self._context.find_agent_by_id(agent_id, visitor=visitor)
        if place is None:
            raise Refusal(404, "Resource not found or you do not have access to this resource")
        return visitor, place

    # ------------------------------------------------------------ the page

    async def page(self, request: Request) -> Response:
        """``/@owner/workspace[.agent]/terminal``."""
        visitor = await self._context.authenticate(request)
        if visitor is None:
            here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/login?next={quote(here)}", 303)
        workspace, _, agent = str(request.path_params["place"]).partition(".")
        owner = str(request.path_params["owner"])
        place = await self._context.find_agent(owner, workspace, agent or None, visitor=visitor)
        if place is None:
            return missing_page(owner, str(request.path_params["place"]))
        # A link from elsewhere must not run anything by itself; one from our own pages was clicked for that.
        trusted = request.headers.get("sec-fetch-site") == "same-origin"
        return terminal_page(place, request.query_params.get("command", ""), ask=not trusted)

    async def file(self, request: Request) -> Response:
        """The page's script and style."""
        return asset(str(request.path_params["name"]), request.headers.get("if-none-match", ""))


def requested(query: QueryParams) -> Init:
    """The opening message, from the query as Coder's clients write it. Raises Refusal."""
    try:
        identity = UUID(query.get("reconnect", ""))
    except ValueError:
        raise Refusal(400, "Query params invalid.", "This must be a UUID.", "reconnect") from None
    init = Init(
        identity,
        Size(_cells(query, "height"), _cells(query, "width")),
        query.get("command", ""),
        query.get("container", ""),
        query.get("container_user", ""),
        query.get("backend_type", ""),
        query.get("marks") == "true",
    )
    try:
        init.encode()
    except ValueError as exc:
        raise Refusal(400, "Query params invalid.", str(exc), "command") from None
    return init


def _cells(query: QueryParams, name: str) -> int:
    text = query.get(name) or str(DEFAULT_CELLS)
    if not text.isascii() or not text.isdigit() or not int(text[:6]) <= MAX_CELLS or len(text) > 6:
        raise Refusal(400, "Query params invalid.", f"This must be a number from 0 to {MAX_CELLS}.", name)
    return int(text)
