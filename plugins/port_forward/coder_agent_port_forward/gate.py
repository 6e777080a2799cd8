"""How many connections there may be at once, and how many are being opened. Shared by all forwards of one command."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_OPENING = 64
"""Dials at once. A stock agent keeps 128 undecided connections for all of its users; what is more it ignores, and the
sender tries again a second later."""


class Gate:
    """Counts. `enter` before, `leave` after; who may not open yet waits in `later`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self.opening = 0
        self._later: deque[Callable[[], None]] = deque()

    def enter(self) -> bool:
        """One more connection. False: there are too many."""
        if self.inside >= self.limit:
            return False
        self.inside += 1
        return True

    def leave(self) -> None:
        """A connection ended."""
        self.inside -= 1

    def open(self, start: Callable[[], None]) -> None:
        """Call `start` now, or as soon as fewer are being opened; `opened` must follow."""
        if self.opening < MAX_OPENING:
            self.opening += 1
            start()
        else:
            self._later.append(start)

    def opened(self) -> None:
        """An opening ended, well or badly."""
        self.opening -= 1
        while self._later and self.opening < MAX_OPENING:
            self.opening += 1
            self._later.popleft()()
