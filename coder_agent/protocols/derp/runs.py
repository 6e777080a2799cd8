"""Runs: equal-sized packet frames lying one behind the other, found and rewritten as a whole.

A TCP stream in the tunnel arrives as hundreds of frames that differ only in their data. Looking at them one by one
costs more than moving them; here a run is found with one comparison and its headers replaced with one assignment.
Without numpy, and for short runs, plain loops do the same (measured, CPython 3.11, 1312-byte packets: finding 195 rows
1.4 µs against 13.4 µs, rewriting them 0.9 µs against 10.7 µs).
"""

from __future__ import annotations

from ...base.burst import Burst
from ...base.optional_numpy import has_numpy, load_numpy
from .frames import PACKET_HEADER_SIZE, FrameType, packet_header

_HEADER_DTYPE = f"V{PACKET_HEADER_SIZE}"
FIND_THRESHOLD = 12
"""Rows from which the vector comparison wins (about 1.1 µs each at 12)."""
FILL_THRESHOLD = 10
"""Rows from which the vector assignment wins (0.7 µs against 0.8 µs at 12)."""


DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
DISCO_MIN_SIZE = 62
"""Magic 6 ‖ key 32 ‖ nonce 24: shorter than that it is not disco (disco.LooksLikeDiscoWrapper)."""


def run_length(buffer: bytearray, start: int, size: int, most: int) -> int:
    """How many of the `most` frames of `size` bytes from `start` begin with the same 37 bytes as the first."""
    head = bytes(buffer[start : start + PACKET_HEADER_SIZE])
    position = start + size
    if most >= FIND_THRESHOLD and has_numpy() and buffer.startswith(head, position):
        numpy = load_numpy()
        rows = numpy.ndarray((most,), _HEADER_DTYPE, buffer, start, (size,))
        if rows.tobytes() == head * most:  # the usual case; five times faster than comparing row by row
            return most
        equal = rows == numpy.frombuffer(head, _HEADER_DTYPE)
        return int(equal.argmin())
    count = 1
    while count < most and buffer.startswith(head, position):
        count += 1
        position += size
    return count


def is_disco(burst: Burst) -> bool:
    """Is the first packet of the burst a disco message? Runs are of one size, and disco has sizes of its own."""
    return burst.length >= DISCO_MIN_SIZE and burst.buffer[burst.base : burst.base + len(DISCO_MAGIC)] == DISCO_MAGIC


def fill_headers(buffer: memoryview, start: int, stride: int, count: int, header: bytes) -> None:
    """Write `header` (37 bytes) at `start` and every `stride` bytes behind it, `count` times."""
    if count >= FILL_THRESHOLD and has_numpy():
        numpy = load_numpy()
        rows = numpy.ndarray((count,), _HEADER_DTYPE, buffer, start, (stride,))
        rows[...] = numpy.frombuffer(header, _HEADER_DTYPE)
        return
    for position in range(start, start + count * stride, stride):
        buffer[position : position + PACKET_HEADER_SIZE] = header


def frame_burst(burst: Burst, kind: FrameType, key: bytes) -> memoryview:
    """`burst` as SendPacket or RecvPacket frames, ready for one write.

    If every packet has 37 writable bytes before it and nothing else between, the headers go there and the answer is a
    view of the burst's own buffer; otherwise the packets are copied.
    """
    count, length, last = burst.count, burst.length, burst.last
    base, stride, view = burst.base, burst.stride, burst.buffer
    fits = burst.headroom >= PACKET_HEADER_SIZE and (count == 1 or stride == length + PACKET_HEADER_SIZE)
    if not fits or view.readonly or base < PACKET_HEADER_SIZE:
        burst = _spread(burst)
        base, stride, view = burst.base, burst.stride, burst.buffer
    start = base - PACKET_HEADER_SIZE
    equal = count if last == length else count - 1
    if equal:
        fill_headers(view, start, stride, equal, packet_header(kind, key, length))
    if equal != count:
        tail = start + equal * stride
        view[tail : tail + PACKET_HEADER_SIZE] = packet_header(kind, key, last)
    return view[start : base + (count - 1) * stride + last]


def _spread(burst: Burst) -> Burst:
    """A copy of `burst` with exactly 37 bytes of room before every packet."""
    stride = burst.length + PACKET_HEADER_SIZE
    out = bytearray(burst.count * PACKET_HEADER_SIZE + burst.size_bytes)
    position = PACKET_HEADER_SIZE
    for row in burst.rows():
        out[position : position + len(row)] = row
        position += stride
    return Burst(memoryview(out), PACKET_HEADER_SIZE, stride, burst.count, burst.length, burst.last, PACKET_HEADER_SIZE)
