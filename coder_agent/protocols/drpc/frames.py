"""dRPC frames, and packets put together from them.

Layout: control byte (bit 0 done, bits 1–6 kind, bit 7 control) ‖ varint stream id ‖ varint message id ‖ varint length
‖ data. A packet is one or more frames with the same ids and kind, the last marked done. Ids start at 1 and never go
back; a frame with a newer id throws an unfinished older packet away.

Source: storj/drpc drpcwire/packet.go, drpcwire/reader.go.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from ...errors import LocalProtocolError, RemoteProtocolError

SPLIT_SIZE = 64 * 1024
"""Data bytes per frame at most (drpcwire.SplitData's default)."""
MAX_MESSAGE = 4 * 1024 * 1024
"""Bytes of one packet at most (drpcwire.ReaderOptions.MaximumBufferSize's default)."""
_DONE = 0x01
_CONTROL = 0x80
_MAX_VARINT = 10  # bytes that a 64-bit number needs


class Kind(IntEnum):
    """What a packet is. Other numbers exist in the future: they are ignored if they carry the control bit."""

    INVOKE = 1
    MESSAGE = 2
    ERROR = 3
    CANCEL = 4
    CLOSE = 5
    CLOSE_SEND = 6
    INVOKE_METADATA = 7


class Packet(NamedTuple):
    """One whole packet. `kind` is a plain number, for it may be one that we do not know."""

    stream_id: int
    message_id: int
    kind: int
    control: bool
    data: bytes


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_packet(
    stream_id: int, message_id: int, kind: int, data: bytes = b"", *, control: bool = False, split: int = SPLIT_SIZE
) -> bytes:
    """The frames of one packet. Raises LocalProtocolError for more than 4 MiB."""
    if len(data) > MAX_MESSAGE:
        raise LocalProtocolError(f"dRPC: a message of {len(data)} bytes is over the limit of {MAX_MESSAGE}")
    ids = _varint(stream_id) + _varint(message_id)
    first = kind << 1 | (_CONTROL if control else 0)
    out: list[bytes] = []
    for start in range(0, len(data) or 1, split):
        chunk = data[start : start + split]
        done = start + split >= len(data)
        out += (bytes((first | done,)), ids, _varint(len(chunk)), chunk)
    return b"".join(out)


class PacketReader:
    """Puts packets together from bytes, however they were cut. Memory: one packet and one frame, 4 MiB each at most."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._last = (0, 1)
        self._partial: bytearray | None = None
        self._kind = 0
        self._control = False

    @property
    def pending_bytes(self) -> int:
        """Bytes held that do not make a packet yet."""
        return len(self._buffer) + len(self._partial or b"")

    def receive(self, data: bytes) -> list[Packet]:
        """Take bytes, return the packets they complete. Raises RemoteProtocolError."""
        self._buffer += data
        packets: list[Packet] = []
        offset = 0
        while (frame_end := self._frame(offset, packets)) is not None:
            offset = frame_end
        del self._buffer[:offset]
        return packets

    def _frame(self, offset: int, packets: list[Packet]) -> int | None:
        """Handle the frame at `offset` of the buffer; its end, or None if it is not all there yet."""
        buffer = self._buffer
        if offset >= len(buffer):
            return None
        control = buffer[offset]
        position: int | None = offset + 1
        numbers = []
        for _ in range(3):
            value, position = _read_varint(buffer, position)
            if position is None:
                return None
            numbers.append(value)
        stream_id, message_id, length = numbers
        if length > MAX_MESSAGE:
            raise RemoteProtocolError(f"dRPC: a frame of {length} bytes is over the limit of {MAX_MESSAGE}")
        assert position is not None
        end = position + length
        if end > len(buffer):
            return None
        packet = self._add(control, (stream_id, message_id), bytes(buffer[position:end]))
        if packet is not None:
            packets.append(packet)
        return end

    def _add(self, control: int, ids: tuple[int, int], data: bytes) -> Packet | None:
        kind = (control & 0x7E) >> 1
        if 0 in ids:
            raise RemoteProtocolError("dRPC: ids start at 1")
        if ids < self._last:
            raise RemoteProtocolError(f"dRPC: id {ids} after {self._last}")
        if self._partial is None or ids != self._last:
            self._last, self._kind, self._control = ids, kind, False
            self._partial = bytearray()
        elif kind != self._kind:
            raise RemoteProtocolError(f"dRPC: a packet changed from kind {self._kind} to {kind}")
        # One frame with the control bit makes the whole packet one (drpcwire/reader.go).
        self._control |= bool(control & _CONTROL)
        self._partial += data
        if len(self._partial) > MAX_MESSAGE:
            raise RemoteProtocolError(f"dRPC: a message over the limit of {MAX_MESSAGE} bytes")
        if not control & _DONE:
            return None
        packet = Packet(ids[0], ids[1], kind, self._control, bytes(self._partial))
        self._partial = None
        self._last = (ids[0], ids[1] + 1)
        return packet


def _read_varint(buffer: bytearray, position: int | None) -> tuple[int, int | None]:
    """Number and next position; position None if the number is not complete."""
    assert position is not None
    value = 0
    for i in range(_MAX_VARINT):
        if position + i >= len(buffer):
            return 0, None
        byte = buffer[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + i + 1
    raise RemoteProtocolError("dRPC: a varint longer than 64 bits")
