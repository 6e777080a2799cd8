"""What owners look at when something is wrong: the health report, its settings, and an echo that it talks to.

Source: coder coderd/debug.go, coderd/healthcheck/websocket.go.
"""

from __future__ import annotations

from secrets import compare_digest

import anyio
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..bodies import read_json
from ..deployment import deployment
from ..health.checks import PROBE_HEADER
from ..health.report import SECTIONS
from ..problems import Problem, invalid
from ..rpc.sockets import refuse
from ..store import health as store
from .access import owner_only

ECHO_PATIENCE = 30.0
"""Seconds of silence after which the echo hangs up."""
MAX_ECHOES = 1000
"""Messages of one connection."""


class SettingsBody(BaseModel):
    """Sections that nobody wants to hear of."""

    dismissed_healthchecks: list[str] = Field(default_factory=list, max_length=100)


def routes() -> list[BaseRoute]:
    """Routes under /api/v2/debug."""
    return [
        Route("/debug/health", get_health, methods=["GET"]),
        Route("/debug/health/settings", get_settings, methods=["GET"]),
        Route("/debug/health/settings", put_settings, methods=["PUT"]),
        WebSocketRoute("/debug/ws", echo),
    ]


async def get_health(request: Request) -> Response:
    """The report: the last one, or with ``?force=true`` a new one."""
    await owner_only(request)
    server = deployment(request)
    force = request.query_params.get("force", "").lower() in ("true", "1", "t")
    report = await server.health.report(force=force)
    async with server.database.read() as session:
        dismissed = await store.dismissed(session)
    return JSONResponse(report.document(server.version, dismissed))


async def get_settings(request: Request) -> Response:
    """Which sections are dismissed."""
    await owner_only(request)
    async with deployment(request).database.read() as session:
        return JSONResponse({"dismissed_healthchecks": await store.dismissed(session)})


async def put_settings(request: Request) -> Response:
    """Dismiss these sections and no others. 304 if that changes nothing, as stock servers answer."""
    await owner_only(request)
    server = deployment(request)
    wanted = sorted(set((await read_json(request, SettingsBody)).dismissed_healthchecks))
    known = {*SECTIONS, *(check.name for check in server.health.all)}
    if unknown := [name for name in wanted if name not in known]:
        raise invalid("dismissed_healthchecks", f"There is no section {unknown[0][:64]!r}: {', '.join(SECTIONS)}.")
    async with server.database.write() as session:
        if wanted == await store.dismissed(session):
            return Response(status_code=304)
        await store.dismiss(session, wanted)
    return JSONResponse({"dismissed_healthchecks": wanted})


async def echo(socket: WebSocket) -> None:
    """Everything comes back, for owners and for our own visit."""
    try:
        if not _is_our_own(socket):
            await owner_only(socket)
    except Problem as problem:
        await refuse(socket, problem)
        return
    await socket.accept()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_echo, socket, tasks.cancel_scope)
        await deployment(socket).stopping.wait()
        tasks.cancel_scope.cancel()


async def _echo(socket: WebSocket, scope: anyio.CancelScope) -> None:
    try:
        for _ in range(MAX_ECHOES):
            with anyio.fail_after(ECHO_PATIENCE):
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if (data := message.get("bytes")) is not None:
                    await socket.send_bytes(data)
                else:
                    await socket.send_text(message.get("text") or "")
        await socket.close(1000)
    except TimeoutError:
        await socket.close(1000, "nothing was said")
    except (WebSocketDisconnect, RuntimeError, OSError):
        pass  # the client is gone
    finally:
        scope.cancel()


def _is_our_own(connection: HTTPConnection) -> bool:
    shown = connection.headers.get(PROBE_HEADER, "")
    return shown.isascii() and compare_digest(shown, deployment(connection).health.probe)
