"""From a byte stream to frames and runs, without copying packets.

One arena serves every connection of an event loop: bytes are received into it, looked at, rewritten and forwarded
where they lie, and only the incomplete frame at its end (650 bytes on average) is kept per connection and put back in
front of the next read. So a connection that says nothing costs no buffer, and there is no ring to wrap around: a run is
always one contiguous piece of memory. What an arena holds is borrowed until the next read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...base.burst import Burst
from ...base.keys import KEY_SIZE
from ...errors import RemoteProtocolError
from .frames import HEADER_SIZE, MAX_INFO_SIZE, MAX_PACKET_SIZE, PACKET_HEADER_SIZE, FrameType
from .runs import run_length

ARENA_SIZE = 320 << 10
"""One read of 256 KiB (more does not pay: datapath measurements) and the longest frame that may be left over before."""


class Arena:
    """A receive buffer, shared by the streams of one event loop (or owned by one stream)."""

    __slots__ = ("data", "view")

    def __init__(self, size: int = ARENA_SIZE) -> None:
        self.data = bytearray(size)
        self.view = memoryview(self.data)


@dataclass(slots=True)
class ControlFrame:
    """Any frame that is not bulk. `payload` is a copy."""

    kind: int
    payload: bytes


@dataclass(slots=True)
class PacketRun:
    """Consecutive packet frames with the same key and size. `burst` is borrowed and has 37 bytes of headroom."""

    key: bytes
    burst: Burst

    @property
    def start(self) -> int:
        """Where the first frame's header begins in the burst's buffer."""
        return self.burst.base - PACKET_HEADER_SIZE

    @property
    def end(self) -> int:
        """Where the last frame ends."""
        return self.burst.base + self.burst.stride * self.burst.count - PACKET_HEADER_SIZE


class FrameStream:
    """Incremental decoder of one connection.

    `bulk` is the packet frame type of this side; `limits` maps each other frame type of interest to its allowed payload
    sizes. Types not in it are skipped without being buffered. A size outside the limits raises RemoteProtocolError if
    `strict`, else the frame is skipped and counted in `malformed`.

    Use: receive into `room()`, then iterate `received(count)` to its end.
    """

    def __init__(
        self, bulk: FrameType, limits: Mapping[int, tuple[int, int]], *, strict: bool, arena: Arena | None = None
    ) -> None:
        self._arena = arena or Arena()
        self._bulk = int(bulk)
        self._limits = limits
        self._strict = strict
        self._carry = b""
        self._skip = 0
        self.malformed = 0

    def room(self) -> memoryview:
        """Where the next bytes of the connection belong."""
        carry = self._carry
        if carry:
            self._arena.data[: len(carry)] = carry
        return self._arena.view[len(carry) :]

    def feed(self, data: bytes | memoryview) -> Iterator[ControlFrame | PacketRun]:
        """`received` for bytes that came some other way."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            yield from self.received(count)
            view = view[count:]

    def received(self, count: int) -> Iterator[ControlFrame | PacketRun]:
        """What the `count` bytes just put into `room()` complete. Raises RemoteProtocolError."""
        data = self._arena.data
        end = len(self._carry) + count
        position = 0
        if self._skip:
            position = min(self._skip, end)
            self._skip -= position
        while end - position >= HEADER_SIZE:
            kind = data[position]
            length = int.from_bytes(data[position + 1 : position + HEADER_SIZE], "big")
            size = HEADER_SIZE + length
            if not self._wanted(kind, length):
                self._skip = max(0, position + size - end)
                position = min(position + size, end)
                continue
            if end - position < size:
                break
            if kind == self._bulk:
                count = run_length(data, position, size, (end - position) // size)
                yield self._run(position, size, count)
                position += count * size
            else:
                yield ControlFrame(kind, bytes(data[position + HEADER_SIZE : position + size]))
                position += size
        self._carry = bytes(data[position:end])

    def _run(self, position: int, size: int, count: int) -> PacketRun:
        base = position + PACKET_HEADER_SIZE
        length = size - PACKET_HEADER_SIZE
        key = bytes(self._arena.data[position + HEADER_SIZE : base])
        return PacketRun(key, Burst(self._arena.view, base, size, count, length, length, PACKET_HEADER_SIZE))

    def _wanted(self, kind: int, length: int) -> bool:
        """Is this frame to be delivered (True) or skipped (False)?"""
        if kind == self._bulk:
            smallest, largest = KEY_SIZE, KEY_SIZE + MAX_PACKET_SIZE
        elif kind in self._limits:
            smallest, largest = self._limits[kind]
        else:
            smallest, largest = 0, -1  # not of interest, whatever its size
        if smallest <= length <= largest:
            return True
        if length > MAX_INFO_SIZE:
            raise RemoteProtocolError(f"a frame of type {kind:#04x} with {length} bytes is too long")
        if largest >= 0:
            if self._strict:
                raise RemoteProtocolError(f"a frame of type {kind:#04x} must not have {length} bytes")
            self.malformed += 1
        return False
