"""What a device knows about one peer, and the packets that wait for a session with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from ...base.burst import Burst
from ...base.keys import NodePublic
from .cookie import MacStamper
from .noise import NO_PSK, InitiationCreated
from .session import Slots
from .timers import Timers

QUEUE_PACKETS = 128
"""Inner packets kept while there is no session; then the oldest go (wireguard-go QueueStagedSize)."""
_NEVER_BEFORE = float("-inf")


class Staged:
    """Copies of inner packets that wait for a session, at most QUEUE_PACKETS."""

    __slots__ = ("_bursts", "packets", "headroom")

    def __init__(self) -> None:
        self._bursts: deque[Burst] = deque()
        self.packets = 0
        self.headroom = 0

    def put(self, burst: Burst, headroom: int) -> int:
        """Keep a copy. Returns how many older packets had to go."""
        self._bursts.append(burst.copy())
        self.packets += burst.count
        self.headroom = max(self.headroom, headroom)
        surplus = lost = max(0, self.packets - QUEUE_PACKETS)
        while surplus:
            oldest = self._bursts[0]
            if oldest.count <= surplus:
                self._bursts.popleft()
                surplus -= oldest.count
            else:
                oldest.base += surplus * oldest.stride
                oldest.count -= surplus
                surplus = 0
        self.packets -= lost
        return lost

    def take(self) -> Iterator[Burst]:
        """All of them, oldest first; the queue is empty afterwards."""
        bursts, self._bursts = self._bursts, deque()
        self.packets = 0
        return iter(bursts)

    def clear(self) -> int:
        """Drop all. Returns how many there were."""
        lost, self.packets = self.packets, 0
        self._bursts.clear()
        return lost


class Peer:
    """State only; the rules are in handshakes.py (messages) and device.py (data and timers).

    Fields: `static_static` is DH of both static keys, None if the peer's key is a low-order point (no session is
    possible). `initiation` waits for its response; no other is sent before `quiet_until`, which the next `hasty` ones
    keep short. Times are of the device's monotonic clock.
    """

    __slots__ = (
        # who
        "key",
        "static_static",
        "psk",
        "macs",
        # sessions and their making
        "slots",
        "initiation",
        "attempts",
        "quiet_until",
        "hasty",
        "rekeyed_in_last_minute",
        # limits on what the peer asks of us
        "greatest_stamp",
        "last_initiation",
        # our own side
        "last_stamp",
        "timers",
        "staged",
        "last_handshake",
        "last_received",
    )

    def __init__(self, key: NodePublic, static_static: bytes | None) -> None:
        self.key = key
        self.static_static = static_static
        self.psk = NO_PSK
        self.macs = MacStamper(key.raw)
        self.slots = Slots()
        self.initiation: InitiationCreated | None = None
        self.attempts = 0
        self.quiet_until = _NEVER_BEFORE
        self.hasty = 0
        self.rekeyed_in_last_minute = False
        self.greatest_stamp = bytes(12)
        self.last_initiation = _NEVER_BEFORE
        self.last_stamp = bytes(12)
        self.timers = Timers()
        self.staged = Staged()
        self.last_handshake: float | None = None
        self.last_received: float | None = None
