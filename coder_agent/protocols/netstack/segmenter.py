"""Outgoing bulk: a run of bytes becomes a burst of TCP segments in a scratch buffer that is used again and again.

Two back ends make the same bytes: `VectorSegmenter` (numpy: one broadcast for the headers, one copy for the payload,
one sum for all checksums, about 0.2 µs per segment) and `ScalarSegmenter` (about 2 µs, most of it checksum).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...base.burst import MAX_BURST, Burst
from . import ip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

try:
    import numpy
except ImportError:  # the fast extra is not installed
    _numpy_missing = True
else:
    _numpy_missing = False

SCRATCH_ROWS = 64
_MAX_VIEWS = 256
_SEAL_OVERHEAD = 32
"""WireGuard's header and tag around each packet."""
_MAX_UDP_SEND = 65_507
"""A burst should fit one UDP send (base/burst.py), so large MTUs get fewer rows."""

_PAYLOAD_SIZE_AT = 4
_SEQ_AT = ip.HEADER_SIZE + 4
_FLAGS_AT = ip.HEADER_SIZE + 13
_CHECKSUM_AT = ip.HEADER_SIZE + 16
_SEQ = struct.Struct(">I")
_CHECKSUM = struct.Struct("<H")
_ADDRESSES_AT = 8
"""The checksum covers the addresses and everything behind them, so a row is summed from here."""


def has_numpy() -> bool:
    """True if the vector back end can be used."""
    return not _numpy_missing


class Segmenter(Protocol):
    """Cuts runs into segments. The burst it returns lives in its scratch, until the next call."""

    max_rows: int

    def build(self, head: bytearray, seq: int, payload: memoryview, mss: int, last_flags: int) -> Burst:
        """Segments of `mss` bytes (the last may be shorter), at most `max_rows` of them.

        `head` is the IPv6 and TCP header of the first segment, checksum 0; sequence numbers, payload sizes, checksums
        and, in the last segment, the flags are filled in here. `payload` is not empty.
        """
        ...


def make_segmenter(mtu: int, *, vector: bool) -> Segmenter:
    """The back end asked for. Raises ImportError for `vector` without numpy."""
    return VectorSegmenter(mtu) if vector else ScalarSegmenter(mtu)


