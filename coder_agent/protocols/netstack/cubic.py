"""CUBIC congestion control (RFC 9438) with HyStart++ slow start (RFC 9406). Windows in bytes, times in seconds."""

from __future__ import annotations

INITIAL_SEGMENTS = 10
"""RFC 6928."""
BETA = 0.7
"""Multiplicative decrease (RFC 9438 §4.6)."""
C = 0.4
"""Aggressiveness in segments/s³ (RFC 9438 §5)."""
_ALPHA = 3 * (1 - BETA) / (1 + BETA)
"""Growth of the Reno-friendly estimate, segments per round trip (RFC 9438 §4.3)."""

_MIN_RTT_THRESHOLD = 0.004
_MAX_RTT_THRESHOLD = 0.016
_RTT_DIVISOR = 8
_MIN_SAMPLES = 3
"""The RFC says 8; but our peers acknowledge once per drain, which gives a few samples per round trip."""
_CSS_GROWTH_DIVISOR = 4
_CSS_ROUNDS = 5
"""HyStart++'s other constants (RFC 9406 §4.3)."""


class Cubic:
    """How many bytes may be in flight."""

    __slots__ = (
        "mss",
        "cwnd",
        "ssthresh",
        "_growth",
        "_w_max",
        "_epoch",
        "_touched",
        "_k",
        "_w_est",
        "_origin",
        "_round_end",
        "_round_min",
        "_last_round_min",
        "_samples",
        "_css_rounds",
        "_css_baseline",
    )

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = INITIAL_SEGMENTS * mss
        self.ssthresh = float("inf")
        self._growth = 0.0
        """Fraction of bytes carried between small increases."""
        self._w_max = 0.0
        self._epoch: float | None = None
        self._touched = 0.0
        self._k = 0.0
        self._w_est = 0.0
        self._origin = 0.0
        self._round_end = 0
        self._round_min = float("inf")
        self._last_round_min = float("inf")
        self._samples = 0
        self._css_rounds = 0
        self._css_baseline: float | None = None

    def set_mss(self, mss: int) -> None:
        """The segment size after the handshake, or after a "packet too big"."""
        if self.cwnd == INITIAL_SEGMENTS * self.mss:
            self.cwnd = INITIAL_SEGMENTS * mss
        self.mss = mss

    @property
    def in_slow_start(self) -> bool:
        """True while the window doubles each round trip."""
        return self.cwnd < self.ssthresh

    def on_ack(self, acked: int, una: int, sent: int, now: float, rtt: float, latest: float) -> None:
        """`acked` bytes arrived while the window was the limit. `una`, `sent`: sequence numbers; `rtt` is smoothed."""
        if self.cwnd < self.ssthresh:
            self._slow_start(acked, una, sent, latest)
        else:
            self._avoidance(acked, now, rtt)

    def on_loss(self, now: float) -> None:
        """A new episode of loss: back off once (RFC 9438 §4.6, fast convergence §4.7)."""
        window = self.cwnd / self.mss
        self._w_max = window * (1 + BETA) / 2 if window < self._w_max else window
        self.cwnd = max(int(self.cwnd * BETA), 2 * self.mss)
        self.ssthresh = self.cwnd
        self._epoch = None

    def on_timeout(self, flight: int, *, first: bool) -> None:
        """The retransmission timer fired; `first` of its episode (RFC 9438 §4.8, RFC 5681 §3.1)."""
        if first:
            self._w_max = self.cwnd / self.mss
            self.ssthresh = max(int(max(flight, self.cwnd // 2) * BETA), 2 * self.mss)
        self.cwnd = self.mss
        self._epoch = None
        self._reset_rounds()

    def after_idle(self) -> None:
        """Nothing was sent for longer than a time-out: the path may have changed (RFC 5681 §4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_SEGMENTS * self.mss)
        self._epoch = None

    def restart(self) -> None:
        """Another path carries the packets now: what was learnt about the old one's capacity holds no more."""
        self.cwnd = INITIAL_SEGMENTS * self.mss
        self.ssthresh = float("inf")
        self._w_max = self._growth = 0.0
        self._epoch = None
        self._reset_rounds()

    def _slow_start(self, acked: int, una: int, sent: int, latest: float) -> None:
        self.cwnd += acked if self._css_baseline is None else acked // _CSS_GROWTH_DIVISOR
        if latest:
            self._round_min = min(self._round_min, latest)
            self._samples += 1
        if self._css_baseline is None:
            threshold = min(max(_MIN_RTT_THRESHOLD, self._last_round_min / _RTT_DIVISOR), _MAX_RTT_THRESHOLD)
            if self._samples >= _MIN_SAMPLES and self._round_min >= self._last_round_min + threshold:
                self._css_baseline, self._css_rounds = self._round_min, 0
        elif self._samples >= _MIN_SAMPLES and self._round_min < self._css_baseline:
            self._css_baseline = None  # the queue was a blip: go on doubling
        if una >= self._round_end:
            self._end_round(sent)

    def _end_round(self, sent: int) -> None:
        if self._css_baseline is not None:
            self._css_rounds += 1
            if self._css_rounds >= _CSS_ROUNDS:
                self.ssthresh = self.cwnd
        if self._samples:
            self._last_round_min = self._round_min
        self._round_min, self._samples, self._round_end = float("inf"), 0, sent

    def _avoidance(self, acked: int, now: float, rtt: float) -> None:
        window = self.cwnd / self.mss
        if self._epoch is None:
            self._epoch = now
            self._w_est = window
            self._origin = max(self._w_max, window)
            self._k = ((self._origin - window) / C) ** (1 / 3)
        elif now - self._touched > 2 * rtt + 0.1:
            self._epoch += now - self._touched  # the application paused: that is no time to grow in (RFC 9438 §5.8)
        self._touched = now
        elapsed = now - self._epoch + rtt
        target = self._origin + C * (elapsed - self._k) ** 3
        target = min(max(target, window), 1.5 * window)
        alpha = _ALPHA if self._w_est < self._origin else 1.0
        self._w_est += alpha * acked / self.cwnd
        if self._w_est > target:
            window = max(window, self._w_est)
            self._growth += window * self.mss - self.cwnd
        else:
            self._growth += (target - window) * acked / window
        whole = int(self._growth)
        if whole > 0:
            self.cwnd += whole
            self._growth -= whole

    def _reset_rounds(self) -> None:
        self._round_end = 0
        self._round_min = self._last_round_min = float("inf")
        self._samples = self._css_rounds = 0
        self._css_baseline = None
