"""WireGuard devices on a simulated wire, in virtual time: send, run the clock, look at what arrived.

No sockets and no event loop: a heap of (time, sequence) events, and the devices' own deadlines.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..base.addresses import AddrPort
from ..base.burst import Burst
from ..base.keys import NodePrivate, NodePublic
from ..base.paths import UdpPath
from ..protocols.effects import Deliver, Effect, SendRaw, Transmit
from ..protocols.wireguard import Device

LATENCY = 0.01
"""One way, in seconds, unless the fate function says otherwise."""
WALL_START = 1_700_000_000.0

Fate = Callable[[str, bytes], Sequence[float]]
"""(sender, message) → delay of each copy that arrives; empty = lost."""


def bursts_of(packets: Iterable[bytes]) -> Iterator[Burst]:
    """Neighbours of one size (the last one may be shorter) as bursts, as a receiver with GRO would see them."""
    run: list[bytes] = []
    for packet in packets:
        if run and (len(packet) > len(run[0]) or len(run[-1]) != len(run[0])):
            yield _join(run)
            run = []
        run.append(packet)
    if run:
        yield _join(run)


def _join(run: list[bytes]) -> Burst:
    size = len(run[0])
    return Burst(memoryview(bytearray(b"".join(run))), 0, size, len(run), size, len(run[-1]))


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that was put on the wire."""

    time: float
    sender: str
    data: bytes

    @property
    def kind(self) -> int:
        """WireGuard message type."""
        return self.data[0]


class SimWireGuard:
    """Devices by name, all peers of each other. `delivered[name]` is what their networks got, as (from, packet)."""

    def __init__(
        self, names: str = "ab", *, vector: bool | None = None, psk: bytes | None = None, fate: Fate | None = None
    ) -> None:
        self.now = 0.0
        self.fate = fate
        self.psk = psk
        self.vector = vector
        self.wire: list[Seen] = []
        self.effects: dict[str, list[Effect]] = {name: [] for name in names}
        self.delivered: dict[str, list[tuple[str, bytes]]] = {name: [] for name in names}
        self.private = {name: NodePrivate(name.encode() * 32) for name in names}
        self.keys: dict[str, NodePublic] = {name: key.public() for name, key in self.private.items()}
        self.sources = {name: AddrPort("192.0.2.1", 1000 + i) for i, name in enumerate(names)}
        self.devices: dict[str, Device] = {}
        self._names = {key: name for name, key in self.keys.items()}
        self._events: list[tuple[float, int, str, Hashable, Burst]] = []
        self._sequence = 0
        for name in names:
            self.restart(name)

    def restart(self, name: str) -> None:
        """A device that has forgotten everything but its key."""
        self.devices[name] = Device(
            self.private[name],
            rng=random.Random(f"{name} {self.now}").randbytes,
            wall=lambda: WALL_START + self.now,
            vector=self.vector,
        )
        for other, key in self.keys.items():
            if other != name:
                self.devices[name].add_peer(key, psk=self.psk)

    def send(self, sender: str, to: str, *packets: bytes) -> None:
        """Hand inner packets to `sender`'s device."""
        for burst in bursts_of(packets):
            self.carry_out(sender, self.devices[sender].send(self.keys[to], burst, self.now))

    def carry_out(self, name: str, effects: list[Effect]) -> None:
        """Do what `name`'s device asks for."""
        for effect in effects:
            if isinstance(effect, Transmit):
                self._transmit(name, self._names[effect.peer], effect.burst)
            elif isinstance(effect, SendRaw):
                assert isinstance(effect.path, UdpPath)
                to = next(other for other, addr in self.sources.items() if addr == effect.path.addr)
                self._transmit(name, to, Burst.of(effect.data))
            else:
                if isinstance(effect, Deliver):
                    rows = [(self._names[effect.peer], bytes(row)) for row in effect.burst.rows()]
                    self.delivered[name].extend(rows)
                self.effects[name].append(effect)

    def _transmit(self, sender: str, to: str, burst: Burst) -> None:
        messages = [bytes(row) for row in burst.rows()]
        self.wire.extend(Seen(self.now, sender, message) for message in messages)
        if self.fate is None:
            self.inject(to, self.sources[sender], burst.copy(), LATENCY)
            return
        for message in messages:
            for delay in self.fate(sender, message):
                self.inject(to, self.sources[sender], Burst.of(message), delay)

    def inject(self, to: str, source: Hashable, burst: Burst, delay: float = 0.0) -> None:
        """Let `burst` arrive at `to` after `delay` seconds."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, to, source, burst))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        while True:
            deadlines = [d for d in (device.deadline() for device in self.devices.values()) if d is not None]
            event = self._events[0][0] if self._events else float("inf")
            due = min([*deadlines, event])
            if due > end:
                break
            self.now = max(self.now, due)
            if event <= due:
                _, _, to, source, burst = heapq.heappop(self._events)
                self.carry_out(to, self.devices[to].receive(burst, source, self.now))
            else:
                for name, device in self.devices.items():
                    self.carry_out(name, device.on_timer(self.now))
        self.now = end

    def sent(self, sender: str, kind: int | None = None) -> list[Seen]:
        """What `sender` put on the wire so far, of one message type or all."""
        return [seen for seen in self.wire if seen.sender == sender and kind in (None, seen.kind)]
