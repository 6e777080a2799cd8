"""uvicorn's WebSocket protocol without its complaint about refused handshakes."""

from __future__ import annotations

import errno

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

SILENT = 1011
"""Code of the disconnect when the peer was not heard any more, instead of closing its end. RFC 6455 §7.4.1 has it for a
server that cannot go on; `websockets` uses it for pings without pong."""
_NO_WAY = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b'Content-Length: 63\r\n\r\n{"message":"The head of this WebSocket request is too large."}\n'
)


class QuietWebSocketProtocol(WebSocketsSansIOProtocol):
    """Answering a handshake with an error document is an answer, too; and every handshake is answered.

    uvicorn 0.54 sends it correctly, then logs "ASGI callable returned without completing handshake" as an error, once
    per refusal: any stranger could fill the log.
    """

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes. A head that `websockets` does not take (8 KiB a line, 128 lines) would be left unanswered."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.handshake_initiated = True
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        """uvicorn: no pong came."""
        self.queue.put_nowait({"type": "websocket.disconnect", "code": SILENT})
        super().keepalive_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is over."""
        if isinstance(exc, OSError) and exc.errno in _NO_WAY:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": SILENT})
        super().connection_lost(exc)

    async def send(self, message: ASGISendEvent) -> None:
        """ASGI."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
