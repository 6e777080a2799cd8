"""A token bucket over bytes: the limit a relay asks its clients to keep, and the one it may put on them."""

from __future__ import annotations


class TokenBucket:
    """`rate` bytes per second, at most `burst` at once. Starts full.

    Source: golang.org/x/time/rate, as derp_client.go and derpserver.go use it.
    """

    __slots__ = ("rate", "burst", "_tokens", "_at")

    def __init__(self, rate: int, burst: int, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = now

    def allow(self, size: int, now: float) -> int:
        """How many packets of `size` bytes fit now; `take` takes them."""
        self._refill(now)
        return int(self._tokens // size)

    def take(self, size: int, now: float) -> float:
        """Charge `size` bytes, if need be on credit. Returns the seconds until the debt is paid (0.0 = none)."""
        self._refill(now)
        self._tokens -= size
        return 0.0 if self._tokens >= 0 else -self._tokens / self.rate

    def _refill(self, now: float) -> None:
        self._tokens = min(float(self.burst), self._tokens + (now - self._at) * self.rate)
        self._at = now
