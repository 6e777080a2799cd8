"""Deadlines of many connections, cheap where it is hot.

A connection's deadline moves forward with every acknowledgement. The queue keeps one entry per connection that is
never *later* than its deadline; when it is popped too early, it goes back in with the deadline of then. So the hot
path only compares two floats.
"""

from __future__ import annotations

import heapq
from itertools import count

from .tcp import TcpConnection

_INFINITY = float("inf")


class TimerQueue:
    """A heap of (time, connection). Entries of connections that were moved earlier or closed are skipped."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, TcpConnection]] = []
        self._serial = count()

    def schedule(self, connection: TcpConnection) -> None:
        """Make sure that `connection` is looked at by its deadline."""
        at = connection.deadline()
        if at < connection.scheduled:
            connection.scheduled = at
            heapq.heappush(self._heap, (at, next(self._serial), connection))

    def cancel(self, connection: TcpConnection) -> None:
        """It is closed."""
        connection.scheduled = -_INFINITY

    def deadline(self) -> float:
        """The earliest entry; inf = none."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].scheduled:
            heapq.heappop(heap)
        return heap[0][0] if heap else _INFINITY

    def due(self, now: float) -> list[TcpConnection]:
        """Connections whose deadline has come. Each must be scheduled again afterwards."""
        out: list[TcpConnection] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, connection = heapq.heappop(heap)
            if at != connection.scheduled:
                continue
            connection.scheduled = _INFINITY
            if connection.deadline() <= now:
                out.append(connection)
            else:
                self.schedule(connection)
        return out
