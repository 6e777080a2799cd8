"""The relays of the laboratory: always there, unless a link is cut or a region is down; a distance and a rate each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .clock import Clock
from .topology import Region

QUEUE = 0.5
"""Seconds of traffic that a relay with a rate keeps for one sender before it drops."""


class Relays:
    """Carries what hosts send each other by relay. TCP carries it to and from there, so nothing is lost on the way."""

    def __init__(self, clock: Clock, counters: Counter[str]) -> None:
        self._clock = clock
        self._counters = counters
        self._free_at: dict[tuple[str, int], float] = {}

    def carry(self, region: Region, sender: str, target: str, rows: list[bytes], deliver: Callable[[], None]) -> None:
        """`deliver` is called when `rows` arrive, if they do."""
        now = self._clock.now
        wait = 0.0
        if region.rate:
            starts = max(self._free_at.get((sender, region.number), now), now)
            if starts - now > QUEUE:
                self._counters["relay-full"] += len(rows)
                return
            free = self._free_at[sender, region.number] = starts + sum(map(len, rows)) * 8 / region.rate
            wait = free - now
        self._counters["relayed"] += len(rows)
        self._clock.call_at(now + wait + region.latency_of(sender) + region.latency_of(target), deliver)
