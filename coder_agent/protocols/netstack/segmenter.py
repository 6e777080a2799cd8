"""Outgoing bulk: a run of bytes becomes a burst of TCP segments in a scratch buffer that is used again and again.

Two back ends make the same bytes: `VectorSegmenter` (numpy: one broadcast for the headers, one copy for the payload,
one sum for all checksums, about 0.2 µs per segment) and `ScalarSegmenter` (about 2 µs, most of it checksum).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ...base.buffers import reserve
from ...base.burst import MAX_RUN, RUN_BYTES, Burst
from ...base.optional_numpy import load_numpy
from . import ip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VECTOR_ROWS = 6
"""Rows from which numpy, at about 11 µs a call, is cheaper than 2 µs a row. Also: who sends little never loads it."""
_MAX_VIEWS = 256
_MAX_SIZES = 8
"""Packet sizes beside the usual one: those that are probed (magicsock), over IPv4 and IPv6."""
_HEADERS = ip.HEADER_SIZE + 20
"""Of IPv6 and TCP without options."""

_PAYLOAD_SIZE_AT = 4
_SEQ_AT = ip.HEADER_SIZE + 4
_FLAGS_AT = ip.HEADER_SIZE + 13
_CHECKSUM_AT = ip.HEADER_SIZE + 16
_SEQ = struct.Struct(">I")
_CHECKSUM = struct.Struct("<H")
_ADDRESSES_AT = 8
"""The checksum covers the addresses and everything behind them, so a row is summed from here."""


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
    """The back end asked for; `vector` needs numpy once it is to send bulk."""
    return VectorSegmenter(mtu) if vector else ScalarSegmenter(mtu)


class Segmenters:
    """One per packet size in use, each with a scratch of 64 KiB made when it is needed first. Bounded."""

    def __init__(self, mtu: int, *, vector: bool) -> None:
        self.usual = make_segmenter(mtu, vector=vector)
        """Of the size that all peers take."""
        self._mtu = mtu
        self._vector = vector
        self._others: dict[int, Segmenter] = {}

    def of(self, mtu: int) -> Segmenter:
        """The one for packets of up to `mtu` bytes."""
        if mtu == self._mtu:
            return self.usual
        segmenter = self._others.get(mtu)
        if segmenter is None:
            if len(self._others) >= _MAX_SIZES:  # peers say what they accept, and must not fill our memory with it
                self._others.clear()
            segmenter = self._others[mtu] = make_segmenter(mtu, vector=self._vector)
        return segmenter


def rows_for(mtu: int) -> int:
    """Most packets of `mtu` bytes in one burst."""
    return max(1, min(MAX_RUN, -(-RUN_BYTES // max(mtu - _HEADERS, 1))))


def _stride_for(mtu: int) -> int:
    return (mtu + 15) & ~15  # rows stay aligned for 64-bit words and need no copy to be padded by WireGuard


class ScalarSegmenter:
    """Plain Python."""

    def __init__(self, mtu: int) -> None:
        self.max_rows = rows_for(mtu)
        self._stride = _stride_for(mtu)
        self._view = reserve(self.max_rows * self._stride)

    def build(self, head: bytearray, seq: int, payload: memoryview, mss: int, last_flags: int) -> Burst:
        """See Segmenter."""
        head_size = len(head)
        count = -(-len(payload) // mss)
        tail = len(payload) - (count - 1) * mss
        alike = count if tail == mss and last_flags == head[_FLAGS_AT] else count - 1
        self._fill(0, head, seq, payload[: alike * mss], mss)
        if alike < count:
            last_head = bytearray(head)
            last_head[_FLAGS_AT] = last_flags
            self._fill(alike, last_head, seq + alike * mss, payload[alike * mss :], tail)
        last = head_size + tail
        return Burst(self._view, 0, self._stride, count, head_size + mss if count > 1 else last, last)

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
            put_checksum(view, begin + _CHECKSUM_AT, -(fixed + 256 * position + number) % 65535)
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
    pseudo: NDArray[np.uint64]
    """What size and protocol of the pseudo header add to each sum: an array, as is `modulus`, because numpy takes
    0.2 µs to make one of a plain number."""
    modulus: NDArray[np.uint64]
    ceiling: NDArray[np.uint64]
    """A multiple of the modulus above every sum (that of 64 KiB has 46 bits): what is left of it is the complement."""


class VectorSegmenter(ScalarSegmenter):
    """numpy for the rows that are alike. A call costs about 11 µs for 49 segments, half of it the checksums."""

    def __init__(self, mtu: int) -> None:
        super().__init__(mtu)
        self._views: dict[tuple[int, int, int], _Views] = {}

    def _fill(self, row: int, head: bytearray, seq: int, payload: memoryview, size: int) -> None:
        count = len(payload) // size
        if row or count < _VECTOR_ROWS:
            super()._fill(row, head, seq, payload, size)
            return
        numpy = load_numpy()
        upper = len(head) - ip.HEADER_SIZE + size
        views = self._views.get((count, len(head), size)) or self._cut(count, len(head), size)
        struct.pack_into(">H", head, _PAYLOAD_SIZE_AT, upper)
        views.head[:] = numpy.frombuffer(head, "<u4")
        numpy.add(views.offsets, numpy.uint32(seq & 0xFFFFFFFF), out=views.seq)
        views.payload[:] = numpy.frombuffer(payload, numpy.uint8).reshape(count, size)
        if size & 3:
            views.padding[:] = 0  # sums run over whole words
        sums = numpy.add.reduce(views.summed, axis=1, dtype=numpy.uint64)
        sums += views.pseudo
        views.checksum[:] = (views.ceiling - sums) % views.modulus

    def _cut(self, count: int, head_size: int, mss: int) -> _Views:
        numpy = load_numpy()
        scratch: NDArray[np.uint8] = numpy.frombuffer(self._view, numpy.uint8).reshape(-1, self._stride)
        rows = scratch[:count]
        words, end = rows.view("<u4"), head_size + mss
        views = _Views(
            head=words[:, : head_size >> 2],
            seq=rows.view(">u4")[:, _SEQ_AT >> 2],
            offsets=numpy.arange(count, dtype=numpy.uint32) * numpy.uint32(mss),
            payload=rows[:, head_size:end],
            summed=words[:, _ADDRESSES_AT >> 2 : (end + 3) >> 2],
            checksum=rows.view("<u2")[:, _CHECKSUM_AT >> 1],
            padding=rows[:, end : (end + 3) & ~3],
            pseudo=numpy.array(256 * (end - ip.HEADER_SIZE + ip.TCP), numpy.uint64),
            modulus=numpy.array(65535, numpy.uint64),
            ceiling=numpy.array(65535 << 40, numpy.uint64),
        )
        if len(self._views) >= _MAX_VIEWS:  # a peer that invents segment sizes must not fill memory
            self._views.clear()
        self._views[count, head_size, mss] = views
        return views
