"""Two TCP/IP stacks joined by a link that loses, repeats, delays and reorders: deterministic, in virtual time.

    link = StackLink(seed=1, loss=0.01)
    transfer = link.transfer(64 << 20)       # from left to right
    link.run(transfer.finished)

Everything comes from one seeded random generator and one heap of events, so a failure repeats.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network

from ..base.burst import Burst
from ..protocols.netstack import Stack, StackConfig, SynRequest, TcpConnection

LEFT = IPv6Address("fd7a:115c:a1e0::1")
RIGHT = IPv6Address("fd7a:115c:a1e0::2")
_BLOCK = 256 << 10
_TICK = 0.005
"""Timers are looked at this late at most, as by the runtime's coarse tick."""


@dataclass
class Weather:
    """What the link does. Probabilities per packet, but `burst_loss` per burst; times in seconds."""

    delay: float = 0.001
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    burst_loss: float = 0.0
    rate: float = 0.0
    """Bytes per second in each direction; 0 = unlimited."""
    queue: int = 0
    """Packets that wait for the link at most, with `rate`; 0 = unlimited."""
    cut: bool = False
    """Nothing gets through."""


@dataclass
class Transfer:
    """Bytes on their way through one direction of a connection, checked by checksum."""

    size: int
    sent: int = 0
    received: int = 0
    ended: bool = False
    source: TcpConnection | None = None
    target: TcpConnection | None = None
    out_hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    in_hash: hashlib._Hash = field(default_factory=hashlib.sha256)

    def finished(self) -> bool:
        """True if everything and the end of the stream arrived."""
        return self.ended and self.received == self.size

    @property
    def intact(self) -> bool:
        """True if what arrived is what was sent."""
        return self.received == self.sent == self.size and self.out_hash.digest() == self.in_hash.digest()


