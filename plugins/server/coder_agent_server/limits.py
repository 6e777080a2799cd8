"""Rate limits, in memory: a fixed window per caller, bounded in size."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .problems import Problem

WINDOW_SECONDS = 60.0
MAX_CALLERS = 10_000
"""Callers remembered at once. When full, the oldest are forgotten: a flood from many addresses must not eat memory."""


class RateLimit:
    """At most `per_minute` calls per caller and minute; zero or less switches it off."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._limit = per_minute
        self._clock = clock
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def check(self, caller: Hashable) -> None:
        """Count one call. Raises Problem 429 when it is one too many."""
        if self._limit <= 0:
            return
        now = self._clock()
        start, count = self._windows.get(caller, (now, 0))
        if now - start >= WINDOW_SECONDS:
            start, count = now, 0
        if count == 0:
            self._windows.pop(caller, None)  # move to the end: insertion order is age
            self._make_room(now)
        self._windows[caller] = (start, count + 1)
        if count >= self._limit:
            wait = max(1, round(start + WINDOW_SECONDS - now))
            raise Problem(
                429,
                f"You've been rate limited for sending more than {self._limit} requests in a minute.",
                headers={
                    "Retry-After": str(wait),
                    # As go-chi/httprate tells them, which stock servers use.
                    "X-RateLimit-Limit": str(self._limit),
                    "X-RateLimit-Remaining": "0",
                },
            )

    def _make_room(self, now: float) -> None:
        while self._windows:
            oldest = next(iter(self._windows))
            if len(self._windows) < MAX_CALLERS and now - self._windows[oldest][0] < WINDOW_SECONDS:
                return
            del self._windows[oldest]
