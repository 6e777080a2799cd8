"""Two asyncio transports that are each other's far end, in one process and without a socket.

Delivery is always in a later turn of the loop, so that no protocol is called from within its own write. What waits is
bounded as with a socket: above the writer's high-water mark its protocol is told to pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

HIGH_WATER = 256 << 10
"""Bytes that wait for the reader above which the writer is paused, unless it sets limits of its own."""
TURN_BYTES = 1 << 20
"""Bytes handed over in one turn of the loop: others must get theirs too."""


class MemoryTransport(asyncio.Transport):
    """One end. Made by `memory_pair`; a protocol must be set before the first turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._peer: MemoryTransport = self
        self._protocol: asyncio.BaseProtocol = asyncio.Protocol()
        self._inbox: deque[memoryview] = deque()
        self._waiting = 0
        self._scheduled = False
        self._reading = True
        self._closing = False
        self._lost = False
        self._eof = False  # the peer will write no more
        self._writer_paused = False  # we told the peer's protocol to pause
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4

    # ------------------------------------------------------------ asyncio.BaseTransport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is nothing to know: no socket, no addresses, no TLS."""
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is called from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who is called."""
        return self._protocol

    def is_closing(self) -> bool:
        """Closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """What was written still arrives; then both ends are lost."""
        if not self._closing:
            self._closing = True
            self._inbox.clear()
            self._peer._eof = True
            self._peer._schedule()
            self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """Both ends are lost at once, and with them what waits."""
        for end in (self, self._peer):
            if not end._lost:
                end._closing = True
                end._inbox.clear()
                end._loop.call_soon(end._lose, None)

    # ------------------------------------------------------------ reading

    def is_reading(self) -> bool:
        """Does the protocol want data?"""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Deliver nothing more until `resume_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        self._reading = True
        self._schedule()

    # ------------------------------------------------------------ writing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio: `low` is a quarter of `high` unless given."""
        self._high = HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high)."""
        return self._low, self._high

    def get_write_buffer_size(self) -> int:
        """Bytes that the other end has not taken yet."""
        return self._peer._waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue a copy (bytes are kept as they are)."""
        peer = self._peer
        if self._closing or peer._closing or not len(data):
            return
        chunk = memoryview(data if isinstance(data, bytes) else bytes(data))
        peer._inbox.append(chunk)
        peer._waiting += len(chunk)
        peer._schedule()
        if peer._waiting > self._high and not peer._writer_paused:
            peer._writer_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """One after the other."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Half-closing is not possible."""
        return False

    def write_eof(self) -> None:
        """Not possible."""
        raise NotImplementedError("a memory transport cannot be half-closed")

    # ------------------------------------------------------------ delivery

    def _schedule(self) -> None:
        if not self._scheduled and not self._closing:
            self._scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        budget = TURN_BYTES
        while self._inbox and self._reading and not self._closing and budget > 0:
            budget -= self._hand_over(self._inbox[0])
        self._let_writer_go_on()
        if self._closing:
            return
        if self._inbox:
            if self._reading:
                self._schedule()
        elif self._eof:
            self.close()

    def _hand_over(self, chunk: memoryview) -> int:
        """Give the protocol what it has room for; answers how much that was."""
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            room = memoryview(protocol.get_buffer(len(chunk)))
            size = min(len(room), len(chunk))
            room[:size] = chunk[:size]
            del room  # a buffer that is exported cannot grow
            self._took(chunk, size)
            protocol.buffer_updated(size)
        else:
            assert isinstance(protocol, asyncio.Protocol)
            size = len(chunk)
            self._took(chunk, size)
            protocol.data_received(bytes(chunk))
        return size

    def _took(self, chunk: memoryview, size: int) -> None:
        self._waiting -= size
        if size == len(chunk):
            self._inbox.popleft()
        else:
            self._inbox[0] = chunk[size:]

    def _let_writer_go_on(self) -> None:
        writer = self._peer
        if self._writer_paused and self._waiting <= writer._low and not writer._lost:
            self._writer_paused = False
            writer._protocol.resume_writing()

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._waiting = 0
            self._protocol.connection_lost(error)


def memory_pair(loop: asyncio.AbstractEventLoop) -> tuple[MemoryTransport, MemoryTransport]:
    """Two ends of one connection."""
    one, other = MemoryTransport(loop), MemoryTransport(loop)
    one._peer, other._peer = other, one
    return one, other
