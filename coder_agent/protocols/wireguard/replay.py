"""Which transport counters were seen: the sliding window of RFC 6479, as one big integer that is shifted lazily.

In-order packets, nearly all of them, only move two numbers; the 8129-bit integer is shifted when something else comes.
"""

from __future__ import annotations

REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
"""No counter from here on is ever sent or accepted (WireGuard paper §6.1)."""
WINDOW = 8128
"""How far behind the greatest counter a late packet may be: (128 − 1) words of 64 bits, as wireguard-go has it."""
_MASK = (1 << (WINDOW + 1)) - 1


class ReplayWindow:
    """Accepts every counter at most once. Test with `accepts` before opening, `mark` only after it opened."""

    __slots__ = ("highest", "_seen", "_fresh")

    def __init__(self) -> None:
        self.highest = -1
        self._seen = 0  # bit i: counter (highest − _fresh − i) was seen
        self._fresh = 0  # the last this many counters were all seen, but are not in _seen yet

    def accepts(self, counter: int) -> bool:
        """True if `counter` is new, inside the window and below the limit."""
        if counter > self.highest:
            return counter < REJECT_AFTER_MESSAGES
        behind = self.highest - counter
        if behind > WINDOW:
            return False
        self._settle()
        return not (self._seen >> behind) & 1

    def mark(self, counter: int) -> None:
        """Remember one accepted counter."""
        if counter == self.highest + 1:
            self.highest = counter
            self._fresh += 1
        elif counter > self.highest:
            self.mark_run(counter, 1)
        else:
            self._settle()
            self._seen |= 1 << (self.highest - counter)

    def mark_run(self, first: int, count: int) -> None:
        """Remember `count` consecutive counters from `first`, which is above all seen so far."""
        gap = first - 1 - self.highest
        if gap:
            self._settle()
            self._seen = 0 if gap > WINDOW else (self._seen << gap) & _MASK
        self.highest = first + count - 1
        self._fresh += count

    def _settle(self) -> None:
        fresh, self._fresh = self._fresh, 0
        if fresh > WINDOW:
            self._seen = _MASK
        elif fresh:
            self._seen = ((self._seen << fresh) | ((1 << fresh) - 1)) & _MASK
