"""Datagrams for a local program, never more at once than its socket buffer holds.

What the tunnel delivers comes in bursts, the larger the busier the machine is. A program that asked for nothing has a
buffer of 208 KiB (Linux: net.core.rmem_default), in which a datagram of 1200 bytes takes 2304: the 93rd of a burst
would be lost although the program keeps up. So a burst is handed over in slices, with time between them to read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

SLICE = 128 << 10
"""Bytes of a program's buffer that are filled at once."""
OVERHEAD = 1200
"""Bytes that the kernel keeps beside the data of a datagram, about."""
INTERVAL = 0.001
"""Seconds between two slices: some 400 Mbit/s of datagrams of 1200 bytes."""
QUEUED = 4 << 20
"""Bytes that wait for one program; more are dropped."""


class Pacer:
    """The way to one program. `send` hands over one datagram, and must not keep it."""

    __slots__ = ("dropped", "_send", "_loop", "_queue", "_size", "_at", "_left", "_timer")

    def __init__(self, send: Callable[[bytes | memoryview], None]) -> None:
        self.dropped = 0
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._at = float("-inf")
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: memoryview) -> bool:
        """Hand over now or soon, in order. False: dropped, for too much waits."""
        cost = len(data) + OVERHEAD
        if not self._queue:
            now = self._loop.time()
            if now - self._at >= INTERVAL:
                self._at, self._left = now, SLICE
            if self._left > 0:
                self._left -= cost
                self._send(data)
                return True
        if self._size + cost > QUEUED:
            self.dropped += 1
            return False
        self._queue.append(bytes(data))
        self._size += cost
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._next)
        return True

    def close(self) -> None:
        """Drop what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()
        self._size = 0

    def _next(self) -> None:
        self._timer = None
        self._at, self._left = self._loop.time(), SLICE
        while self._queue and self._left > 0:
            data = self._queue.popleft()
            self._size -= len(data) + OVERHEAD
            self._left -= len(data) + OVERHEAD
            self._send(data)
        if self._queue:
            self._timer = self._loop.call_later(INTERVAL, self._next)
