"""What waits for one client of a relay: bounded, and never in the way of the client that sent it.

As long as the client's connection takes what it is given, bulk goes straight through from the receive buffer and
nothing waits here. When it does not, three queues fill: control frames, disco (path discovery must not stand behind
bulk) and data. Stock relays hold 32 packets of each; that is less than one burst of ours, so disco and data are bounded
in bytes. A full queue loses its *oldest* packets: the newest say most about the path (derpserver.go, sendPkt).
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Protocol

MAX_DATA_BYTES = 512 << 10
"""Data that may wait for one client: 390 full packets, 0.5 s at 8 Mbit/s."""
MAX_DISCO_BYTES = 64 << 10
"""Disco messages are 124 to 1310 bytes: 50 of the padded ones."""
MAX_CONTROL_BYTES = 64 << 10
"""1700 PeerGone frames; beyond that a client that reads nothing loses the oldest."""
PIECE_BYTES = 16 << 10
"""A waiting run is cut into pieces of about this size, so that a full queue loses 12 packets and not 200 in a row."""
FLUSH_BYTES = 128 << 10
"""What is written at once when a blocked connection has room again: half of its shell's high-water mark."""


class Wire(Protocol):
    """A client's connection, as its shell offers it to the relay core."""

    @property
    def blocked(self) -> bool:
        """True while the connection's own buffer is above its high-water mark."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Send, or buffer a copy. `data` is borrowed."""
        ...

    def close(self) -> None:
        """Close the connection; what is buffered may be lost."""
        ...


class _Queue:
    """Pieces of frames, oldest first, bounded in bytes."""

    __slots__ = ("limit", "size", "pieces")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.pieces: deque[tuple[bytes, int]] = deque()

    def push(self, data: bytes, frames: int) -> int:
        """Append; the answer is how many frames were lost at the head to make room."""
        self.pieces.append((data, frames))
        self.size += len(data)
        lost = 0
        while self.size > self.limit and len(self.pieces) > 1:
            oldest, count = self.pieces.popleft()
            self.size -= len(oldest)
            lost += count
        return lost

    def pop(self, most: int) -> bytes:
        """Take the oldest pieces, as one, up to about `most` bytes."""
        taken: list[bytes] = []
        while self.pieces and most > 0:
            data, _ = self.pieces.popleft()
            taken.append(data)
            most -= len(data)
        joined = b"".join(taken)
        self.size -= len(joined)
        return joined


class Outbox:
    """The way out to one client."""

    def __init__(self, wire: Wire, drops: Counter[str]) -> None:
        self._wire = wire
        self._drops = drops
        self._control = _Queue(MAX_CONTROL_BYTES)
        self._disco = _Queue(MAX_DISCO_BYTES)
        self._data = _Queue(MAX_DATA_BYTES)
        self._waiting = False
        self._closed = False

    @property
    def waiting_bytes(self) -> int:
        """What is queued here (the connection's own buffer comes on top)."""
        return self._control.size + self._disco.size + self._data.size

    def control(self, data: bytes) -> None:
        """Send a frame of the relay's own."""
        if self._closed:
            return
        if not self._waiting and not self._wire.blocked:
            self._wire.write(data)
            return
        self._waiting = True
        self._drops["control_queue"] += self._control.push(data, 1)

    def packets(self, data: memoryview, stride: int, count: int, disco: bool) -> None:
        """Send `count` frames that lie every `stride` bytes in `data` (borrowed)."""
        if self._closed:
            self._drops["gone_disconnected"] += count
            return
        if not self._waiting and not self._wire.blocked:
            self._wire.write(data)
            return
        self._waiting = True
        queue = self._disco if disco else self._data
        rows = max(1, PIECE_BYTES // stride)
        for first in range(0, count, rows):
            some = min(rows, count - first)
            lost = queue.push(bytes(data[first * stride : (first + some) * stride]), some)
            if lost:
                self._drops["queue_head"] += lost

    def flush(self) -> None:
        """The connection has room again: control first, then disco, then data."""
        for queue in (self._control, self._disco, self._data):
            while queue.pieces:
                if self._wire.blocked:
                    return
                self._wire.write(queue.pop(FLUSH_BYTES))
        self._waiting = False

    def close(self) -> None:
        """Take nothing any more; count what is lost."""
        self._closed = True
        for queue in (self._disco, self._data):
            self._drops["gone_disconnected"] += sum(count for _, count in queue.pieces)
            queue.pieces.clear()
            queue.size = 0
        self._control.pieces.clear()
        self._control.size = 0
