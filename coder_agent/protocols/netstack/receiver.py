"""The receiving half of a connection: window, its growth, and what to acknowledge."""

from __future__ import annotations

from .config import StackConfig
from .recvbuf import ReceiveBuffer
from .segments import Segment

_FAST = 0.002
"""A window that fills in less than this deserves to grow, however short the round trip: above about 1 MiB in 2 ms
(4 Gbit/s) a larger one only added queueing where it was measured."""
_ROUND_TRIPS = 3
"""So does one that fills in fewer round trips: the window then stays between one and three times what is in flight."""


class Receiver:
    """Receive buffer and advertised window of one connection. Sequence numbers are unwrapped ints."""

    __slots__ = ("buffer", "limit", "edge", "shift", "fin", "_maximum", "_mark", "_mark_at")

    def __init__(self, start: int, config: StackConfig, shift: int) -> None:
        self.buffer = ReceiveBuffer(start)
        self._maximum = min(config.receive_window, 0xFFFF << shift)
        self.limit = min(config.initial_window, self._maximum)
        """Bytes we are willing to hold: never more than the window field can say."""
        self.shift = shift
        """Our window scale."""
        self.edge = start
        """The first sequence number the peer may not send yet."""
        self.fin: int | None = None
        """Sequence number of the peer's FIN, once seen."""
        self._mark = start
        self._mark_at = 0.0

    @property
    def next(self) -> int:
        """What we acknowledge: the FIN counts once everything before it is here."""
        return self.buffer.next + (self.buffer.next == self.fin)

    def accept(self, seq: int, segment: Segment, now: float, rtt: float) -> int:
        """Store a segment's payload, as far as it is in the window. Returns the bytes that became readable."""
        buffer = self.buffer
        if seq == buffer.next and not buffer.has_gap and seq + segment.size <= self.edge:
            buffer.append(segment.chunks, segment.size)
            gained = segment.size
        else:
            gained = buffer.insert(seq, segment.chunks, segment.size, self.edge)
        if gained and buffer.next - self._mark >= self.limit:
            self._tune(now, rtt, buffer.readable - gained)
        return gained

    def advertise(self, mss: int) -> int:
        """The window field for the segment about to leave (scaled); remembers what was promised."""
        buffer, unit = self.buffer, 1 << self.shift
        free = buffer.next + self.limit - buffer.readable
        edge = free
        if edge - self.edge < min(self.limit // 2, mss):
            edge = self.edge  # neither shrink nor open by slivers (RFC 9293 §3.8.6.2.2)
        # Rounded up, because rounding down takes back bytes that were promised; but only once, or the edge would creep
        # on with every acknowledgement.
        field = (max(edge - buffer.next, 0) + unit - 1) >> self.shift
        if buffer.next + (field << self.shift) >= free + unit:
            field = max(edge - buffer.next, 0) >> self.shift
        field = min(field, 0xFFFF)
        self.edge = max(self.edge, buffer.next + (field << self.shift))
        return field

    def update_due(self, mss: int) -> bool:
        """True if reading has opened the window enough to tell the peer at once."""
        buffer = self.buffer
        gain = buffer.next + self.limit - buffer.readable - self.edge
        if gain >= self.limit // 4:
            return True
        return self.edge - buffer.next < 2 * mss and gain >= min(2 * mss, self.limit // 2)

    def _tune(self, now: float, rtt: float, unread: int) -> None:
        """A window's worth arrived: was it fast enough, and is the application keeping up, to offer twice as much?
        `unread`: what it had left when the last run came, which by itself may be half a window."""
        if now - self._mark_at < max(_ROUND_TRIPS * rtt, _FAST) and unread <= self.limit // 2:
            self.limit = min(2 * self.limit, self._maximum)
        self._mark, self._mark_at = self.buffer.next, now
