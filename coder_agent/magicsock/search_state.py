"""What a peer's search for a direct path remembers: probes counted for the report, and attempts to guess ports."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ..base.addresses import AddrPort
from ..base.nat_facts import PathReport
from ..base.paths import UdpPath
from . import constants as c

NEVER = float("-inf")
FOREVER = float("inf")


@dataclass(slots=True)
class Allowance:
    """Token bucket for what a peer can make us do."""

    burst: float = c.ALLOWANCE_BURST
    per_second: float = c.ALLOWANCE_PER_SECOND
    tokens: float = -1.0
    at: float = NEVER

    def take(self, now: float) -> bool:
        """True if one more is within the allowance."""
        self._refill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def next_at(self, now: float) -> float:
        """When the next one will be allowed."""
        self._refill(now)
        return now if self.tokens >= 1 else now + (1 - self.tokens) / self.per_second

    def _refill(self, now: float) -> None:
        """A clock that jumps back refills nothing."""
        if self.at == NEVER:
            self.tokens = float(self.burst)
        else:
            self.tokens = min(float(self.burst), self.tokens + max(now - self.at, 0.0) * self.per_second)
        self.at = now


@dataclass(slots=True)
class Account:
    """Our side of the `PathReport`, the peer's, and when we told ours."""

    sent: int = 0
    answered: int = 0
    seen: int = 0
    seen_from: deque[AddrPort] = field(default_factory=lambda: deque(maxlen=c.REPORT_SOURCES))
    remote: PathReport | None = None
    told_at: float = NEVER
    tell_at: float = FOREVER
    asking: bool = False
    incoming: Allowance = field(default_factory=Allowance)
    answers: Allowance = field(default_factory=lambda: Allowance(c.REPORT_ANSWERS, c.REPORT_ANSWERS_PER_SECOND))

    def note_seen(self, source: AddrPort) -> None:
        """A valid ping of the peer came from `source`."""
        self.seen += 1
        if source in self.seen_from:
            self.seen_from.remove(source)
        self.seen_from.append(source)

    def forget_probes(self) -> None:
        """Our sockets were reopened: count afresh."""
        self.sent = self.answered = self.seen = 0
        self.seen_from.clear()


@dataclass(slots=True)
class Hunt:
    """Birthday probing with one peer, at either end.

    `sockets`: extra ones open for this peer. `target`: where they ping, at the hard end; whose ports are guessed, at
    the easy end. `done`: sockets asked for, or ports guessed. `ends_at`, `due`: of the attempt that is on; infinite
    without one. `failures` chooses the pause before the next.
    """

    is_guessing: bool = False
    sockets: list[int] = field(default_factory=list)
    target: AddrPort | None = None
    attempt: int = 0
    done: int = 0
    start: int = 0
    stride: int = 1
    due: float = FOREVER
    ends_at: float = FOREVER
    not_before: float = NEVER
    failures: int = 0

    @property
    def is_on(self) -> bool:
        """An attempt is being made now."""
        return self.ends_at != FOREVER


@dataclass(slots=True)
class MtuState:
    """What is known about how large packets to one peer may be (mtu.py). Sizes in bytes: `accepted` and
    `announced` of inner packets, `proven` of a UDP payload."""

    accepted: int = 0
    announced: int = c.TUNNEL_MTU_SAFE
    path: UdpPath | None = None
    """What `proven` holds for."""
    proven: int = 0
    since: float = NEVER
    """Only pings sent after this prove anything."""
    rounds: int = 0
    round_at: float = NEVER
    lost: int = 0
    suspected_at: float = NEVER
    pause: float = 0.0
    hold_until: float = NEVER
