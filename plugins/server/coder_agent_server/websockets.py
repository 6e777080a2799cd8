"""uvicorn's WebSocket protocol without its complaint about refused handshakes."""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class QuietWebSocketProtocol(WebSocketsSansIOProtocol):
    """Answering a handshake with an error document is an answer, too.

    uvicorn 0.54 sends it correctly, then logs "ASGI callable returned without completing handshake" as an error, once
    per refusal: any stranger could fill the log.
    """

    async def send(self, message: ASGISendEvent) -> None:
        """ASGI."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
