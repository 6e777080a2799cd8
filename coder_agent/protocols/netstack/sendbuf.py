"""What the application wrote and the peer has not acknowledged yet."""

from __future__ import annotations

from bisect import bisect_right

SMALL = 2048
"""Writes below this are copied together: a reference each would cost more than the bytes."""
_TAIL_LIMIT = 65_536


class SendBuffer:
    """A queue of byte blocks addressed by sequence number (unwrapped: a plain growing int).

    Blocks are kept by reference until acknowledged. Finding a position is a bisection, so the cost of cutting a run
    does not grow with what is in flight.
    """

    __slots__ = ("start", "end", "_chunks", "_starts", "_tail")

    def __init__(self, start: int) -> None:
        self.start = start
        """Sequence number of the first byte kept."""
        self.end = start
        """Sequence number behind the last byte."""
        self._chunks: list[memoryview | bytearray] = []
        self._starts: list[int] = []
        self._tail: bytearray | None = None

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, block: memoryview) -> None:
        """Add a block of bytes (format B) at the end."""
        size = len(block)
        if size < SMALL:
            tail = self._tail
            if tail is None or len(tail) > _TAIL_LIMIT:
                tail = self._tail = bytearray()
                self._chunks.append(tail)
                self._starts.append(self.end)
            tail += block
        elif size:
            self._tail = None
            self._chunks.append(block)
            self._starts.append(self.end)
        self.end += size

    def cut(self, start: int, size: int) -> memoryview:
        """`size` bytes from `start` on, which must be held. Use it at once: it may be a view into a growing block."""
        index = bisect_right(self._starts, start) - 1
        offset = start - self._starts[index]
        chunk = self._chunks[index]
        if len(chunk) - offset >= size:
            return memoryview(chunk)[offset : offset + size]
        parts: list[memoryview] = []
        while size:
            part = memoryview(self._chunks[index])[offset : offset + size]
            parts.append(part)
            size -= len(part)
            offset = 0
            index += 1
        return memoryview(b"".join(parts))

    def release(self, until: int) -> None:
        """Forget everything before `until`."""
        until = min(until, self.end)
        if until <= self.start:
            return
        self.start = until
        keep = bisect_right(self._starts, until) - 1
        if keep >= 0 and self._starts[keep] + len(self._chunks[keep]) <= until:
            keep += 1
        if keep > 0:
            if keep == len(self._chunks):
                self._tail = None
            del self._chunks[:keep], self._starts[:keep]

    def clear(self) -> None:
        """Forget everything (the connection is gone)."""
        self.release(self.end)
