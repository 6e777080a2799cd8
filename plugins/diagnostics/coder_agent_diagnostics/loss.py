"""How many of the last pings were lost."""

from __future__ import annotations

from collections import deque

WINDOW = 20
LOSING = 0.15
"""Share from which a path is said to be losing packets: three of the last twenty."""


class Loss:
    """The newest `WINDOW` pings."""

    def __init__(self) -> None:
        self._answered: deque[bool] = deque(maxlen=WINDOW)

    def add(self, answered: bool) -> None:
        """One more ping."""
        self._answered.append(answered)

    @property
    def rate(self) -> float:
        """Share that was lost, 0 before the first ping."""
        return 1 - sum(self._answered) / len(self._answered) if self._answered else 0.0

    @property
    def is_losing(self) -> bool:
        """Is that enough to tell somebody?"""
        return self.rate >= LOSING
