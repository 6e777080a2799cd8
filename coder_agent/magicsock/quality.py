"""How good is each way to a peer, and which one should carry data? Measures by what TCP says, asks the policy.

Only the way in use can be measured; what the other one was worth is remembered, for a time that grows with each change.
When it is over, that way's goodput is unknown, and the policy may give it a trial. This is what bounds the changes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from ..base.flow import Flow
from ..base.paths import CarrierPolicy, PathQuality, RelayQuality
from . import constants as c
from .candidates import NEVER


@dataclass(frozen=True, slots=True)
class Measure:
    """A way, measured: share of bytes lost and bytes a second. `until` says how long to believe it."""

    loss: float | None = None
    goodput: float | None = None
    until: float = NEVER

    def at(self, now: float) -> Measure:
        """What of it is still believed."""
        return self if now <= self.until else UNKNOWN


UNKNOWN = Measure()


@dataclass(frozen=True, slots=True)
class _Window:
    seconds: float
    sent: int
    resent: int
    acked: int
    has_backlog: bool


class Quality:
    """The two ways to one peer. `relayed`: data goes by relay although a direct path works."""

    __slots__ = ("relayed", "changes", "direct", "relay", "_windows", "_last", "_last_at", "_settle_until",
                 "_direct_retry", "_relay_retry", "changed_at", "_backlog")  # fmt: skip

    def __init__(self) -> None:
        self.relayed = False
        self.changes = 0
        self.direct = self.relay = UNKNOWN
        self._windows: deque[_Window] = deque(maxlen=c.QUALITY_WINDOWS)
        self._last: Flow | None = None
        self._last_at = self._settle_until = self.changed_at = NEVER
        self._direct_retry, self._relay_retry = c.DIRECT_RETRY, c.RELAY_RETRY
        self._backlog = False

    def forget(self) -> None:
        """There is no choice any more (no direct path, or no relay): what is left carries."""
        self.relayed = False
        self._windows.clear()
        self._last = None

    def relay_failed(self, now: float) -> None:
        """The relay does not answer while it carries data: back to the direct path."""
        self.relay = Measure(None, 0.0, now + self._relay_retry)
        self.direct = UNKNOWN
        self.forget()

    def excuse(self, until: float) -> None:
        """What was lost lately was too large, and is being sent again: it says nothing about the path."""
        self._windows.clear()
        self._settle_until = max(self._settle_until, until)

    def note(self, flow: Flow, best: PathQuality, relay: RelayQuality, policy: CarrierPolicy, now: float) -> bool:
        """Take in how the traffic goes. True if another way carries it from now on."""
        self._backlog = self._backlog or flow.has_backlog
        if self._last is None or now - self._last_at > 4 * c.QUALITY_WINDOW:
            self._windows.clear()  # a pause: what was measured before it belongs to another time
            self._start_window(flow, now)
            return self._over_while_idle(best, relay, policy, now)
        if now - self._last_at < c.QUALITY_WINDOW:
            return False
        self._close_window(flow, now)
        if len(self._windows) < self._windows_needed(now):
            return False
        mine = self._measure()
        if self.relayed:
            self.relay = replace(mine, until=now + c.RELAY_MEMORY)
        else:
            self.direct = replace(mine, until=now + c.QUALITY_WINDOW)
        backlog = self._is_backlogged()
        wish = policy.prefers_relay(self._of_direct(best, now), self._of_relay(relay, now),
                                    relayed=self.relayed, backlog=backlog)  # fmt: skip
        if wish == self.relayed:
            self._calm_down(now)
            return False
        self._change(mine, flow, now)
        return True

    def as_of_change(self, flow: Flow) -> Flow:
        """The flow as it concerns the way now in use: what was asked by the former one is not missing by this one; and
        a relay may stall as TCP does."""
        since = flow.unanswered_since
        return replace(
            flow,
            unanswered_since=since if since is None else max(since, self.changed_at),
            patience=max(flow.patience, c.RELAY_PATIENCE) if self.relayed else flow.patience,
        )

    def figures(self, best: PathQuality, relay: RelayQuality, now: float) -> tuple[PathQuality, RelayQuality]:
        """Both ways, as far as they were measured lately."""
        return self._of_direct(best, now), self._of_relay(relay, now)

    # ------------------------------------------------------------ windows

    def _start_window(self, flow: Flow, now: float) -> None:
        self._last, self._last_at, self._backlog = flow, now, flow.has_backlog

    def _close_window(self, flow: Flow, now: float) -> None:
        last = self._last
        assert last is not None
        if self._last_at >= self._settle_until:
            sent, resent, acked = flow.sent - last.sent, flow.resent - last.resent, flow.acked - last.acked
            self._windows.append(_Window(now - self._last_at, max(sent, 0), max(resent, 0), acked, self._backlog))
        self._start_window(flow, now)

    def _windows_needed(self, now: float) -> int:
        other = self.direct if self.relayed else self.relay
        return c.TRIAL_WINDOWS if now <= other.until else c.QUALITY_WINDOWS

    def _measure(self) -> Measure:
        sent = sum(one.sent for one in self._windows)
        resent = sum(one.resent for one in self._windows)
        acked = sum(one.acked for one in self._windows)
        lossy = sum(one.resent > 0 for one in self._windows)
        # One burst of loss is how TCP finds the end of a queue: only loss that goes on makes a path bad.
        loss = resent / sent if sent >= c.QUALITY_BYTES and 2 * lossy >= len(self._windows) else None
        return Measure(loss, acked / sum(one.seconds for one in self._windows))

    def _is_backlogged(self) -> bool:
        return 2 * sum(one.has_backlog for one in self._windows) > len(self._windows)

    # ------------------------------------------------------------ changes

    def _over_while_idle(self, best: PathQuality, relay: RelayQuality, policy: CarrierPolicy, now: float) -> bool:
        """Nothing flowed for a while: a direct path whose time has come is taken back without a trial."""
        if not self.relayed or now <= self.direct.until:
            return False
        if policy.prefers_relay(self._of_direct(best, now), self._of_relay(relay, now), relayed=True, backlog=False):
            return False
        self._change(UNKNOWN, None, now)
        return True

    def _change(self, mine: Measure, flow: Flow | None, now: float) -> None:
        if self.relayed:
            if now <= self.direct.until:  # the relay lost the comparison
                self.relay = replace(mine, until=now + self._relay_retry)
                self._relay_retry = min(2 * self._relay_retry, c.RELAY_RETRY_MAX)
        else:
            self.direct = replace(mine, until=now + self._direct_retry)
            self._direct_retry = min(2 * self._direct_retry, c.DIRECT_RETRY_MAX)
        self.relayed = not self.relayed
        self.changes += 1
        self.changed_at = now
        self._windows.clear()
        self._settle_until = now + max(c.SETTLE, 3 * flow.rtt if flow is not None else 0.0)

    def _calm_down(self, now: float) -> None:
        """The present way has proven itself for a while: the next quarrel starts with short waits again."""
        if now - self.changed_at > c.DIRECT_RETRY_MAX:
            if self.relayed:
                self._relay_retry = c.RELAY_RETRY
            else:
                self._direct_retry = c.DIRECT_RETRY

    def _of_direct(self, best: PathQuality, now: float) -> PathQuality:
        known = self.direct.at(now)
        return replace(best, loss=known.loss, goodput=known.goodput)

    def _of_relay(self, relay: RelayQuality, now: float) -> RelayQuality:
        known = self.relay.at(now)
        return replace(relay, loss=known.loss, goodput=known.goodput)
