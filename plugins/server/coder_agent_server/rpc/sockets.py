"""Accepted WebSockets as what others expect: a byte stream for RPC, a message pipe for the relay."""

from __future__ import annotations

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..problems import Problem
from ..websockets import SILENT

MAX_REASON_BYTES = 123
"""RFC 6455 §5.5: a close frame's payload is at most 125 bytes, two of them the code."""


async def refuse(socket: WebSocket, problem: Problem) -> None:
    """Answer the opening handshake with an error document instead of 101."""
    await socket.send_denial_response(problem.response())


class WebSocketStream:
    """The payloads of a WebSocket as one stream of bytes; message boundaries mean nothing."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._close_reason = ""
        self._close_code = 1000
        self._closed = False

    async def receive(self) -> bytes:
        """Some bytes. Raises anyio.EndOfStream when the peer has closed, BrokenResourceError when it fell silent."""
        if self._closed:
            raise anyio.ClosedResourceError
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                self._closed = True
                if message.get("code") == SILENT:
                    raise anyio.BrokenResourceError
                raise anyio.EndOfStream
            data = message.get("bytes")
            if data is None:  # text is not part of this protocol, but its bytes are all that counts
                data = (message.get("text") or "").encode()
            if data:
                return bytes(data)

    async def send(self, item: bytes, /) -> None:
        """Send one message. Raises anyio.BrokenResourceError when the peer is gone."""
        try:
            await self._socket.send_bytes(item)
        except (WebSocketDisconnect, RuntimeError, OSError) as exc:
            raise anyio.BrokenResourceError from exc

    def explain(self, reason: str, code: int = 1000) -> None:
        """What the close frame shall say."""
        self._close_reason, self._close_code = reason, code

    async def aclose(self) -> None:
        """Close with the reason given before; may be called twice."""
        if self._closed and self._socket.client_state is not WebSocketState.CONNECTED:
            return
        self._closed = True
        reason = self._close_reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            await self._socket.close(self._close_code, reason)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # closed by the peer in the meantime


class RelaySocket:
    """`coder_agent.hooks.interfaces.WebSocketLike` over an accepted WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._stream = WebSocketStream(socket)

    async def receive(self) -> bytes | None:
        """The next message's bytes; None when the peer has closed."""
        try:
            return await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return None

    async def send(self, data: bytes) -> None:
        """Send one binary message. Raises anyio.BrokenResourceError."""
        await self._stream.send(data)

    async def close(self, code: int = 1000) -> None:
        """Close; may be called twice."""
        self._stream.explain("", code)
        await self._stream.aclose()
