"""The sending half of a connection: what to send next, and when to send it again.

RFC 9293 (windows, zero-window probes), RFC 6298 (time-out), RFC 8985 (RACK, tail loss probes), RFC 6675 (pipe),
RFC 9438 (through cubic.py). Hands out *runs* of sequence numbers; segmenter.py cuts them.
"""

from __future__ import annotations

from typing import NamedTuple

from .config import StackConfig
from .cubic import Cubic
from .rtt import RttEstimator
from .scoreboard import Scoreboard
from .sendbuf import SendBuffer

RESEND_SEGMENTS = 16
"""Most segments in one retransmission. What was lost whole was a burst too long for some queue on the way (32 packets
in stock relays); sending it again in one piece would lose it again."""
_DEFER_SEGMENTS = 16
"""While acknowledgements are due, wait until this much can be sent at once: bursts are what makes sending cheap."""
_MIN_PROBE = 0.01
"""Shortest tail loss probe time-out: the tick of our timers."""
_DELAYED_ACK = 0.05
"""What a peer may sit on the acknowledgement of a single segment (Linux: 40 ms)."""
_MAX_BACKOFF = 16
STUCK_AFTER = 2
"""Times that the first missing segment was sent again in vain: once may be chance (RFC 4821 §7.7 waits longer)."""
_HEAD_SEGMENTS = 10
"""What is sent again, from the first unacknowledged byte on, when the path is in doubt: RFC 6928's initial window."""


class Run(NamedTuple):
    """Sequence numbers to send now; `end` counts the FIN if it is part of it."""

    start: int
    end: int


