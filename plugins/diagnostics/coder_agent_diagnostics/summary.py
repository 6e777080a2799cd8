"""Ping statistics, as `coder ping` has always shown them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Summary:
    """Counts and latencies in seconds; mean and variance by Welford's method, so any number of pings costs nothing."""

    total: int = 0
    successful: int = 0
    minimum: float = 0.0
    maximum: float = 0.0
    mean: float = 0.0
    _m2: float = 0.0

    def add(self, latency: float | None) -> None:
        """One ping; None = it failed."""
        self.total += 1
        if latency is None:
            return
        self.successful += 1
        self.minimum = latency if self.successful == 1 else min(self.minimum, latency)
        self.maximum = max(self.maximum, latency)
        delta = latency - self.mean
        self.mean += delta / self.successful
        self._m2 += delta * (latency - self.mean)

    @property
    def variance(self) -> float:
        """Sample variance in seconds²; 0 for fewer than two pings."""
        return self._m2 / (self.successful - 1) if self.successful > 1 else 0.0

    def document(self) -> dict[str, float | int]:
        """The JSON summary: milliseconds (the variance in ms²)."""
        return {
            "total": self.total,
            "successful": self.successful,
            "min_ms": round(self.minimum * 1e3, 3),
            "avg_ms": round(self.mean * 1e3, 3),
            "max_ms": round(self.maximum * 1e3, 3),
            "variance_ms": round(self.variance * 1e6, 6),
        }
