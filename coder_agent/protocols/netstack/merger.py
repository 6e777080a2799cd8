"""Incoming bulk: consecutive segments of one flow in a burst become one run, like a network card's receive offload.

A row continues the one before it if its addresses, ports, acknowledgement, window and header size are equal, its
sequence number follows, and its flags are ACK with or without PSH. `VectorMerger` compares whole columns of a burst
(a few µs for 49 rows) and copies the payload out in one strided copy; what does not fit, and everything without numpy,
goes row by row (about 0.5 µs each).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from ...base.burst import Burst
from ...base.optional_numpy import load_numpy
from . import ip, segments
from .segments import Options, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VECTOR_THRESHOLD = 12
"""Rows from which the vector comparison is cheaper than a Python loop (measured crossing: 12–16)."""

_MERGEABLE = frozenset({segments.ACK, segments.ACK | segments.PSH})
_PLAIN = segments.HEADER_SIZE
_STAMPED = segments.HEADER_SIZE + segments.TIMESTAMP_SIZE
_ROW = struct.Struct(">4sHH36sIIHHI")
"""Version word, payload size, next header and hop limit, addresses and ports, seq, ack, offset and flags, window,
checksum and urgent pointer."""
_OPTION_AT = ip.HEADER_SIZE + segments.HEADER_SIZE
_LEAD = segments.TIMESTAMP_LEAD.to_bytes(4, "big")
_COMPARED_BYTES = 64
"""The vector compares up to the first word of the options: rows must be at least this long."""

_PSH_IN_WORD = segments.PSH << 8
"""The flag in word 13 of a row, read little-endian."""

_First = tuple[bytes, int, int, bytes, int, int, int, int, int]


class Merger(Protocol):
    """Takes runs out of bursts."""

    def take(self, burst: Burst, index: int, segment: Segment, head: int) -> int:
        """Give `segment`, parsed from row `index` with a TCP header of `head` bytes, its payload and that of all rows
        that continue it; timestamps echoed are those of the last. Returns the number of rows taken, at least 1.

        The caller has checked that row `index` is as long as its IPv6 header says.
        """
        ...


def make_merger(*, vector: bool) -> Merger:
    """The back end asked for."""
    return VectorMerger() if vector else ScalarMerger()


def payload_size(burst: Burst, index: int) -> int:
    """Bytes behind the IPv6 header of row `index` by its own account; -1 if the row is shorter than that."""
    at = burst.base + index * burst.stride
    room = (burst.last if index == burst.count - 1 else burst.length) - ip.HEADER_SIZE
    if room < 0:
        return -1
    size = burst.buffer[at + 4] << 8 | burst.buffer[at + 5]
    return size if size <= room else -1


def _is_mergeable(segment: Segment, head: int) -> bool:
    """True if rows may be merged behind `segment`: plain data with no options but timestamps."""
    if segment.flags not in _MERGEABLE:
        return False
    return head == _PLAIN or (head == _STAMPED and segment.options.timestamp is not None)


def _continues(burst: Burst, index: int, first: _First, seq: int, head: int) -> int:
    """Payload size of row `index` if it continues a run begun by the header `first` at `seq`; else 0 or less."""
    size = payload_size(burst, index) - head
    if size <= 0:
        return size
    at = burst.base + index * burst.stride
    row = _ROW.unpack_from(burst.buffer, at)
    if (
        row[4] != seq & 0xFFFFFFFF
        or row[3] != first[3]
        or row[5] != first[5]
        or (row[6] ^ first[6]) & ~segments.PSH
        or row[7] != first[7]
        or row[2] != first[2]
        or row[0] != first[0]
    ):
        return 0
    if head == _STAMPED and burst.buffer[at + _OPTION_AT : at + _OPTION_AT + 4] != _LEAD:
        return 0
    return size


def _echo_of_last(segment: Segment, burst: Burst, index: int) -> None:
    """Take the echoed timestamp from row `index`: the newest one measures the path best."""
    stamp = segment.options.timestamp
    if stamp is not None:
        at = burst.base + index * burst.stride + _OPTION_AT + 8
        segment.options = Options(timestamp=(stamp[0], int.from_bytes(burst.buffer[at : at + 4], "big")))


class ScalarMerger:
    """Row by row, in plain Python."""

    def take(self, burst: Burst, index: int, segment: Segment, head: int) -> int:
        """See Merger."""
        buffer, stride = burst.buffer, burst.stride
        size = payload_size(burst, index) - head
        if size <= 0:
            return 1
        at = burst.base + index * stride
        skip = ip.HEADER_SIZE + head
        parts = [buffer[at + skip : at + skip + size]]
        total, last = size, index
        if _is_mergeable(segment, head):
            first: _First = _ROW.unpack_from(buffer, at)
            for row in range(index + 1, burst.count):
                size = _continues(burst, row, first, first[4] + total, head)
                if size <= 0:
                    break
                begin = burst.base + row * stride + skip
                parts.append(buffer[begin : begin + size])
                total += size
                last = row
        segment.chunks = [b"".join(parts)]
        segment.size, segment.count = total, len(parts)
        if last > index:
            _echo_of_last(segment, burst, last)
        return segment.count


def _begins_run(burst: Burst, index: int, size: int, head: int) -> bool:
    """Does row `index` + 1 continue row `index`? Not in a burst of many connections' small packets, where looking at
    all rows for each of them would cost ten times what is in them."""
    first: _First = _ROW.unpack_from(burst.buffer, burst.base + index * burst.stride)
    return _continues(burst, index + 1, first, first[4] + size, head) > 0


class VectorMerger:
    """numpy, with the row loop for short runs."""

    def __init__(self) -> None:
        self._scalar = ScalarMerger()
        self._series: dict[int, NDArray[np.uint32]] = {}

    def take(self, burst: Burst, index: int, segment: Segment, head: int) -> int:
        """See Merger."""
        rows = burst.count - 1 - index  # the last row may be shorter and carry PSH: it is joined by itself
        size = payload_size(burst, index) - head
        if rows < VECTOR_THRESHOLD or size <= 0 or burst.length < _COMPARED_BYTES or not _is_mergeable(segment, head):
            return self._scalar.take(burst, index, segment, head)
        at = burst.base + index * burst.stride
        if not _begins_run(burst, index, size, head):
            return self._scalar.take(burst, index, segment, head)
        count = self._matching(burst, at, rows, size, head)
        if count < VECTOR_THRESHOLD:
            return self._scalar.take(burst, index, segment, head)
        numpy = load_numpy()
        begin = at + ip.HEADER_SIZE + head
        payload: NDArray[np.uint8] = numpy.ndarray((count, size), numpy.uint8, burst.buffer, begin, (burst.stride, 1))
        segment.chunks = [payload.tobytes()]
        segment.size = count * size
        if count == rows:
            first: _First = _ROW.unpack_from(burst.buffer, at)
            size = _continues(burst, index + count, first, first[4] + segment.size, head)
            if size > 0:
                begin += count * burst.stride
                segment.chunks.append(bytes(burst.buffer[begin : begin + size]))
                segment.size += size
                count += 1
        segment.count = count
        _echo_of_last(segment, burst, index + count - 1)
        return count

    def _matching(self, burst: Burst, at: int, rows: int, size: int, head: int) -> int:
        """How many of the `rows` rows from offset `at` on form one run."""
        # words 0…10 version to ports · 11 seq · 12 ack · 13 offset, flags, window · 14 checksum · 15 first option
        numpy = load_numpy()
        words: NDArray[np.uint32] = numpy.ndarray((rows, 16), "<u4", burst.buffer, at, (burst.stride, 4))
        first = bytes(burst.buffer[at : at + _COMPARED_BYTES])
        seqs = self._expected(first, rows, size)
        stamped = head == _STAMPED
        # One memcmp per column group: three times faster than comparing element by element.
        if (
            words[:, :11].tobytes() == first[:44] * rows
            and words[:, 11].tobytes() == seqs.tobytes()
            and words[:, 12:14].tobytes() == first[48:56] * rows
            and (not stamped or words[:, 15].tobytes() == first[60:64] * rows)
        ):
            return rows
        good = (words[:, :11] == words[0, :11]).all(axis=1)
        good &= (words[:, 12] == words[0, 12]) & (words[:, 11] == seqs)
        good &= (words[:, 13] | _PSH_IN_WORD) == words[0, 13] | _PSH_IN_WORD
        if stamped:
            good &= words[:, 15] == words[0, 15]
        return rows if good.all() else int(good.argmin())

    def _expected(self, first: bytes, rows: int, size: int) -> NDArray[np.uint32]:
        """The sequence numbers of a run of `rows`, in the byte order of the wire, read as little-endian words."""
        numpy = load_numpy()
        series = self._series.get(size)
        if series is None or len(series) < rows:
            if len(self._series) > 64:  # one per segment size in use; a peer that invents many must not fill memory
                self._series.clear()
            series = self._series[size] = numpy.arange(max(rows, 64), dtype=numpy.uint32) * numpy.uint32(size)
        seqs: NDArray[np.uint32] = series[:rows] + numpy.uint32(int.from_bytes(first[44:48], "big"))
        return seqs.astype(">u4").view("<u4")