def _rows_for(mtu: int) -> int:
    return max(1, min(MAX_BURST, _MAX_UDP_SEND // (mtu + _SEAL_OVERHEAD)))


def _stride_for(mtu: int) -> int:
    return (mtu + 15) & ~15  # rows stay aligned for 64-bit words and need no copy to be padded by WireGuard


class ScalarSegmenter:
    """Plain Python."""

    def __init__(self, mtu: int) -> None:
        self.max_rows = _rows_for(mtu)
        self._stride = _stride_for(mtu)
        self._view = memoryview(bytearray(max(SCRATCH_ROWS if mtu <= 1500 else 1, self.max_rows) * self._stride))

    def build(self, head: bytearray, seq: int, payload: memoryview, mss: int, last_flags: int) -> Burst:
        """See Segmenter."""
        head_size, full = len(head), -(-len(payload) // mss) - 1
        self._fill(0, head, seq, payload[: full * mss], mss)
        tail = len(payload) - full * mss
        last_head = bytearray(head)
        last_head[_FLAGS_AT] = last_flags
        self._fill(full, last_head, seq + full * mss, payload[full * mss :], tail)
        last = head_size + tail
        return Burst(self._view, 0, self._stride, full + 1, head_size + mss if full else last, last)

    def _fill(self, row: int, head: bytearray, seq: int, payload: memoryview, size: int) -> None:
        """Segments of `size` bytes each, from `row` on. `ip.partial_sum` is written out: a call is a tenth of it."""
        view, stride, head_size = self._view, self._stride, len(head)
        upper = head_size - ip.HEADER_SIZE + size
        struct.pack_into(">H", head, _PAYLOAD_SIZE_AT, upper)
        fixed = ip.partial_sum(head[_ADDRESSES_AT:]) + 256 * (upper + ip.TCP)
        steps = ip.folds(size)
        number_of, put_seq, put_checksum = int.from_bytes, _SEQ.pack_into, _CHECKSUM.pack_into
        begin = row * stride
        for at in range(0, len(payload), size):
            part = payload[at : at + size]
            view[begin : begin + head_size] = head
            view[begin + head_size : begin + head_size + size] = part
            number = number_of(part, "little")
            for shift, mask in steps:
                number = (number >> shift) + (number & mask)
            position = (seq + at) & 0xFFFFFFFF
            put_seq(view, begin + _SEQ_AT, position)
            # 256 × n is n with the bytes of its words exchanged (modulo 65535): the sum is over little-endian words
            put_checksum(view, begin + _CHECKSUM_AT, 65535 - (fixed + 256 * position + number) % 65535)
            begin += stride


class _Views(NamedTuple):
    """The parts of the scratch that a burst of one shape touches. Cutting them costs as much as filling some."""

    head: NDArray[np.uint32]
    seq: NDArray[np.uint32]
    offsets: NDArray[np.uint32]
    payload: NDArray[np.uint8]
    summed: NDArray[np.uint32]
    checksum: NDArray[np.uint16]
    padding: NDArray[np.uint8]


class VectorSegmenter:
    """numpy. A call costs about 11 µs for 49 segments, half of it the checksums."""

    def __init__(self, mtu: int) -> None:
        self.max_rows = _rows_for(mtu)
        self._stride = _stride_for(mtu)
        rows = max(SCRATCH_ROWS if mtu <= 1500 else 1, self.max_rows)
        scratch = bytearray(rows * self._stride)
        self._view = memoryview(scratch)
        self._bytes: NDArray[np.uint8] = numpy.frombuffer(scratch, numpy.uint8).reshape(rows, self._stride)
        self._views: dict[tuple[int, int, int], _Views] = {}

    def build(self, head: bytearray, seq: int, payload: memoryview, mss: int, last_flags: int) -> Burst:
        """See Segmenter."""
        head_size, size = len(head), len(payload)
        count = -(-size // mss)
        tail = size - (count - 1) * mss
        row_size = head_size + mss
        views = self._views.get((count, head_size, mss)) or self._cut(count, head_size, mss)
        struct.pack_into(">H", head, _PAYLOAD_SIZE_AT, row_size - ip.HEADER_SIZE)
        views.head[:] = numpy.frombuffer(head, "<u4")
        numpy.add(views.offsets, numpy.uint32(seq & 0xFFFFFFFF), out=views.seq)
        if tail == mss:
            views.payload[:] = numpy.frombuffer(payload, numpy.uint8).reshape(count, mss)
        elif count > 1:
            source = numpy.frombuffer(payload, numpy.uint8, size - tail)
            views.payload[:-1] = source.reshape(count - 1, mss)
        if row_size & 3:
            views.padding[:] = 0  # sums run over whole words
        self._finish_last(count - 1, head_size, tail, payload, mss, last_flags)
        sums = numpy.add.reduce(views.summed, axis=1, dtype=numpy.uint64)
        upper = row_size - ip.HEADER_SIZE
        sums += swap16(upper) + swap16(ip.TCP)
        if tail != mss:
            sums[-1] += 65535 + swap16(upper - mss + tail) - swap16(upper)
        views.checksum[:] = 65535 - sums % 65535
        last = head_size + tail
        return Burst(self._view, 0, self._stride, count, row_size if count > 1 else last, last)

    def _cut(self, count: int, head_size: int, mss: int) -> _Views:
        rows = self._bytes[:count]
        words, end = rows.view("<u4"), head_size + mss
        views = _Views(
            head=words[:, : head_size >> 2],
            seq=rows.view(">u4")[:, _SEQ_AT >> 2],
            offsets=numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(mss),
            payload=rows[:, head_size:end],
            summed=words[:, _ADDRESSES_AT >> 2 : (end + 3) >> 2],
            checksum=rows.view("<u2")[:, _CHECKSUM_AT >> 1],
            padding=rows[:, end : (end + 3) & ~3],
        )
        if len(self._views) >= _MAX_VIEWS:  # a peer that invents segment sizes must not fill memory
            self._views.clear()
        self._views[count, head_size, mss] = views
        return views

    def _finish_last(self, row: int, head_size: int, tail: int, payload: memoryview, mss: int, last_flags: int) -> None:
        """The last segment's flags; and, if it is shorter, its payload, size, and zeros so that the sum is right."""
        at = row * self._stride
        self._view[at + _FLAGS_AT] = last_flags
        if tail != mss:
            begin = at + head_size
            self._view[begin : begin + tail] = payload[len(payload) - tail :]
            self._bytes[row, head_size + tail : (head_size + mss + 3) & ~3] = 0
            struct.pack_into(">H", self._view, at + _PAYLOAD_SIZE_AT, head_size + tail - ip.HEADER_SIZE)


def swap16(value: int) -> int:
    """A 16-bit number of the wire as a little-endian word reads it."""
    return (value & 0xFF) << 8 | value >> 8
