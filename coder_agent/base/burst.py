"""The unit of the data path: packets at equal stride in one buffer.

One burst is what a run of the TCP stack, a UDP socket's full GRO reads, or equal DERP frames in a row produce.
Nothing on the data path is done per packet that can be done once per burst (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_RUN = 224
"""Packets of equal size that travel through the program as one burst; a transport cuts it into as many sends as it
needs. Everything above a transport costs 100 to 200 us a burst, so a burst is a read's worth (`RUN_BYTES`)."""
RUN_BYTES = 256 << 10
"""Data in a burst of that many packets: what the data path reads from programs at once."""


@dataclass(slots=True)
class Burst:
    """`count` packets in `buffer`, each `length` bytes but the last, which has `last`.

    Layout: packet i is ``buffer[base + i*stride : base + i*stride + (last if i == count-1 else length)]``.
    `headroom` bytes directly before every packet are writable and belong to it (a relay writes its frame header there).

    Not guaranteed: ownership. A burst is *borrowed*: its buffer is reused by whoever made it as soon as the call that
    handed it over returns (or the iterator that yielded it is advanced). Keep it longer ⇒ copy it (`copy()`).
    """

    buffer: memoryview
    base: int
    stride: int
    count: int
    length: int
    last: int
    headroom: int = 0

    @classmethod
    def of(cls, packet: bytes | bytearray | memoryview) -> Burst:
        """A burst of one packet, around `packet` without copying it."""
        size = len(packet)
        return cls(memoryview(packet), 0, size, 1, size, size)

    def row(self, index: int) -> memoryview:
        """Packet `index` as a view."""
        start = self.base + index * self.stride
        return self.buffer[start : start + (self.last if index == self.count - 1 else self.length)]

    def rows(self) -> list[memoryview]:
        """All packets as views (slow path: one slice per packet)."""
        return [self.row(i) for i in range(self.count)]

    @property
    def size_bytes(self) -> int:
        """Payload bytes of all packets together, without headroom and gaps."""
        return self.length * (self.count - 1) + self.last

    @property
    def contiguous(self) -> bool:
        """True if the packets lie directly behind one another, as a UDP_SEGMENT send needs."""
        return self.count == 1 or self.stride == self.length

    def copy(self) -> Burst:
        """The same packets in memory of their own, closely packed (headroom is lost)."""
        size = self.length
        out = bytearray(self.size_bytes)
        for i in range(self.count):
            row = self.row(i)
            out[i * size : i * size + len(row)] = row
        return Burst(memoryview(out), 0, size, self.count, size, self.last)
