"""A peer's timers, as numbers: the data path writes them, nobody is woken for it.

`earliest` never lies after the next timer that is due, but may lie before it (a cancelled timer leaves it behind);
`settle` makes it exact again.

Source: the WireGuard paper §6; wireguard-go device/{timers,constants}.go.
"""

from __future__ import annotations

REKEY_TIMEOUT = 5.0
"""An initiation is repeated after this, and never sent more often. Seconds."""
HASTY_TIMEOUT = 0.5
HASTY_ATTEMPTS = 3
"""After a sleep the first initiations are repeated so soon, and so often, besides: sockets, mappings and the relay's
connection were all lost, and somebody is typing. Ours; responders take 50 a second (handshakes.py). Seconds."""
WAKE_PAUSE = 0.1
"""After a sleep: between an initiation that is on its way and the next one, so that no responder takes the two for a
flood (20 ms; paths may bring them closer together). Seconds."""
REKEY_ATTEMPTS = 18
"""Initiations are repeated this often, about 90 s: REKEY_ATTEMPT_TIME ÷ REKEY_TIMEOUT."""
JITTER_MAX = 0.333
"""Random addition to handshake timers, so that two sides or many peers do not stay in step. Seconds."""
KEEPALIVE_TIMEOUT = 10.0
"""Data received and nothing sent for this long ⇒ a keepalive. Seconds."""
UNANSWERED_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
"""Data sent and nothing received for this long ⇒ a new handshake, for a living peer would have sent a keepalive.
Seconds."""
ZERO_AFTER = 540.0
"""Keys are forgotten this long after the last session was made: 3 × REJECT_AFTER_TIME. Seconds."""

NEVER = float("inf")


class Timers:
    """When something is due for one peer; NEVER = not armed. `jitter` is renewed by the owner at each handshake: the
    data path must not draw randomness for every burst."""

    __slots__ = (
        "retransmit_at",
        "keepalive_at",
        "another_keepalive",
        "unanswered_at",
        "zero_at",
        "persistent_at",
        "persistent",
        "jitter",
        "earliest",
    )

    def __init__(self) -> None:
        self.persistent = 0.0
        self.jitter = 0.0
        self.earliest = NEVER
        self.another_keepalive = False
        self.clear()

    def clear(self) -> None:
        """Disarm all."""
        self.retransmit_at = self.keepalive_at = self.unanswered_at = self.zero_at = self.persistent_at = NEVER
        self.another_keepalive = False

    # ------------------------------------------------------------ what happened

    def sent(self, now: float, *, is_data: bool) -> None:
        """Something authenticated was sent (data, keepalive or handshake message)."""
        self.keepalive_at = NEVER
        if is_data and self.unanswered_at == NEVER:
            self.unanswered_at = self._due(now + UNANSWERED_TIMEOUT + self.jitter)
        if self.persistent:
            self.persistent_at = self._due(now + self.persistent)

    def received(self, now: float, *, is_data: bool) -> None:
        """Something authenticated was received."""
        self.unanswered_at = NEVER
        if is_data:
            if self.keepalive_at == NEVER:
                self.keepalive_at = self._due(now + KEEPALIVE_TIMEOUT)
            else:
                self.another_keepalive = True
        if self.persistent:
            self.persistent_at = self._due(now + self.persistent)

    def initiate_after(self, at: float) -> None:
        """An initiation was sent, or could not be sent because of the rate rule: try again after `at`."""
        self.initiate_at(at + self.jitter)

    def initiate_at(self, at: float) -> None:
        """The next initiation goes then, unless the handshake is complete before."""
        self.retransmit_at = self._due(at)

    def derived(self, now: float) -> None:
        """A new session was made."""
        self.zero_at = self._due(now + ZERO_AFTER)

    def gave_up(self, now: float) -> None:
        """No answer to all our initiations."""
        self.keepalive_at = NEVER
        if self.zero_at == NEVER:
            self.zero_at = self._due(now + ZERO_AFTER)

    def completed(self) -> None:
        """A handshake is complete."""
        self.retransmit_at = NEVER

    def kept_alive(self, now: float) -> None:
        """The passive keepalive was sent; one more follows if data came meanwhile."""
        if self.another_keepalive:
            self.another_keepalive = False
            self.keepalive_at = self._due(now + KEEPALIVE_TIMEOUT)

    def set_persistent(self, seconds: float, last_traffic: float | None) -> None:
        """Send something at least every `seconds`; 0 = off. Without traffic so far it is due at once: it opens a NAT
        mapping."""
        if not seconds:
            self.persistent_at = NEVER
        elif seconds != self.persistent:
            self.persistent_at = self._due(0.0 if last_traffic is None else last_traffic + seconds)
        self.persistent = seconds

    def postpone_persistent(self, now: float) -> None:
        """The persistent keepalive could not be sent: there is no session."""
        self.persistent_at = self._due(now + self.persistent)

    # ------------------------------------------------------------ asking

    def settle(self) -> float:
        """Recompute `earliest`."""
        self.earliest = min(self.retransmit_at, self.keepalive_at, self.unanswered_at, self.zero_at, self.persistent_at)
        return self.earliest

    def _due(self, at: float) -> float:
        if at < self.earliest:
            self.earliest = at
        return at