class Sender:
    """Send buffer, scoreboard, congestion window and timers of one connection."""

    __slots__ = (
        "config",
        "board",
        "buffer",
        "cubic",
        "rtt",
        "mss",
        "rows",
        "window",
        "sack_permitted",
        "fin_wanted",
        "window_probe_due",
        "retransmits",
        "timeouts",
        "probes",
        "resent",
        "_head_resent",
        "_max_window",
        "_window_seq",
        "_window_ack",
        "_limited",
        "_override",
        "_force",
        "_recovery_end",
        "_after_timeout",
        "_duplicates",
        "_probe_due",
        "_probe_end",
        "_probe_resent",
        "_probe_from",
        "_persist_at",
        "_backoff",
        "_timer_base",
        "_progress_at",
        "_heard_at",
        "_sent_at",
        "_start",
    )

    def __init__(self, start: int, config: StackConfig, mss: int, rows: int) -> None:
        self.config = config
        self._start = start
        self.board = Scoreboard(start)
        self.buffer = SendBuffer(start)
        self.cubic = Cubic(mss)
        self.rtt = RttEstimator()
        self.mss = mss
        self.rows = rows
        """Most segments in a run."""
        self.window = 0
        """What the peer allows beyond `board.una`."""
        self.sack_permitted = False
        self.fin_wanted = False
        self.window_probe_due = False
        self.retransmits = self.timeouts = self.probes = 0
        self.resent = 0
        """Bytes sent more than once."""
        self._max_window = 0
        self._window_seq = self._window_ack = -1 << 63
        self._head_resent = 0
        self._limited = False
        self._override = False
        self._force = False
        self._recovery_end: int | None = None
        self._after_timeout = False
        self._duplicates = 0
        self._probe_due = False
        self._probe_end: int | None = None
        self._probe_resent = False
        self._probe_from: float | None = None
        self._persist_at: float | None = None
        self._backoff = 0
        self._timer_base = self._progress_at = self._heard_at = self._sent_at = 0.0

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def outstanding(self) -> bool:
        """True while something sent is not acknowledged."""
        return self.board.una < self.board.nxt

    @property
    def fin_sent(self) -> bool:
        """True once the FIN is among what was sent."""
        return self.board.nxt > self.buffer.end

    @property
    def fin_acked(self) -> bool:
        """True once the peer has everything including the FIN."""
        return self.board.una > self.buffer.end

    @property
    def has_backlog(self) -> bool:
        """True while there is more to send than the network takes; the peer's window is another matter."""
        return self.board.lost > 0 or (self._limited and self.buffer.end > self.board.nxt)

    @property
    def acked(self) -> int:
        """Bytes that have arrived in order, since the start."""
        return self.board.una - self._start

    @property
    def unanswered_since(self) -> float | None:
        """When the peer was last heard or asked, while an acknowledgement is due."""
        return max(self._progress_at, self._heard_at) if self.outstanding else None

    @property
    def heard_at(self) -> float:
        """When the last acknowledgement came."""
        return self._heard_at

    def resize(self, mss: int, rows: int) -> None:
        """Segments of `mss` bytes, at most `rows` in a run, from now on: after the handshake, and when the path turned
        out to carry more or less. What is sent again is cut anew: only bytes are kept account of."""
        self.mss = mss
        self.rows = rows
        self.cubic.set_mss(mss)

    @property
    def is_stuck(self) -> bool:
        """The first segment that is missing was sent again and again, and does not arrive."""
        return self._head_resent >= STUCK_AFTER

    def shrunk(self, now: float) -> bool:
        """Segments became smaller. If that is because large ones get lost, those in flight are: send them again. True
        if there is something to send."""
        return bool(self._head_resent or self._backoff) and self.path_doubted(now)

    def handshake_rtt(self, rtt: float, now: float) -> None:
        """The round trip of a SYN that was sent once."""
        self.rtt.sample(rtt, now)
        self.board.seed_rtt(rtt)

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    def update_window(self, window: int, seq: int, ack: int) -> None:
        """Take the window from a segment unless an older one overtook (RFC 9293 §3.10.7.4)."""
        if self._window_seq < seq or (self._window_seq == seq and self._window_ack <= ack):
            self._window_seq, self._window_ack = seq, ack
            self.window = window
            if window > self._max_window:
                self._max_window = window
            if window and self._persist_at is not None:
                self._persist_at = None
                self._backoff = 0

    def on_ack(self, ack: int, sacks: list[tuple[int, int]], now: float, *, duplicate: bool) -> None:
        """Enter an acknowledgement in una…nxt. `duplicate`: no payload, no news of the window, nothing newly acked."""
        board = self.board
        flight = board.in_flight
        delivered = 0
        self._heard_at = now
        advanced = ack > board.una
        if advanced:
            delivered = board.advance(ack, now)
            self.buffer.release(ack)
            self._progress_at = self._timer_base = now
            self._backoff = self._duplicates = self._head_resent = 0
        if sacks:
            delivered += self._enter_sacks(ack, sacks, now)
        elif duplicate and not self.sack_permitted:
            self._count_duplicate(now)
        sample = board.take_sample()
        if sample is not None:
            self.rtt.sample(sample, now)
        self._end_episodes(ack, now, advanced=advanced)
        self._detect(now)
        if delivered and (self._recovery_end is None or self._after_timeout):
            cubic = self.cubic
            if self._limited or (cubic.in_slow_start and 2 * flight >= cubic.cwnd):
                cubic.on_ack(delivered, board.una, board.nxt, now, self.rtt.srtt, sample or 0.0)
        self._probe_from = now

    def _enter_sacks(self, ack: int, sacks: list[tuple[int, int]], now: float) -> int:
        first = sacks[0]
        if first[1] <= ack or (len(sacks) > 1 and sacks[1][0] <= first[0] and first[1] <= sacks[1][1]):
            self.board.saw_duplicate()
            if self._probe_resent and self._probe_end is not None and first[1] == self._probe_end:
                self._probe_end = None  # the probe was not needed: nothing had been lost
        return self.board.sack(sacks, now)

    def _count_duplicate(self, now: float) -> None:
        """Peers without SACK: three duplicates mean that the first segment is lost (RFC 6582)."""
        if not self.outstanding:
            return
        self._duplicates += 1
        if self._duplicates == 3 and self._recovery_end is None and self.board.lose_first(self.mss):
            self._enter_recovery(now)

    def _end_episodes(self, ack: int, now: float, *, advanced: bool) -> None:
        if self._recovery_end is not None:
            if ack >= self._recovery_end:
                self._recovery_end = None
                self._after_timeout = False
                self.board.recovered()
            elif advanced and not self.sack_permitted and not self._after_timeout:
                self.board.lose_first(self.mss)  # a partial acknowledgement: the next hole (RFC 6582 §3.2 step 3)
        if self._probe_end is not None and ack >= self._probe_end:
            if self._probe_resent and ack > self._probe_end:
                self.cubic.on_loss(now)  # the probe repaired a loss (RFC 8985 §7.4.2)
                self._probe_end = None
            elif not self._probe_resent:
                self._probe_end = None

    def _detect(self, now: float) -> None:
        found = self.board.detect(
            now, self.rtt.minimum, self.rtt.srtt, recovering=self._recovery_end is not None, mss=self.mss
        )
        if found and self._recovery_end is None:
            self._enter_recovery(now)

    def _enter_recovery(self, now: float) -> None:
        self.cubic.on_loss(now)
        self._recovery_end = self.board.nxt
        self._force = True
        self._probe_end = None

    # -- what to send -------------------------------------------------------------------------------------------------

    def next_run(self, now: float) -> Run | None:
        """What to send now, entered as sent; None if nothing may be sent."""
        board = self.board
        if self._probe_due:
            self._probe_due = False
            run = self._probe(now)
            if run is not None:
                return run
        if board.lost:
            room = self.cubic.cwnd - board.in_flight
            if room < self.mss and not self._force:
                self._limited = True
                return None
            self._force = False
            segments = min(max(room // self.mss, 1), RESEND_SEGMENTS, self.rows)
            run = Run(*board.resend(segments * self.mss, now))
            self._count_resent(run)
            self._sent_at = now
            return run
        return self._fresh(now)

    def _fresh(self, now: float) -> Run | None:
        board, mss = self.board, self.mss
        start = board.nxt
        pending = self.buffer.end - start
        if pending < 0 or (pending == 0 and not self.fin_wanted):
            self._limited = False
            return None
        flight = board.in_flight
        if start == board.una and self._sent_at and now - self._sent_at > self.rtt.rto:
            self.cubic.after_idle()
        usable = board.una + self.window - start
        room = self.cubic.cwnd - flight
        allowed = min(usable, room, self.rows * mss)
        if pending > allowed or allowed <= 0:
            self._limited = room <= usable
            pending = self._whole_segments(allowed, usable, flight)
            if pending <= 0:
                if start == board.una and self._persist_at is None:
                    self._progress_at = now
                    self._persist_at = now + self._interval()
                return None
        if start == board.una:
            self._timer_base = self._progress_at = now
        size = pending + (self.fin_wanted and start + pending == self.buffer.end)
        board.sent(size, now)
        self._sent_at = now
        self._probe_from = now
        return Run(start, start + size)

    def _count_resent(self, run: Run) -> None:
        size = run.end - run.start
        self.retransmits += -(-size // self.mss)
        self.resent += size
        self._head_resent += run.start == self.board.una

    def _whole_segments(self, allowed: int, usable: int, flight: int) -> int:
        """How much of `allowed` to send while there is more: whole segments, no slivers (RFC 9293 §3.8.6.2.1)."""
        if allowed < self.mss:
            if not flight and usable > 0 and (self._override or 2 * usable >= self._max_window):
                self._override = False
                return min(usable, self.mss)  # a receiver with a buffer below two segments, or one that stays so
            return 0
        size = allowed // self.mss * self.mss
        limit = min(self.cubic.cwnd, self.window)
        if size < _DEFER_SEGMENTS * self.mss and 4 * size < limit and 2 * flight > limit:
            return 0
        return size

    def _probe(self, now: float) -> Run | None:
        """A tail loss probe: new data if allowed, else the last segment again (RFC 8985 §7.3)."""
        board = self.board
        self.probes += 1
        size = min(self.buffer.end - board.nxt, self.mss)
        if 0 < size <= board.una + self.window - board.nxt:
            start = board.nxt
            board.sent(size, now)
            run: Run | None = Run(start, start + size)
            self._probe_resent = False
        else:
            stretch = board.probe(self.mss, now)
            run = None if stretch is None else Run(*stretch)
            self._probe_resent = True
            if run is not None:
                self._count_resent(run)
        self._probe_end = board.nxt
        self._timer_base = self._sent_at = now
        return run

    # -- timers -------------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `on_timer` has something to do."""
        board = self.board
        if board.una == board.nxt:
            return self._persist_at
        at = self._timer_base + self._interval()
        if self._probe_from is not None:
            at = min(at, self._probe_time())
        if board.reorder_deadline is not None and board.reorder_deadline < at:
            at = board.reorder_deadline
        return at

    def on_timer(self, now: float) -> bool:
        """Time passed. False = the peer is gone: the connection has failed."""
        board = self.board
        if board.una == board.nxt:
            return self._persist(now)
        if board.reorder_deadline is not None and board.reorder_deadline <= now:
            self._detect(now)
        elif self._probe_from is not None and self._probe_time() <= now:
            self._probe_from = None
            self._probe_due = True
        elif self._timer_base + self._interval() <= now:
            return self._time_out(now)
        return True

    def path_changed(self, now: float) -> bool:
        """Packets may get through again: do not sit out a backed-off time-out. True if there is something to send."""
        if self._backoff and self.outstanding:
            self._time_out(now)
            self._backoff = 0
            return True
        return False

    def slept(self, now: float) -> None:
        """We slept: nothing that waited for an answer has waited longer than from now on."""
        self._progress_at = self._heard_at = self._timer_base = now
        self._backoff = 0

    def path_doubted(self, now: float) -> bool:
        """What is in flight may be lost together with its path: send its head again, by whatever ways there are now.

        Nothing is concluded about congestion. If the head arrives, its acknowledgement shows what else was lost. True
        if there is something to send.
        """
        if self.path_changed(now):
            return True
        if self.outstanding:
            self.board.lose_first(_HEAD_SEGMENTS * self.mss)
            self._force = bool(self.board.lost)
        return self._force

    def path_replaced(self) -> None:
        """Another path carries the packets from now on: find out anew how much it takes.

        Losses of what is still on the old path say nothing about the new one: they are repaired without slowing down.
        """
        self.cubic.restart()
        self.rtt.minimum = float("inf")
        if self.outstanding:
            self._recovery_end = self.board.nxt
            self._after_timeout = True

    def _interval(self) -> float:
        rto = self.rtt.rto
        if not self._backoff:
            return rto
        return min(rto * (1 << self._backoff), max(self.config.max_rto, rto))

    def _time_out(self, now: float) -> bool:
        board = self.board
        alive = max(self._progress_at, self._heard_at) if not self.window else self._progress_at
        if now - alive > self.config.user_timeout:
            return False
        self.timeouts += 1
        self.cubic.on_timeout(board.in_flight, first=not self._after_timeout)
        board.lose_all()
        self._backoff = min(self._backoff + 1, _MAX_BACKOFF)
        self._timer_base = now
        self._recovery_end = board.nxt
        self._after_timeout = True
        self._force = True
        self._probe_from = self._probe_end = None
        self._probe_due = False
        self._duplicates = 0
        return True

    def _persist(self, now: float) -> bool:
        """The window is shut and nothing is in flight: ask whether it has opened (RFC 9293 §3.8.6.1)."""
        if self._persist_at is None or self._persist_at > now:
            return True
        if now - max(self._progress_at, self._heard_at) > self.config.user_timeout:
            return False
        if self.window:
            self._override = True  # it stays small: send what fits (RFC 9293 §3.8.6.2.1, the override time-out)
            self._max_window = self.window
        else:
            self.window_probe_due = True
        self._backoff = min(self._backoff + 1, _MAX_BACKOFF)
        self._persist_at = now + self._interval()
        return True

    def _probe_time(self) -> float:
        """When a tail loss probe is due: some time after the last data or acknowledgement (RFC 8985 §7.2).

        Computed when asked, so that the hot path only stores a time. inf = no probe in this situation.
        """
        board = self.board
        idle = self._recovery_end is None and self._probe_end is None and not self._backoff
        if self._probe_from is None or not idle or not self.sack_permitted:
            return float("inf")
        wait = max(2 * self.rtt.srtt, _MIN_PROBE) if self.rtt.srtt else self.rtt.rto
        if board.nxt - board.una <= self.mss:
            wait += _DELAYED_ACK
        return self._probe_from + wait
