"""Has the gateway restarted? Its epoch counts the seconds since it last lost its mappings. Pure.

A value that is not where the last one and our own clock say it should be means that everything was lost since.
"""

from __future__ import annotations

from dataclasses import dataclass

SLACK = 2
"""Seconds by which clocks and deliveries may disagree. Source: RFC 6886 §3.6, RFC 6887 §8.5."""


@dataclass(slots=True)
class EpochClock:
    """The epoch of one gateway in one protocol (they may count differently)."""

    is_pcp: bool
    _epoch: int | None = None
    _at: float = 0.0

    def observe(self, epoch: int, now: float) -> bool:
        """Take a new value; True if the gateway has restarted since the last one."""
        before, at = self._epoch, self._at
        self._epoch, self._at = epoch, now
        if before is None:
            return False
        elapsed = max(0.0, now - at)
        return _pcp_restarted(before, epoch, elapsed) if self.is_pcp else _pmp_restarted(before, epoch, elapsed)


def _pmp_restarted(before: int, epoch: int, elapsed: float) -> bool:
    """A gateway's clock may run slower than ours by an eighth, never backwards. Source: RFC 6886 §3.6."""
    return epoch < before + elapsed * 7 / 8 - SLACK


def _pcp_restarted(before: int, epoch: int, elapsed: float) -> bool:
    """Both clocks may disagree by a sixteenth; a step back of one second is a reordering. Source: RFC 6887 §8.5."""
    if epoch + 1 < before:
        return True
    grown = epoch - before
    return elapsed + SLACK < grown - grown / 16 or grown + SLACK < elapsed - elapsed / 16
