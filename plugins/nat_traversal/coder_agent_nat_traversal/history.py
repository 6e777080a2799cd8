"""The latencies of the last minutes: what a node reports of a region is the best of them."""

from __future__ import annotations

from collections.abc import Iterable

HISTORY = 305.0
"""Seconds (5 min 5 s) for which a region's best latency counts: one slow answer moves no home. Source: netcheck.go."""


class LatencyHistory:
    """The best latency per region and family of the last five minutes."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, str], list[tuple[float, float]]] = {}

    def best(self, region: int, family: str, seconds: float, now: float) -> float:
        """Note a measurement; the lowest that is not older than HISTORY."""
        fresh = [s for s in self._samples.get((region, family), ()) if 0 <= now - s[0] <= HISTORY and s[1] < seconds]
        fresh.append((now, seconds))  # later and lower: earlier, higher ones can never be the best again
        self._samples[region, family] = fresh
        return fresh[0][1]

    def keep(self, regions: Iterable[int]) -> None:
        """Forget all regions but these."""
        wanted = set(regions)
        self._samples = {key: value for key, value in self._samples.items() if key[0] in wanted}