class StackLink:
    """A world of two stacks, `left` and `right`, each the only peer of the other, and a clock."""

    def __init__(
        self,
        weather: Weather | None = None,
        *,
        seed: int = 0,
        config: StackConfig | None = None,
        right_config: StackConfig | None = None,
        vector: tuple[bool, bool] = (True, True),
    ) -> None:
        self.weather = weather or Weather()
        self.now = 100.0
        self.random = random.Random(seed)
        config = config or StackConfig()
        self.left = Stack(config, rng=self.random.randbytes, vector=vector[0])
        self.right = Stack(right_config or config, rng=self.random.randbytes, vector=vector[1])
        self.left.add_address(LEFT)
        self.right.add_address(RIGHT)
        self.left.set_peer("right", [IPv6Network(RIGHT)])
        self.right.set_peer("left", [IPv6Network(LEFT)])
        self.accepted: list[TcpConnection] = []
        self.right.on_syn = self.accept
        self.pumps: list[Callable[[], None]] = []
        self.lost = 0
        self.packets = 0
        self.on_packet: Callable[[Hashable, bytes], bool] | None = None
        """Sees each packet with the name of its destination; True = drop it."""
        self._events: list[tuple[float, int, Stack, Hashable, Burst]] = []
        self._serial = 0
        self._free_at: dict[Hashable, float] = {}

    def accept(self, request: SynRequest) -> None:
        """The default decision about incoming connections of `right`."""
        self.accepted.append(request.accept(self.now))

    def connect(self, port: int = 9) -> tuple[TcpConnection, TcpConnection]:
        """A connection from left to right, established."""
        count = len(self.accepted)
        connection = self.left.connect(RIGHT, port, self.now)
        self.run(lambda: len(self.accepted) > count and self.accepted[-1].state == connection.state == "established")
        return connection, self.accepted[-1]

    def transfer(self, size: int, source: TcpConnection | None = None, target: TcpConnection | None = None) -> Transfer:
        """Send `size` bytes and the end of the stream, on a new connection if none is given."""
        if source is None or target is None:
            source, target = self.connect()
        transfer = Transfer(size, source=source, target=target)
        self.pumps.append(lambda: self._pump(transfer))
        return transfer

    def run(self, done: Callable[[], bool], *, limit: float = 600.0) -> None:
        """Let time pass until `done`, at most `limit` seconds of it (AssertionError)."""
        end = self.now + limit
        while True:
            for pump in self.pumps:
                pump()
            self.flush()
            if done():
                return
            at = self._next_event()
            assert at is not None, "nothing will ever happen again"
            assert at <= end, f"not done after {limit} s"
            self.now = max(self.now, at)
            self._deliver()
            self._tick()

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            for pump in self.pumps:
                pump()
            self.flush()
            at = self._next_event()
            if at is None or at > end:
                self.now = end
                return
            self.now = max(self.now, at)
            self._deliver()
            self._tick()

    def flush(self) -> None:
        """Put on the wire what the stacks have to send."""
        for stack, name, other, target in (
            (self.left, "left", self.right, "right"),
            (self.right, "right", self.left, "left"),
        ):
            stack.woken()
            while stack.has_output():
                for peer, burst in stack.transmit(self.now):
                    assert peer == target
                    self._carry(other, name, target, burst)

    def _next_event(self) -> float | None:
        times = [at + _TICK for at in (self.left.deadline(), self.right.deadline()) if at is not None]
        if self._events:
            times.append(self._events[0][0])
        return min(times, default=None)

    def _tick(self) -> None:
        for stack in (self.left, self.right):
            at = stack.deadline()
            if at is not None and at <= self.now:
                stack.on_timer(self.now)

    def _deliver(self) -> None:
        while self._events and self._events[0][0] <= self.now:
            _, _, stack, sender, burst = heapq.heappop(self._events)
            stack.receive(sender, burst, self.now)

    def _carry(self, stack: Stack, sender: Hashable, target: str, burst: Burst) -> None:
        weather, chance = self.weather, self.random.random
        self.packets += burst.count
        if weather.cut or (weather.burst_loss and burst.count > 1 and chance() < weather.burst_loss):
            self.lost += burst.count
            return
        calm = not (weather.loss or weather.duplicate or weather.reorder or weather.queue or self.on_packet)
        if calm:
            self._post(stack, sender, burst.copy(), 0.0)
            return
        rows: list[bytes] = []
        for view in burst.rows():
            row = bytes(view)
            seen = self.on_packet is not None and self.on_packet(target, row)
            if seen or chance() < weather.loss or self._overflows(target, len(row)):
                self.lost += 1
            elif chance() < weather.reorder:
                self._post(stack, sender, Burst.of(row), chance() * weather.delay * 3)
            else:
                rows.append(row)
                if chance() < weather.duplicate:
                    self._post(stack, sender, Burst.of(row), chance() * weather.delay)
        for group in _equal_rows(rows):
            self._post(stack, sender, group, 0.0)

    def _overflows(self, target: str, size: int) -> bool:
        weather = self.weather
        if not weather.queue:
            return False
        waiting = max(self._free_at.get(target, 0.0) - self.now, 0.0) * weather.rate
        return waiting > weather.queue * size

    def _post(self, stack: Stack, sender: Hashable, burst: Burst, extra: float) -> None:
        weather = self.weather
        target = "right" if stack is self.right else "left"
        at = self.now
        if weather.rate:
            at = max(self._free_at.get(target, 0.0), at) + burst.size_bytes / weather.rate
            self._free_at[target] = at
        at += weather.delay + extra + self.random.random() * weather.jitter
        self._serial += 1
        heapq.heappush(self._events, (at, self._serial, stack, sender, burst))

    def _pump(self, transfer: Transfer) -> None:
        source, target = transfer.source, transfer.target
        assert source is not None
        assert target is not None
        while transfer.sent < transfer.size and source.writable:
            block = self.random.randbytes(min(_BLOCK, transfer.size - transfer.sent))
            taken = source.write(block)
            transfer.out_hash.update(block[:taken])
            transfer.sent += taken
        if transfer.sent == transfer.size:
            source.shutdown_write()
        for chunk in target.read():
            transfer.in_hash.update(chunk)
            transfer.received += len(chunk)
        transfer.ended = target.eof
        assert source.error is None, source.error
        assert target.error is None, target.error


def _equal_rows(rows: list[bytes]) -> list[Burst]:
    """Bursts of neighbours of equal length (the last of a burst may be shorter), as a receiver gets them."""
    bursts: list[Burst] = []
    first = 0
    for index in range(1, len(rows) + 1):
        size = len(rows[first])
        if index < len(rows) and len(rows[index]) == size:
            continue
        end = index + 1 if index < len(rows) and len(rows[index]) < size else index
        if first < end <= len(rows) and first < index:
            joined = b"".join(rows[first:end])
            bursts.append(Burst(memoryview(joined), 0, size, end - first, size, len(rows[end - 1])))
        first = end
        if first >= len(rows):
            break
    return bursts
