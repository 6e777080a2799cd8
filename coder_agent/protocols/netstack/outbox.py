"""Packets that are not bulk: acknowledgements, handshakes, resets, pings, datagrams. Bounded; sent before bulk."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Hashable, Iterator

from ...base.burst import MAX_BURST, Burst

LIMIT = 1024
"""Packets held per peer. Each answers something; what does not fit is dropped like on any full link."""


class Outbox:
    """A queue of single packets per peer. Neighbours of equal length leave as one burst, in order."""

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
    """The packets of equal length at the head of `queue`."""
    first = queue.popleft()
    size = len(first)
    if not queue or len(queue[0]) != size:
        return Burst.of(first)
    packets = [first]
    while queue and len(queue[0]) == size and len(packets) < MAX_BURST:
        packets.append(queue.popleft())
    return Burst(memoryview(b"".join(packets)), 0, size, len(packets), size, size)
