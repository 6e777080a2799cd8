"""Receiving: as many packets as possible per wake-up, handed on as bursts of equal rows.

Two ways lead to a burst. The kernel's GRO hands over up to 64 packets of one sender in one read; full reads that
continue each other are one burst. Or packets come singly (no GRO, or a network card that undoes it: a successful
setsockopt promises nothing); then they are read directly behind one another into the same buffer, and neighbours of
equal size from one sender become one burst. Each read decides anew which of the two it is, so there is no mode to get
wrong, and the order of arrival is kept in both.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from coder_agent.base.buffers import reserve
from coder_agent.base.burst import MAX_RUN, Burst
from coder_agent.base.paths import UdpPath

from .addresses import PathNames, SockAddr
from .counters import Counters
from .sockets import SOL_UDP, UDP_GRO

BUFFER_BYTES = 384 << 10
DATAGRAM_ROOM = 65536
"""Room left for every read: no datagram and no GRO read is larger (16-bit lengths), so nothing is ever cut off."""
MAX_ROWS = MAX_RUN
"""Rows per burst: whoever opens bursts needs room for so many and no more."""
BULK_READS_PER_WAKE = 8
"""GRO reads before acknowledging and sending get their turn. Measured: 4, 8 and 32 are within 1 %, 1 costs 16–19 %."""
PACKETS_PER_WAKE = 512
"""The same for packets that come singly: eight bursts' worth."""
_LAST_START = BUFFER_BYTES - DATAGRAM_ROOM
_ANCILLARY_BYTES = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
_CUT_OFF = getattr(socket, "MSG_TRUNC", 0) | getattr(socket, "MSG_CTRUNC", 0)
_NOBODY: SockAddr = ("", 0)
_NO_RUN = -1

Deliver = Callable[[Burst, UdpPath], None]
"""`PacketSink.on_burst`."""


class Receiver:
    """Empties one socket. The buffer is reused: bursts are borrowed (base/burst.py). Receivers that take turns may
    share one: nothing stays in it between two calls of `drain`."""

    def __init__(
        self,
        sock: socket.socket,
        deliver: Deliver,
        book: PathNames,
        counters: Counters,
        *,
        gro: bool,
        buffer: memoryview | None = None,
    ) -> None:
        self._sock = sock
        self._deliver = deliver
        self._book = book
        self._counters = counters
        self._read = self._read_bulk if gro else self._read_single
        self._view = reserve(BUFFER_BYTES) if buffer is None else buffer
        self._closed = False
        # The run being stacked: `_rows` packets of `_stride` bytes from `_source` at `_base`; the next read goes to
        # `_offset`. `_NO_RUN` is a stride that no packet continues; 0 would be continued by an empty one.
        self._base = self._offset = self._rows = 0
        self._stride = _NO_RUN
        self._source: SockAddr = _NOBODY

    def close(self) -> None:
        """Stop, even from inside a delivery."""
        self._closed = True

    def drain(self) -> bool:
        """Read until the socket is empty or a turn's worth was taken. True = there may be more."""
        view, read = self._view, self._read
        reads = bulk = 0
        more = True
        while reads < PACKETS_PER_WAKE and bulk < BULK_READS_PER_WAKE and not self._closed:
            reads += 1
            try:
                size, segment, source = read(view[self._offset :])
            except (BlockingIOError, InterruptedError):
                more = False
                break
            except OSError:  # an earlier send's ICMP error (Windows, macOS): says nothing about this read
                self._counters.rx_errors += 1
                continue
            if size == self._stride and source == self._source and not segment:
                self._rows += 1
                self._offset += size
                if self._rows == MAX_ROWS or self._offset > _LAST_START:
                    self._flush()
            elif segment:
                bulk += 1
                self._stack_bulk(size, segment, source)
            elif size:
                self._break_run(size, source)
        self._flush()
        self._counters.rx_reads += reads
        return more and not self._closed

    def _break_run(self, size: int, source: SockAddr) -> None:
        """A packet that is not one more equal row: the shorter last row of the run, or the first of the next."""
        if size < self._stride and source == self._source:
            self._rows += 1
            self._flush(last=size)
            return
        start = self._offset
        self._flush()
        self._base, self._stride, self._rows, self._source = start, size, 1, source
        self._offset = start + size
        if self._offset > _LAST_START:
            self._flush()

    def _stack_bulk(self, size: int, segment: int, source: SockAddr) -> None:
        """A GRO read of several packets: it goes on with the run, or is the first of the next. A busy sender's reads
        are full, and four of them cost whoever takes the burst little more than one."""
        rows = -(-size // segment)
        last = size - (rows - 1) * segment
        if segment != self._stride or source != self._source or self._rows + rows > MAX_ROWS:
            start = self._offset
            self._flush()
            self._base = self._offset = start
            self._stride, self._source = segment, source
        self._rows += rows
        self._offset += size
        if last < segment or self._rows == MAX_ROWS or self._offset > _LAST_START:
            self._flush(last)

    def _flush(self, last: int = 0) -> None:
        """Hand over the run, if there is one, and start again at the buffer's beginning."""
        if self._rows:
            stride = self._stride
            burst = Burst(self._view, self._base, stride, self._rows, stride, last or stride)
            self._hand_over(burst, self._source)
        self._offset = self._rows = 0
        self._stride = _NO_RUN

    def _hand_over(self, burst: Burst, source: SockAddr) -> None:
        counters = self._counters
        counters.rx_bursts += 1
        counters.rx_packets += burst.count
        counters.rx_bytes += burst.stride * (burst.count - 1) + burst.last
        if burst.count == 1:
            burst.length = burst.last
        if not self._closed:
            self._deliver(burst, self._book.path(source))

    def _read_single(self, room: memoryview) -> tuple[int, int, SockAddr]:
        """One datagram: (size, 0, source). 0 bytes = nothing usable, counted."""
        size, source = self._sock.recvfrom_into(room)
        if not size:
            self._counters.rx_empty += 1
        return size, 0, source

    def _read_bulk(self, room: memoryview) -> tuple[int, int, SockAddr]:
        """One datagram as above, or several of one sender: (total size, size of each, source)."""
        size, ancillary, flags, source = self._sock.recvmsg_into([room], _ANCILLARY_BYTES)
        if flags & _CUT_OFF:
            self._counters.rx_truncated += 1
            return 0, 0, source
        for level, kind, value in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                segment = int.from_bytes(value[:4], sys.byteorder)
                return (size, segment, source) if 0 < segment < size else (size, 0, source)
        if not size:
            self._counters.rx_empty += 1
        return size, 0, source
