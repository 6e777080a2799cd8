"""What the user is told about each forward: connections, bytes, failures, rates. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from .grammar import Forward

SAID_EACH = 1.0
"""Seconds between two failures of one forward that are told one by one; those between are counted."""


@dataclass(slots=True)
class Book:
    """One forward. `opened` counts all connections (UDP: senders) so far, `active` the present ones; `refused` were
    turned away for a limit of ours, `failed` for what the workspace said. Rates are bytes per second."""

    forward: Forward
    kind: str = "forward"
    active: int = 0
    opened: int = 0
    refused: int = 0
    failed: int = 0
    sent: int = 0
    received: int = 0
    dropped: int = 0
    last_error: str = ""
    send_rate: float = 0.0
    receive_rate: float = 0.0
    _seen: tuple[float, int, int] | None = field(default=None, repr=False)
    _said_at: float = field(default=float("-inf"), repr=False)
    _unsaid: int = field(default=0, repr=False)

    def tick(self, now: float) -> None:
        """Take the rates since the last tick."""
        if self._seen is not None and now > self._seen[0]:
            at, sent, received = self._seen
            self.send_rate = (self.sent - sent) / (now - at)
            self.receive_rate = (self.received - received) / (now - at)
        self._seen = (now, self.sent, self.received)

    def fail(self, why: str, now: float) -> int | None:
        """A connection failed. How many failures to tell of now (this one among them); None: not now."""
        self.failed += 1
        self.last_error = why
        return self._say(now)

    def refuse(self, why: str, now: float) -> int | None:
        """A connection was turned away. As `fail`."""
        self.refused += 1
        self.last_error = why
        return self._say(now)

    def _say(self, now: float) -> int | None:
        self._unsaid += 1
        if now - self._said_at < SAID_EACH:
            return None
        count, self._unsaid, self._said_at = self._unsaid, 0, now
        return count

    def document(self) -> dict[str, object]:
        """For ``--output json``."""
        forward = self.forward
        return {
            "kind": self.kind,
            "local": forward.local_url,
            "remote": forward.remote_url if self.kind != "proxy" else "",
            "active": self.active,
            "opened": self.opened,
            "refused": self.refused,
            "failed": self.failed,
            "dropped_datagrams": self.dropped,
            "sent_bytes": self.sent,
            "received_bytes": self.received,
            "send_rate": round(self.send_rate),
            "receive_rate": round(self.receive_rate),
            "last_error": self.last_error,
        }


def amount(count: float) -> str:
    """Bytes for people: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
