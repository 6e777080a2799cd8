"""Of the regular pings of a way, how many came back? Loss as people understand it, on the way that is in use."""

from __future__ import annotations

from collections import deque

from ..base.paths import Path
from . import constants as c


class Vitals:
    """The last pings of one way; those of another way begin anew."""

    __slots__ = ("_answered", "_path")

    def __init__(self) -> None:
        self._path: Path | None = None
        self._answered: deque[bool] = deque(maxlen=c.LOSS_PINGS)

    def note(self, path: Path, *, answered: bool) -> None:
        """A ping of `path` came back, or did not in time."""
        if path != self._path:
            self._path = path
            self._answered.clear()
        self._answered.append(answered)

    def loss(self, path: Path | None) -> float | None:
        """The share that was lost on `path`; None = there were too few to tell."""
        if path is None or path != self._path or len(self._answered) < c.LOSS_PINGS_LEAST:
            return None
        return self._answered.count(False) / len(self._answered)
