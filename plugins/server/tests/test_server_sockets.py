"""WebSockets as byte streams: how one ended."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest
from coder_agent_server.rpc.sockets import WebSocketStream
from coder_agent_server.websockets import SILENT
from starlette.types import Message
from starlette.websockets import WebSocket

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("code", "raised"), [(1005, anyio.EndOfStream), (1001, anyio.EndOfStream), (SILENT, anyio.BrokenResourceError)]
)
async def test_how_a_websocket_ended_is_passed_on(code: int, raised: type[Exception]) -> None:
    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    messages: Iterator[Message] = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": code}])
    socket = WebSocket({"type": "websocket"}, receive, send)
    await socket.receive()
    with pytest.raises(raised):
        await WebSocketStream(socket).receive()
