"""Packets that are not bulk: acknowledgements, handshakes, resets, pings, datagrams. Bounded; sent before bulk."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Hashable, Iterator

from ...base.burst import Burst
from .segmenter import rows_for

LIMIT = 1024
"""Packets held per peer. Each answers something; what does not fit is dropped like on any full link."""


class Outbox:
    """A queue of single packets per peer. Those of equal length, and one shorter behind them, leave as one burst."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[bytes]] = {}
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def put(self, peer: Hashable, packet: bytes) -> None:
        """Queue one packet."""
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = deque()
        if len(queue) >= LIMIT:
            self.dropped += 1
            return
        queue.append(packet)

    def waiting(self, peer: Hashable) -> int:
        """Packets that wait for `peer`."""
        queue = self._queues.get(peer)
        return len(queue) if queue is not None else 0

    def has_for_others(self, blocked: Container[Hashable]) -> bool:
        """True if a peer that is not blocked has packets waiting."""
        return any(peer not in blocked for peer in self._queues)

    def forget(self, peer: Hashable) -> None:
        """The peer is gone."""
        self._queues.pop(peer, None)

    def drain(self, blocked: Container[Hashable]) -> Iterator[tuple[Hashable, Burst]]:
        """Bursts for all peers that are not blocked."""
        for peer in list(self._queues):
            queue = self._queues.get(peer)
            while queue and peer not in blocked:
                yield peer, _take_burst(queue)
            if not queue and self._queues.get(peer) is queue:
                self.forget(peer)


def _take_burst(queue: deque[bytes]) -> Burst:
    """The packets of equal length at the head of `queue`; a shorter one may be the last (the end of a datagram)."""
    first = queue.popleft()
    size = last = len(first)
    if not queue or len(queue[0]) > size:
        return Burst.of(first)
    packets, most = [first], rows_for(size)
    while queue and last == size and len(queue[0]) <= size and len(packets) < most:
        last = len(queue[0])
        packets.append(queue.popleft())
    return Burst(memoryview(b"".join(packets)), 0, size, len(packets), size, last)
