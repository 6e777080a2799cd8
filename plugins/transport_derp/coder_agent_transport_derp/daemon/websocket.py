"""A WebSocket on an asyncio transport whose request head was read already: the sans-I/O half is `websockets`' own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import anyio
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

MAX_MESSAGE = 1 << 20
"""Bytes of one message. Ours have 64 KiB; stock clients send a frame each, at most 64 KiB and its header."""
MAX_QUEUED = 8
"""Messages received and not taken yet: then the connection is not read from."""


class ServerWebSocket(asyncio.Protocol):
    """Serves the relay (`hooks.interfaces.WebSocketLike`). Made with the raw head; `accept` answers it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._machine = ServerProtocol(subprotocols=[Subprotocol("derp")], max_size=MAX_MESSAGE)
        self._messages: deque[bytes] = deque()
        self._partial = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False

    def accept(self, head: bytes) -> bool:
        """Answer the request in `head` (bytes behind it may follow). False: it was refused, or offers no `derp`."""
        self._machine.receive_data(head)
        events = self._machine.events_received()
        if not events:
            self._transport.close()
            return False
        request = events[0]
        assert not isinstance(request, Frame)
        response = self._machine.accept(request)  # type: ignore[arg-type]  # the first event is the request
        if response.status_code == 101 and self._machine.subprotocol != "derp":
            response = self._machine.reject(400, "this relay speaks the subprotocol derp\n")
        self._machine.send_response(response)
        self._flush()
        if response.status_code != 101:
            self._transport.close()
            return False
        self._transport.set_protocol(self)
        self._take(events[1:])
        return True

    # ------------------------------------------------------------ WebSocketLike

    async def receive(self) -> bytes | None:
        """The next message; None when the peer closed."""
        while not self._messages:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        if len(self._messages) == MAX_QUEUED and not self._transport.is_closing():
            self._transport.resume_reading()
        return self._messages.popleft()

    async def send(self, data: bytes) -> None:
        """Send one binary message; waits while the connection takes nothing."""
        await self._writable.wait()
        if self._ended:
            raise anyio.BrokenResourceError
        self._machine.send_binary(data)
        self._flush()

    async def close(self, code: int = 1000) -> None:
        """Say goodbye and close."""
        if not self._ended:
            self._machine.send_close(code)
            self._flush()
        self._transport.close()

    # ------------------------------------------------------------ asyncio

    def data_received(self, data: bytes) -> None:
        self._machine.receive_data(data)
        self._take(self._machine.events_received())
        self._flush()

    def eof_received(self) -> None:
        self._machine.receive_eof()
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _take(self, events: Sequence[object]) -> None:
        for event in events:
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.TEXT:
                self._machine.fail(1003, "binary messages only")
                self._end()
            elif event.opcode in (Opcode.BINARY, Opcode.CONT):
                self._partial += event.data
                if event.fin:
                    self._messages.append(bytes(self._partial))
                    self._partial.clear()
            elif event.opcode is Opcode.CLOSE:
                self._end()
        if len(self._messages) >= MAX_QUEUED and not self._transport.is_closing():
            self._transport.pause_reading()
        self._news.set()

    def _flush(self) -> None:
        for data in self._machine.data_to_send():
            if data:
                self._transport.write(data)
            else:  # the machine's way to say: close
                self._transport.close()

    def _end(self) -> None:
        self._ended = True
        self._news.set()
        self._writable.set()
