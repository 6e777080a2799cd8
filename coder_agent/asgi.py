"""ASGI applications in the tunnel, with no TCP port opened in the workspace.

In an agent plugin, at a port of its own:

    @hookimpl
    def coder_agent_services(settings):
        return [AsgiService("notes", 8123, app)]

In any program beside the agent:

    async with coder_agent.listen(8123, asgi.handler(app)), asgi.lifespan(app):
        await anyio.sleep_forever()

Both are served like every other app of the workspace: HTTP/1.1 with streaming both ways, trailers and WebSockets.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from .errors import ConfigError
from .hooks.interfaces import AgentFacts
from .runtime.asgi_http import AsgiApp, HttpConnection, Place
from .runtime.background import background

__all__ = ["AsgiApp", "AsgiService", "handler", "lifespan", "serve_asgi"]

log = logging.getLogger(__name__)

LIFESPAN_TIMEOUT = 30.0
"""Seconds for an application to start."""
STOP_TIMEOUT = 4.0
"""Seconds for it to stop: an agent that ends waits for five (LivingService)."""


async def serve_asgi(
    stream: anyio.abc.ByteStream, app: AsgiApp, *, port: int | None = None, state: dict[str, Any] | None = None
) -> None:
    """Serve one connection until either side ends it; the stream stays the caller's to close. `state` goes into every
    scope. An exception of the application is logged, and is answered with 500."""
    place = Place(server=("localhost", port), state=state or {})
    connection = HttpConnection(stream, app, place)
    await connection.run()
    if connection.upgraded is not None:
        from .runtime.asgi_websocket import WebSocketConnection  # most applications never need it

        request, behind = connection.upgraded
        await WebSocketConnection(stream, app, place, request, behind).run()


def handler(app: AsgiApp, *, state: dict[str, Any] | None = None) -> Callable[[anyio.abc.ByteStream], Awaitable[None]]:
    """`serve_asgi` as `coder_agent.listen` wants it."""

    async def serve(stream: anyio.abc.ByteStream) -> None:
        await serve_asgi(stream, app, state=state)

    return serve


@asynccontextmanager
async def lifespan(app: AsgiApp) -> AsyncIterator[dict[str, Any]]:
    """Start the application, yield its state, stop it (ASGI lifespan protocol 2.0). One that does not know the protocol
    is served all the same. Raises ConfigError if it says that it cannot start."""
    life = _Lifespan(app)
    async with background() as tasks:
        tasks.start_soon(life.run)
        with anyio.move_on_after(LIFESPAN_TIMEOUT) as limit:
            await life.started.wait()
        if limit.cancelled_caught or life.failure is not None:
            raise ConfigError(f"the ASGI application cannot start: {life.failure or 'it takes too long'}")
        try:
            yield life.state
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_TIMEOUT):
                life.stop.set()
                await life.stopped.wait()


class _Lifespan:
    def __init__(self, app: AsgiApp) -> None:
        self.state: dict[str, Any] = {}
        self.failure: str | None = None
        self.started, self.stop, self.stopped = anyio.Event(), anyio.Event(), anyio.Event()
        self._app = app
        self._told = False

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as exc:
            if self.started.is_set():
                log.exception("the ASGI application failed in its lifespan")
            else:
                log.debug("the ASGI application has no lifespan: %r", exc)
        finally:
            self.started.set()
            self.stopped.set()

    async def _receive(self) -> dict[str, Any]:
        if not self._told:
            self._told = True
            return {"type": "lifespan.startup"}
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Any) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.failed":
            self.failure = message.get("message") or "it does not say why"
        if kind.startswith("lifespan.startup"):
            self.started.set()
        elif kind.startswith("lifespan.shutdown"):
            self.stopped.set()


class AsgiService:
    """An agent service (hook `coder_agent_services`) that is an ASGI application at `port` (9 to 65535).

    Its scopes' ``state["coder"]`` is a call that answers whom the agent serves (hooks.AgentFacts).
    """

    def __init__(self, name: str, port: int, app: AsgiApp) -> None:
        self.name = name
        self.port = port
        self._app = app
        self._state: dict[str, Any] = {}

    @asynccontextmanager
    async def open(self, facts: Callable[[], AgentFacts]) -> AsyncIterator[None]:
        """The application lives as long as the agent."""
        async with lifespan(self._app) as state:
            self._state = {**state, "coder": facts}
            yield

    async def serve(self, stream: anyio.abc.ByteStream) -> None:
        """One connection."""
        await serve_asgi(stream, self._app, port=self.port, state=self._state)
