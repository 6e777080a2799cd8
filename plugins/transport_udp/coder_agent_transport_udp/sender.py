"""Sending: a whole burst per system call where the kernel can cut it up (GSO), else a call per packet.

Never waits. A full socket takes nothing and says so; only a burst that was half sent when the socket filled up is kept
(one at most, for the socket takes no other before that one is through).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from functools import lru_cache

from coder_agent.base.burst import Burst
from coder_agent.base.paths import UdpPath

from .addresses import SockAddr
from .counters import Counters
from .sockets import SOL_UDP, UDP_SEGMENT

MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of kernels up to 6.8 (newer ones take 128)."""
MAX_PAYLOAD = 65507
"""Largest UDP payload over IPv4: 65535 − 20 − 8. Also the bound of one GSO send."""
_TOO_BIG = MAX_PAYLOAD // 2 + 1
"""From this size on, no two packets fit one send."""
REFUSALS_REMEMBERED = 1024
"""Paths whose refusal of large segments is remembered."""

_PATH_REFUSES_GSO = {errno.EMSGSIZE, errno.EINVAL}
"""Segment plus headers exceed the path's MTU: EMSGSIZE, or EINVAL on older kernels."""
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL}
_DENIED = {errno.EPERM, errno.EACCES}
"""A local firewall's verdict (Linux OUTPUT drop): a lost packet, nothing more."""

Unreachable = Callable[[UdpPath, OSError], None]
"""Told, during the send, that a path is dead, or (EMSGSIZE) takes smaller packets only."""


@lru_cache(maxsize=256)
def _segment_size(size: int) -> list[tuple[int, int, bytes]]:
    """The control message that asks for packets of `size` bytes."""
    return [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]


class Sender:
    """Sends through one socket. While it is full, nothing is taken."""

    def __init__(self, sock: socket.socket, counters: Counters, unreachable: Unreachable, *, gso: bool) -> None:
        self._sock = sock
        self._counters = counters
        self._unreachable = unreachable
        self._gso = gso
        self._too_big: dict[SockAddr, int] = {}
        self._rest: tuple[Burst, SockAddr, UdpPath] | None = None
        self._blocked = False

    def is_full(self) -> bool:
        """True from the moment the socket filled up until `resume`."""
        return self._blocked

    def send(self, burst: Burst, sockaddr: SockAddr, path: UdpPath) -> bool:
        """Take the burst and return True, or take nothing, be full and return False."""
        if self._blocked:
            return False
        if burst.count > 1 and self._gso and burst.length < self._too_big.get(sockaddr, _TOO_BIG):
            return self._send_segmented(burst, sockaddr, path)
        return self._send_rows(burst, 0, sockaddr, path)

    def resume(self) -> bool:
        """The socket is writable again: send what was kept. True = ready for more."""
        self._blocked = False
        if self._rest is not None:
            (burst, sockaddr, path), self._rest = self._rest, None
            if not self.send(burst, sockaddr, path):
                self._rest = (burst, sockaddr, path)  # the kernel changed its mind: nothing was taken
        return not self._blocked

    def note_passed(self, size: int, sockaddr: SockAddr) -> None:
        """The kernel took a packet of `size` bytes unfragmented: so it will take such segments, whatever it said."""
        if size >= self._too_big.get(sockaddr, _TOO_BIG):
            del self._too_big[sockaddr]

    def _send_segmented(self, burst: Burst, sockaddr: SockAddr, path: UdpPath) -> bool:
        control = _segment_size(burst.length)
        step = min(MAX_SEGMENTS, MAX_PAYLOAD // burst.length)
        for first in range(0, burst.count, step):
            parts = _parts(burst, first, min(first + step, burst.count))
            try:
                sent = self._sock.sendmsg(parts, control, 0, sockaddr)
            except (BlockingIOError, InterruptedError):
                return self._full(burst, first, sockaddr, path)
            except OSError as error:
                if not self._refused(error, burst.length, sockaddr, path):
                    return self._lost(error, burst.count - first, path)
                return self._send_rows(burst, first, sockaddr, path)
            self._counters.tx_calls += 1
            self._counters.tx_bytes += sent
            self._counters.tx_packets += min(step, burst.count - first)
        return True

    def _send_rows(self, burst: Burst, first: int, sockaddr: SockAddr, path: UdpPath) -> bool:
        """A call per packet. Slices and counters are written out here: they cost a tenth of the call."""
        sendto, view, length = self._sock.sendto, burst.buffer, burst.length
        final = burst.count - 1
        at = burst.base + first * burst.stride
        sent_packets = sent_bytes = 0
        try:
            for index in range(first, burst.count):
                end = at + (length if index < final else burst.last)
                try:
                    sent_bytes += sendto(view[at:end], sockaddr)
                    sent_packets += 1
                except (BlockingIOError, InterruptedError):
                    return self._full(burst, index, sockaddr, path)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        return self._lost(error, burst.count - index, path)
                    self._counters.tx_lost_too_big += 1  # a shorter last row may still fit
                at += burst.stride
        finally:
            self._counters.tx_calls += sent_packets
            self._counters.tx_packets += sent_packets
            self._counters.tx_bytes += sent_bytes
        return True

    def _full(self, burst: Burst, first: int, sockaddr: SockAddr, path: UdpPath) -> bool:
        """The socket filled up at row `first`."""
        self._blocked = True
        self._counters.tx_full += 1
        if first == 0:
            return False
        start = burst.base + first * burst.stride
        rest = Burst(burst.buffer, start, burst.stride, burst.count - first, burst.length, burst.last)
        self._rest = (rest.copy(), sockaddr, path)
        return True

    def _refused(self, error: OSError, segment: int, sockaddr: SockAddr, path: UdpPath) -> bool:
        """Was it the segmentation that the kernel refused? Remember for which segments not to ask again; whoever chose
        their size is told."""
        if error.errno == errno.EIO:  # a network card without checksum offload, or IPsec: the socket's way for good
            self._gso = False
        elif error.errno in _PATH_REFUSES_GSO:
            if len(self._too_big) >= REFUSALS_REMEMBERED:
                self._too_big.clear()
            self._too_big[sockaddr] = min(segment, self._too_big.get(sockaddr, segment))
            self._unreachable(path, error if error.errno == errno.EMSGSIZE else OSError(errno.EMSGSIZE, "too long"))
        else:
            return False
        self._counters.gso_refused += 1
        return True

    def _lost(self, error: OSError, packets: int, path: UdpPath) -> bool:
        """Lost like any datagram; but a dead path is worth telling."""
        if error.errno in _UNREACHABLE:
            self._counters.tx_lost_unreachable += packets
            self._unreachable(path, error)
        elif error.errno in _DENIED:
            self._counters.tx_lost_denied += packets
        else:
            self._counters.tx_lost_other += packets
        return True


def _parts(burst: Burst, first: int, end: int) -> list[memoryview]:
    """Rows `first` to `end` as the kernel wants them: one piece if they touch, else gathered from their places."""
    if burst.stride != burst.length:
        return [burst.row(index) for index in range(first, end)]
    start = burst.base + first * burst.stride
    size = (end - first - 1) * burst.stride + (burst.last if end == burst.count else burst.length)
    return [burst.buffer[start : start + size]]
