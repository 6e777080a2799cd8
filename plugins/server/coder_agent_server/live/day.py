"""For how long connections were direct or relayed over the last day, and why."""

from __future__ import annotations

from collections import deque
from datetime import datetime

BUCKET_SECONDS = 900
"""A quarter of an hour: 96 buckets are a day."""
BUCKETS = 96
MAX_CAUSES = 64
"""Different (way, cause) pairs in a bucket; agents name the causes, so there must be an end to them."""


class Day:
    """Seconds that connections in use were direct or relayed, by cause."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, dict[tuple[str, str], float]]] = deque(maxlen=BUCKETS)

    def add(self, kind: str, cause: str, seconds: float, now: datetime) -> None:
        """A connection in use went this way for `seconds` until `now`."""
        number = int(now.timestamp()) // BUCKET_SECONDS
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append((number, {}))
        counts = self._buckets[-1][1]
        key = (kind, cause if (kind, cause) in counts or len(counts) < MAX_CAUSES else "other")
        counts[key] = counts.get(key, 0.0) + seconds

    def totals(self, now: datetime) -> dict[tuple[str, str], float]:
        """Seconds by (way, cause) over the last day."""
        oldest = int(now.timestamp()) // BUCKET_SECONDS - BUCKETS
        total: dict[tuple[str, str], float] = {}
        for number, counts in self._buckets:
            for key, seconds in counts.items() if number > oldest else ():
                total[key] = total.get(key, 0.0) + seconds
        return total

    def hours(self, now: datetime) -> list[tuple[float, float]]:
        """Seconds direct and relayed in each of the last 24 hours, oldest first."""
        current = int(now.timestamp()) // 3600
        found = [[0.0, 0.0] for _ in range(24)]
        for number, counts in self._buckets:
            age = current - number * BUCKET_SECONDS // 3600
            if 0 <= age < 24:
                for (kind, _), seconds in counts.items():
                    if kind in ("direct", "relayed"):
                        found[23 - age][kind == "relayed"] += seconds
        return [(direct, relayed) for direct, relayed in found]
