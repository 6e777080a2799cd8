"""Round-trip time and retransmission time-out (RFC 6298), with the minimum that RACK and CUBIC need."""

from __future__ import annotations

INITIAL_RTO = 1.0
"""RFC 6298 §2.1."""
MIN_RTO = 0.2
"""Linux's TCP_RTO_MIN; the RFC's 1 s would make every tail loss on a LAN a visible pause."""
_GRANULARITY = 0.01
"""The coarse tick that checks our deadlines (runtime); enters the time-out as RFC 6298 §2 asks."""
_MIN_WINDOW = 30.0
"""Seconds after which an old minimum is forgotten: a path may change for the worse (relay instead of direct)."""


class RttEstimator:
    """Smoothed round-trip time, its variation, and the time-out that follows from them. Seconds."""

    __slots__ = ("srtt", "variation", "rto", "minimum", "latest", "_minimum_at")

    def __init__(self) -> None:
        self.srtt = 0.0
        """0 = no sample yet."""
        self.variation = 0.0
        self.rto = INITIAL_RTO
        self.minimum = float("inf")
        self.latest = 0.0
        self._minimum_at = 0.0

    def sample(self, rtt: float, now: float) -> None:
        """Enter a measurement of data that was sent once (Karn's rule is the caller's)."""
        self.latest = rtt
        if rtt <= self.minimum or now - self._minimum_at > _MIN_WINDOW:
            self.minimum, self._minimum_at = rtt, now
        if self.srtt == 0.0:
            self.srtt, self.variation = max(rtt, 1e-6), rtt / 2
        else:
            self.variation += (abs(self.srtt - rtt) - self.variation) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.rto = max(MIN_RTO, self.srtt + max(_GRANULARITY, 4 * self.variation))
