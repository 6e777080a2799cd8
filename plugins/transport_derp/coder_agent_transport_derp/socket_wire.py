"""A WebSocket as a relay connection: slower than a raw one, but passes every proxy."""

from __future__ import annotations

import asyncio

import anyio

from coder_agent.errors import RemoteProtocolError
from coder_agent.hooks.interfaces import WebSocketLike
from coder_agent.protocols.derp.session import RelaySession

from .wire import HIGH_WATER, LOW_WATER

MESSAGE_BYTES = 64 << 10
"""Largest message we send: proxies buffer whole messages."""
WRITE_DEADLINE = 10.0
"""Seconds that one message may take to be written: a client slower than 52 kbit/s is cut off."""


class SocketWire:
    """Collects writes; `run` sends them and reads, until either side ends."""

    def __init__(self, socket: WebSocketLike) -> None:
        self._socket = socket
        self._pending = bytearray()
        self._more = anyio.Event()
        self._scope = anyio.CancelScope()
        self._session: RelaySession | None = None
        self._blocked = False

    @property
    def blocked(self) -> bool:
        """True while too much waits to be sent."""
        return self._blocked

    def write(self, data: bytes | memoryview) -> None:
        """Buffer a copy of `data`."""
        self._pending += data
        self._blocked = self._blocked or len(self._pending) > HIGH_WATER
        self._more.set()

    def close(self) -> None:
        """End `run`."""
        self._scope.cancel()

    async def run(self, session: RelaySession) -> None:
        """Serve until the peer closes, breaks the rules or stops reading."""
        self._session = session
        code = 1000
        with self._scope:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send)
                    code = await self._receive(session)
                    tasks.cancel_scope.cancel()
            except* (OSError, TimeoutError):
                pass  # the connection broke: there is nobody to tell
        with anyio.move_on_after(1, shield=True):
            await self._socket.close(code)

    async def _receive(self, session: RelaySession) -> int:
        clock = asyncio.get_running_loop().time
        while (data := await self._socket.receive()) is not None:
            try:
                pause = session.feed(data, clock())
            except RemoteProtocolError:
                return 1002
            if pause > 0:
                await anyio.sleep(pause)
        return 1000

    async def _send(self) -> None:
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            while self._pending:
                message = bytes(self._pending[:MESSAGE_BYTES])
                del self._pending[:MESSAGE_BYTES]
                with anyio.fail_after(WRITE_DEADLINE):
                    await self._socket.send(message)
                if self._blocked and len(self._pending) <= LOW_WATER and self._session is not None:
                    self._blocked = False
                    self._session.outbox.flush()
