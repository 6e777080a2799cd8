"""Is the direct path still there? Notices within some 200 ms that a peer which should be answering does not.

Trust in a path lasts seconds after a pong (constants.TRUST_DURATION), as long as two lost heartbeats: too long for
somebody who is typing. So, while packets flow, three things put a trusted path *in doubt*: an answer due by TCP that is
missing; a steady flow towards us that stops dead; packets of the peer that come by relay although we send directly. In
doubt, packets go both ways and the path is pinged; the first pong ends the doubt, silence ends the trust.

Only a pong ends it: packets that still come in directly prove the other direction.
"""

from __future__ import annotations

from math import ceil

from ..base.flow import Flow
from . import constants as c
from .candidates import NEVER

_HISTORY = (1 << 24) - 1


def patience(rtt: float, jitter_bound: float) -> float:
    """How long to wait for an answer before doubting, in seconds."""
    return max(c.DOUBT_AFTER, min(3 * rtt, rtt + c.DOUBT_MARGIN), min(jitter_bound, rtt + c.DOUBT_JITTER))


class Doubt:
    """The state for one peer. Times are None (or NEVER) for what is not, or not yet."""

    __slots__ = ("since", "pings", "ping_at", "ended_at", "pulse_at", "_pulsed_at", "_late", "_idle", "_inflow",
                 "_hint_at", "_hint_pause", "_hinted_at", "used_at", "_sent")  # fmt: skip

    def __init__(self) -> None:
        self.since: float | None = None
        self.pings = 0
        self.ping_at = NEVER
        """While in doubt: when the next ping, or the end of the trust, is due."""
        self.ended_at = NEVER
        self.used_at = NEVER
        """When data was last seen to move; keepalives are none."""
        self._sent = 0
        self.pulse_at: float | None = None
        """When the next look at the flow is due."""
        self._pulsed_at = NEVER
        self._late = False
        self._idle = 0
        self._inflow = 0
        self._hint_at = self._hinted_at = NEVER
        self._hint_pause = c.DOUBT_PAUSE

    # ------------------------------------------------------------ pulses

    def arm(self, now: float) -> None:
        """Packets are being sent: look at the flow from now on."""
        if self.pulse_at is None:
            self.pulse_at = now + c.PULSE
            self._idle = 0

    def pulse(self, now: float, sent_at: float, received_at: float) -> bool:
        """`pulse_at` has come. Notes what moved since the last one. False: nothing did for a second, so they stop."""
        assert self.pulse_at is not None
        # Once only: a loop that is always busy is late at every pulse, and must not be blind for that.
        self._late = now - self.pulse_at > c.LATE_PULSE and not self._late
        heard = received_at > self._pulsed_at
        if not self._late:
            self._inflow = (self._inflow << 1 | heard) & _HISTORY
        self._idle = 0 if heard or sent_at > self._pulsed_at or self.since is not None else self._idle + 1
        self._pulsed_at = now
        self.pulse_at = now + c.PULSE if self._idle < c.IDLE_PULSES else None
        if self.pulse_at is None:
            self._inflow = 0
            return False
        return True

    def note_use(self, flow: Flow, now: float) -> None:
        """Did data move? What is received in several pulses counts, what is sent always."""
        if self.used_at == NEVER or flow.sent != self._sent or self._inflow.bit_count() > 2:
            self.used_at, self._sent = now, flow.sent

    def is_resting(self, now: float) -> bool:
        """True if the session is only kept open."""
        return self.used_at != NEVER and now - self.used_at > c.RESTING_AFTER

    # ------------------------------------------------------------ reasons

    def is_due(self, flow: Flow, latency: float, now: float, *, direct: bool = True) -> bool:
        """Does the flow give reason to doubt now? `direct` False: it goes by relay, where TCP makes pauses."""
        if self._late or self.since is not None:
            return False
        return self._is_unanswered(flow, latency, now) or (direct and self._stopped_dead(latency, now))

    def hasten(self, flow: Flow, latency: float) -> None:
        """Do not wait for the next pulse if an answer will be missing before it."""
        if flow.unanswered_since is not None and self.pulse_at is not None and self.since is None:
            missing_at = flow.unanswered_since + patience(flow.rtt or latency, flow.patience)
            if self._pulsed_at < missing_at < self.pulse_at:
                self.pulse_at = missing_at

    def _is_unanswered(self, flow: Flow, latency: float, now: float) -> bool:
        since = flow.unanswered_since
        if since is None or now - since < patience(flow.rtt or latency, flow.patience):
            return False
        return since > self.ended_at or now - self.ended_at >= c.DOUBT_PAUSE

    def _stopped_dead(self, latency: float, now: float) -> bool:
        silent = ceil(max(c.INFLOW_STOP, patience(latency, 0.0)) / c.PULSE)
        stopped_now = self._inflow & (1 << silent + 1) - 1 == 1 << silent
        was_steady = (self._inflow >> silent).bit_count() >= c.INFLOW_PULSES
        return stopped_now and was_steady and now - self.ended_at >= c.DOUBT_PAUSE

    def is_hinted(self, pong_at: float, now: float) -> bool:
        """The peer sends by relay although we reach it directly: is that a reason to doubt now?"""
        last, self._hinted_at = self._hinted_at, now
        if self.since is not None or now - pong_at < c.DOUBT_AFTER or now < self._hint_at:
            return False
        if now - last > 2 * c.DOUBT_PAUSE and now - self._hint_at > 2 * c.DOUBT_PAUSE:
            self._hint_pause = c.DOUBT_PAUSE
        self._hint_at = now + self._hint_pause
        self._hint_pause = min(2 * self._hint_pause, c.HINT_PAUSE_MAX)
        return True

    # ------------------------------------------------------------ the doubt itself

    def begin(self, now: float) -> None:
        """From now on packets go both ways."""
        self.since = self.ping_at = now
        self.pings = 0

    def end(self, now: float) -> None:
        """It is over, one way or the other."""
        self.since, self.ping_at = None, NEVER
        self.ended_at = now

    def answered(self, pinged_at: float, now: float) -> None:
        """A pong came by the path; `pinged_at` is when its ping left. An older ping says nothing about now."""
        if self.since is not None and pinged_at >= self.since:
            self.end(now)

    def deadline(self) -> float:
        """When there is something to do."""
        when = self.pulse_at if self.pulse_at is not None else float("inf")
        return min(when, self.ping_at) if self.since is not None else when
