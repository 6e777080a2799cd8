"""A visitor's connection: an asyncio protocol with a bounded buffer, back-pressure both ways, and patience with an end.

asyncio itself and not anyio's streams, because the server hands over asyncio transports and each small request would
pay for the layers between.
"""

from __future__ import annotations

import asyncio

from coder_agent.hooks.web_apps import RequestMark

from .http1 import MAX_HEAD
from .waits import Deadline, Waits

HIGH_WATER = 128 << 10
"""Bytes that may wait in either direction before the sender is slowed down."""
HEAD_SECONDS = 10.0
"""How long a head may take from its first byte. The server's own limit (plugins/server upgrade.py)."""


class Disconnected(Exception):
    """The visitor is gone."""


class TooSlow(Exception):
    """The visitor did not send in time."""


class BrowserStream(asyncio.Protocol):
    """Reads and writes of one connection. `waits` are those on its behalf: they end when the visitor is gone."""

    def __init__(self, transport: asyncio.Transport, initial: bytes, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.waits = Waits(loop)
        self.lost = False
        self.eof = False
        self.sent = 0
        """Bytes, since the connection is ours."""
        self.status = 0
        """Of the answer to the present request; 0 = there is none yet."""
        self.lines = b""
        """What the server adds to the head of that answer (`coder_agent.hooks.web_apps.RequestMark`)."""
        self._received = len(initial)
        self._loop = loop
        self._buffer = bytearray(initial)
        self._reading = False
        self._waiter: asyncio.Future[bool] | None = None
        self._patience = Deadline(loop, self._too_late)
        self._drained: asyncio.Future[None] | None = None
        transport.set_write_buffer_limits(HIGH_WATER)

    def start(self) -> None:
        """Take the transport's events from now on."""
        self.transport.set_protocol(self)
        self._read_on()

    # ------------------------------------------------------------ asyncio

    def data_received(self, data: bytes) -> None:
        """Bytes."""
        self._received += len(data)
        self._buffer += data
        if len(self._buffer) >= HIGH_WATER and self._reading:
            self._reading = False
            self.transport.pause_reading()
        self._wake(True)

    def eof_received(self) -> bool:
        """The visitor sends no more, but may still read (half-close): keep the transport."""
        self.eof = True
        self._wake(True)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self.lost = self.eof = True
        self._wake(True)
        self.resume_writing()
        self.waits.stop()

    def pause_writing(self) -> None:
        """The visitor reads slowly."""
        self._drained = self._drained or self._loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        if self._drained is not None:
            if not self._drained.done():
                self._drained.set_result(None)
            self._drained = None

    def mark(self, mark: RequestMark) -> RequestMark:
        """A request begins, marked by the server."""
        self.status, self.lines = 0, mark.lines
        return mark

    # ------------------------------------------------------------ reading

    @property
    def taken(self) -> int:
        """Bytes that were read, since the connection is ours."""
        return self._received - len(self._buffer)

    async def read_head(self, idle_seconds: float) -> bytes | None:
        """Everything that is buffered, once it holds a whole head or too much for one; it stays in the buffer. None:
        the visitor left, or said nothing for `idle_seconds`. Raises TooSlow."""
        until = self._loop.time() + (HEAD_SECONDS if self._buffer else idle_seconds)
        begun = bool(self._buffer)
        while b"\r\n\r\n" not in self._buffer and len(self._buffer) <= MAX_HEAD:
            if self.eof:
                return None
            if not await self._more(until - self._loop.time()):
                if begun:
                    raise TooSlow
                return None
            if not begun and self._buffer:
                begun, until = True, self._loop.time() + HEAD_SECONDS
        return bytes(self._buffer)

    def consume(self, count: int) -> None:
        """Forget the first bytes of the buffer."""
        del self._buffer[:count]
        self._read_on()

    async def read(self, at_most: int, seconds: float | None) -> bytes:
        """Some bytes; empty at the end. Raises TooSlow, Disconnected."""
        while not self._buffer:
            if self.lost:
                raise Disconnected
            if self.eof:
                return b""
            if not await self._more(seconds):
                raise TooSlow
        data = bytes(self._buffer[:at_most])
        del self._buffer[:at_most]
        self._read_on()
        return data

    def unread(self, data: bytes) -> None:
        """Put back what belongs to the next request."""
        self._buffer[:0] = data

    def take_buffer(self) -> bytes:
        """Everything that is buffered; nothing is left."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def pause(self) -> None:
        """Receive nothing until somebody reads."""
        if self._reading:
            self._reading = False
            self.transport.pause_reading()

    # ------------------------------------------------------------ writing

    async def write(self, data: bytes) -> None:
        """Send, waiting while the visitor reads too slowly. Raises Disconnected."""
        if self.lost:
            raise Disconnected
        self.sent += len(data)
        self.transport.write(data)
        if self._drained is not None:
            await self._drained
            if self.lost:
                raise Disconnected

    async def answer(self, reply: bytes) -> None:
        """Send a whole answer of our own. Raises Disconnected."""
        self.status = int(reply[9:12])
        head = reply.index(b"\r\n") + 2
        await self.write(reply[:head] + self.lines + reply[head:])

    def marked(self, head: bytes, status: int) -> bytes:
        """The head of an app's answer, as it goes out."""
        self.status = status
        return head[:-2] + self.lines + b"\r\n"

    def write_eof(self) -> None:
        """Send no more; where the transport cannot say so (TLS), close."""
        if self.lost:
            return
        if self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:  # it has just left, and nobody has told us yet
                self.transport.abort()
        else:
            self.transport.close()

    def close(self) -> None:
        """Close when all is sent."""
        self.transport.close()

    def abort(self) -> None:
        """Close now."""
        self.transport.abort()

    def forget(self) -> None:
        """Nobody will ask again."""
        self._patience.close()
        self.waits.deadline.close()

    # ------------------------------------------------------------ inside

    def _read_on(self) -> None:
        if not self._reading and len(self._buffer) < HIGH_WATER and not self.lost and not self.transport.is_closing():
            self._reading = True
            self.transport.resume_reading()

    def _wake(self, value: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(value)

    def _too_late(self) -> None:
        self._wake(False)

    async def _more(self, seconds: float | None) -> bool:
        """Wait for news. False after `seconds`."""
        self._read_on()
        self._waiter = self._loop.create_future()
        self._patience.move(seconds)
        try:
            return await self._waiter
        finally:
            self._waiter = None
            self._patience.move(None)
