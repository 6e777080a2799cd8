"""Virtual time: a heap of events, and randomness from a seed."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable


class Timer:
    """An event that lies ahead."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        """It will not happen."""
        self.callback = None


class Clock:
    """Nothing waits: `run` goes from one event to the next. It is also a `runtime.engine.Scheduler`."""

    def __init__(self, seed: int = 0, now: float = 0.0) -> None:
        self.now = now
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()

    def rng(self, size: int) -> bytes:
        """Reproducible randomness, for keys, nonces and transaction ids."""
        return self.random.randbytes(size)

    def time(self) -> float:
        """Virtual seconds."""
        return self.now

    def call_soon(self, callback: Callable[[], object], /) -> Timer:
        """After everything that is due now."""
        return self.call_at(self.now, callback)

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """At `when`, or now if that has passed."""
        timer = Timer(callback)
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), timer))
        return timer

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, or less if `until` becomes true; says whether it did."""
        end = self.now + seconds
        while not until():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return until()
            self.now, _, timer = heapq.heappop(self._events)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
        return True
