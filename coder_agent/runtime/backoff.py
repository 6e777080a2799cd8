"""Waiting between attempts: longer each time, a little different for everybody."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays from `floor` to `ceiling` seconds, doubling, shortened by up to a quarter.

    The shortening keeps a thousand agents that lost the same server from coming back in the same instant.
    """

    def __init__(self, floor: float, ceiling: float, rand: Callable[[], float] = random.random) -> None:
        self._floor = floor
        self._ceiling = ceiling
        self._rand = rand
        self._next = floor

    def next(self) -> float:
        """How long to wait now."""
        delay = self._next
        self._next = min(delay * 2, self._ceiling)
        return delay * (1 - self._rand() / 4)

    def reset(self) -> None:
        """Something worked: begin again with short delays."""
        self._next = self._floor
