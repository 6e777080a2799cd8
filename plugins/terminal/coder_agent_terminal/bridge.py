"""A browser's WebSocket joined to a terminal through the server's own tunnel.

Bytes go through as they are, both ways, as Coder's server does it; back-pressure goes with them. Our page, which asks
for marks, is told in text messages what carries the tunnel (`{"path": {…}}`), whenever that changes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import partial
from uuid import uuid4

import anyio
import anyio.abc
from starlette.websockets import WebSocket, WebSocketDisconnect

from coder_agent.base.paths import PathKind
from coder_agent.errors import CoderAgentError
from coder_agent.hooks import Identity, ServerContext
from coder_agent.hooks.events import WorkspaceConnection
from coder_agent.hooks.server_tailnet import TunnelPath
from coder_agent.hooks.web import AgentPlace

from . import PORT
from .protocol import Init

log = logging.getLogger("coder_agent.server.terminal")

PATH_TICK = 1.0
"""Seconds between two looks at what carries the tunnel: nobody reads faster."""
USE_TICK = 60.0
"""Seconds between two notes that the workspace is used, as for every kind of use."""
MAX_REASON = 123
"""Bytes of a close frame's reason (RFC 6455 §5.5)."""
MAX_UPWARD = 1 << 20
"""Bytes of one message from the browser: what the agent takes."""
ENDED, GOING_AWAY, POLICY, TOO_BIG, FAILED, RESTART = 1000, 1001, 1008, 1009, 1011, 1012
"""Close codes (RFC 6455 §7.4.1; 1012: IANA, service restart)."""


class Bridge:
    """One connection, from the accepted handshake to the close frame."""

    def __init__(
        self, context: ServerContext, socket: WebSocket, visitor: Identity, place: AgentPlace, init: Init
    ) -> None:
        self._context = context
        self._socket = socket
        self._visitor = visitor
        self._place = place
        self._init = init
        self._code, self._reason = ENDED, ""
        self._scope = anyio.CancelScope()
        self._is_open = True
        self._rx = self._tx = 0  # bytes, as the workspace sees them

    async def run(self) -> None:
        """Accept, dial, join, close."""
        await self._socket.accept()
        forget = self._context.watch_key(self._visitor, partial(self._end, POLICY))
        opening = self._opening()
        self._context.emit(opening)
        try:
            with self._scope:
                await self._join()
        finally:
            forget()
            over = replace(opening, opened=False, reason=self._reason, rx_bytes=self._rx, tx_bytes=self._tx)
            self._context.emit(over)
            with anyio.CancelScope(shield=True), anyio.move_on_after(1):
                await self._close()

    async def _join(self) -> None:
        try:
            stream = await self._context.tailnet.dial(self._place.agent_id, PORT)
        except CoderAgentError as exc:
            self._end(FAILED, exc.message)
            return
        async with stream:
            try:
                await stream.send(self._init.encode())
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._down, stream)
                    tasks.start_soon(self._note_use)
                    tasks.start_soon(self._stop)
                    if self._init.marks:
                        tasks.start_soon(self._tell_path)
                    await self._up(stream)
                    tasks.cancel_scope.cancel()
            except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._end(FAILED, f"the connection to {self._place.label} broke")

    async def _up(self, stream: anyio.abc.ByteStream) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._is_open = False
                self._end(GOING_AWAY, "the browser left")
                return
            data = message.get("bytes") or (message.get("text") or "").encode()
            if len(data) > MAX_UPWARD:
                self._end(TOO_BIG, f"a message is longer than {MAX_UPWARD} bytes")
                return
            await stream.send(data)
            self._rx += len(data)

    async def _down(self, stream: anyio.abc.ByteStream) -> None:
        try:
            while True:
                data = await stream.receive()
                self._tx += len(data)
                await self._send(data)
        except anyio.EndOfStream:
            self._end(ENDED, "the terminal ended")

    async def _send(self, data: bytes | str) -> None:
        try:
            if isinstance(data, str):
                await self._socket.send_text(data)
            else:
                await self._socket.send_bytes(data)
        except (WebSocketDisconnect, RuntimeError, OSError) as exc:
            self._is_open = False
            raise anyio.BrokenResourceError from exc

    async def _tell_path(self) -> None:
        last = ""
        while True:
            now = json.dumps({"path": path_document(self._context.tailnet.path(self._place.agent_id))})
            if now != last:
                await self._send(now)
                last = now
            await anyio.sleep(PATH_TICK)

    async def _note_use(self) -> None:
        while True:
            await self._context.used(self._place)
            await anyio.sleep(USE_TICK)

    async def _stop(self) -> None:
        await self._context.stopping.wait()
        self._end(RESTART, "the server is shutting down")

    def _end(self, code: int, reason: str) -> None:
        """The first reason counts."""
        if not self._reason:
            self._code, self._reason = code, reason
        self._scope.cancel()

    async def _close(self) -> None:
        if not self._is_open:
            return
        reason = self._reason.encode()[:MAX_REASON].decode(errors="ignore")
        try:
            await self._socket.close(self._code, reason)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # gone meanwhile

    def _opening(self) -> WorkspaceConnection:
        """For the connection log."""
        return WorkspaceConnection(
            id=uuid4(),
            opened=True,
            kind="reconnecting_pty",
            workspace_id=self._place.workspace_id,
            agent_name=self._place.agent_name,
            user_id=self._visitor.user_id,
            ip=self._context.client_address(self._socket),
            user_agent=self._socket.headers.get("user-agent", ""),
        )


def path_document(path: TunnelPath | None) -> dict[str, object]:
    """What carries the server's leg, for the page. `latency_ms` is rounded so that news are news."""
    if path is None:
        return {"kind": "none"}
    latency = None if path.latency is None else round(path.latency * 1000, 0 if path.latency > 0.01 else 1)
    if path.kind is PathKind.DIRECT:
        return {"kind": "direct", "latency_ms": latency}
    if path.kind is PathKind.RELAYED:
        region = path.region_name or str(path.region)
        return {"kind": "relayed", "region": region, "latency_ms": latency, "reason": path.reason}
    return {"kind": "none", "reason": path.reason}
