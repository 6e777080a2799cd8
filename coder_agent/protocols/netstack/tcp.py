"""One TCP connection (RFC 9293): its public face, its clock, and the packets it emits.

What arrives is handled in arrival.py; bytes to send in sender.py; bytes received in receiver.py.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from ipaddress import IPv6Address
from typing import Protocol

from ...base.burst import Burst
from . import ip, segments
from .config import StackConfig
from .receiver import Receiver
from .segmenter import Segmenter, rows_for
from .segments import ACK, FIN, PSH, RST, SYN, Options
from .sender import Run, Sender
from .states import OPENING, SENDING, Event, State, after

_MASK = 0xFFFFFFFF
_ACK_AT = ip.HEADER_SIZE + 8
_STAMP_AT = ip.HEADER_SIZE + segments.HEADER_SIZE + 4
_MIN_MSS = 64
"""Smaller MSS options are taken as this: a peer must not make us send headers only."""
_MIN_SHIFT = 8
"""Window scale as gVisor offers it; more only if the configured window needs it."""
_CHALLENGES_PER_SECOND = 10
"""RFC 5961 §7: an attacker must not make us flood the path with ACKs."""


class Owner(Protocol):
    """What a connection needs of its stack."""

    config: StackConfig

    def ready(self, connection: TcpConnection) -> None:
        """It may have something to send."""
        ...

    def woke(self, connection: TcpConnection) -> None:
        """Something changed that the application can see."""
        ...

    def schedule(self, connection: TcpConnection) -> None:
        """Its deadline may have become earlier."""
        ...

    def control(self, peer: Hashable, packet: bytes) -> None:
        """Send a packet that is not part of its stream (a reset)."""
        ...

    def forget(self, connection: TcpConnection) -> None:
        """It is closed."""
        ...


class TcpConnection:
    """A connection of a Stack. Not made directly: see Stack.connect and SynRequest.accept.

    Methods never block and never raise for what the network did: `error` says it.
    Not guaranteed: thread safety.
    """

    __slots__ = (
        "owner", "flow", "local", "remote", "peer", "state", "user", "error", "iss", "irs", "sender", "receiver",
        "send_shift", "timestamps", "stamp_recent", "ack_due", "keepalives_sent", "heard_at", "released", "full",
        "queued", "woken", "scheduled", "wide_offer", "_addresses", "_ports", "_head", "_syn_due", "_syn_at",
        "_syn_tries", "_syn_sent_at", "_opened_at", "_expire_at", "_probe_due", "_last_ack", "_ack_at", "_stamp_offset",
        "_challenges", "_challenge_at", "_was_shut", "_passive", "packet_mtu", "_mtu", "_told_mtu", "_peer_mss",
    )  # fmt: skip

    def __init__(self, owner: Owner, flow: bytes, peer: Hashable, iss: int, mtu: int, now: float) -> None:
        """`flow`: remote and local address, remote and local port, as the bytes 8…44 of an incoming packet. `mtu`: what
        the way to the peer carries now (`resize`)."""
        self.owner = owner
        self.flow = flow
        self.remote = (IPv6Address(flow[:16]), int.from_bytes(flow[32:34], "big"))
        self.local = (IPv6Address(flow[16:32]), int.from_bytes(flow[34:36], "big"))
        self.peer = peer
        self.state = State.CLOSED
        self.user: object | None = None
        self.error: str | None = None
        self.iss = iss
        self.irs = 0
        self.sender = Sender(iss + 1, owner.config, owner.config.mtu - 60, rows_for(owner.config.mtu))
        self.packet_mtu = owner.config.mtu
        """What our packets are made for: the usual size, or the larger one that the way to the peer carries."""
        self._mtu = mtu
        self._told_mtu = 0xFFFF
        self._peer_mss = 0
        self.receiver = Receiver(0, owner.config, 0)
        self.send_shift = 0
        self.timestamps = owner.config.timestamps
        self.stamp_recent = 0
        self.ack_due = False
        self.keepalives_sent = 0
        self.heard_at = now
        self.released = False
        """The application called `close`: what arrives is thrown away."""
        self.full = False
        """The send buffer reached its high-water mark: tell when there is room."""
        self.queued = self.woken = False
        self.scheduled = float("inf")
        """When the stack's timer queue will look at it (bookkeeping of the stack)."""
        self.wide_offer = True
        """Whether window scale and SACK are (to be) used."""
        self._addresses = flow[16:32] + flow[:16]
        self._ports = flow[34:36] + flow[32:34]
        self._head = bytearray()
        self._syn_due = False
        self._syn_at: float | None = None
        self._syn_tries = 0
        self._syn_sent_at = 0.0
        self._opened_at = now
        self._expire_at: float | None = None
        self._probe_due = False
        self._last_ack = 0
        self._ack_at = float("inf")
        self._stamp_offset = iss * 2654435761 & _MASK
        self._challenges = 0
        self._challenge_at = 0.0
        self._was_shut = False
        self._passive = False

    # -- the application's side ---------------------------------------------------------------------------------------

    @property
    def readable(self) -> int:
        """Bytes waiting to be read."""
        return self.receiver.buffer.readable

    @property
    def eof(self) -> bool:
        """The peer has finished and everything has been read."""
        receiver = self.receiver
        return receiver.fin is not None and receiver.buffer.next == receiver.fin and not receiver.buffer.readable

    @property
    def writable(self) -> bool:
        """True if `write` would accept something."""
        return (
            not self._was_shut
            and (self.state in SENDING or self.state in OPENING)
            and len(self.sender.buffer) < self.owner.config.send_buffer
        )

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Queue `data`; returns how many bytes were taken. 0 = full: `Stack.woken` tells when there is room again.

        Blocks of 2 KiB and more are kept by reference until acknowledged, so they must not be changed.
        """
        if self._was_shut or not (self.state in SENDING or self.state in OPENING):
            return 0
        block = memoryview(data)
        if block.format != "B" or block.ndim != 1:
            block = block.cast("B")
        room = self.owner.config.send_buffer - len(self.sender.buffer)
        if len(block) >= room:
            self.full = True
            block = block[: max(room, 0)]
        if len(block):
            self.sender.buffer.append(block)
            self.owner.ready(self)
        return len(block)

    def read(self, max_bytes: int | None = None) -> list[bytes | memoryview]:
        """Take what has arrived, up to `max_bytes`, as chunks; [] = nothing now."""
        chunks = self.receiver.buffer.read(max_bytes)
        if chunks and self.receiver.update_due(self.sender.mss):
            self.owner.ready(self)
        return chunks

    def shutdown_write(self) -> None:
        """No more will be written; the peer sees the end after what is queued."""
        if self._was_shut or self.state is State.CLOSED:
            return
        self._was_shut = True
        self.sender.fin_wanted = True
        self.move(Event.SEND_FIN)
        self.owner.ready(self)

    def close(self, now: float) -> None:
        """The application is done in both directions. What was written is still delivered, for a bounded time."""
        if self.released or self.state is State.CLOSED:
            self.released = True
            return
        self.released = True
        if self.state is State.SYN_SENT:
            self.fail(None)
            return
        self.receiver.buffer.clear()
        self.shutdown_write()
        self.keep_until(now + self.owner.config.linger)

    def abort(self, now: float) -> None:
        """Drop everything and reset the connection."""
        self.released = True
        if self.state not in (State.CLOSED, State.SYN_SENT, State.TIME_WAIT):
            self.owner.control(self.peer, self.control_packet(RST | ACK, self.sender.board.nxt, now))
        self.fail("aborted" if self.error is None else self.error)

    def info(self) -> dict[str, float | int | str]:
        """Figures for people: state, times in seconds, windows in bytes, counters."""
        sender, receiver = self.sender, self.receiver
        return {
            "state": self.state.value,
            "rtt": sender.rtt.srtt,
            "rtt_min": 0.0 if sender.rtt.minimum == float("inf") else sender.rtt.minimum,
            "rto": sender.rtt.rto,
            "cwnd": sender.cubic.cwnd,
            "ssthresh": -1 if sender.cubic.ssthresh == float("inf") else int(sender.cubic.ssthresh),
            "in_flight": sender.board.in_flight,
            "send_window": sender.window,
            "receive_window": receiver.limit,
            "mss": sender.mss,
            "retransmits": sender.retransmits,
            "timeouts": sender.timeouts,
            "probes": sender.probes,
        }

    # -- opening and closing ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin the handshake: the SYN leaves with the next `emit`."""
        self.state = State.SYN_SENT
        self._syn_due = True

    def answer(self, syn: segments.Segment, now: float) -> None:
        """Begin as the passive side, with the peer's SYN."""
        self._passive = True
        self.state = State.SYN_RECEIVED
        self.take_syn(syn, now)
        self._syn_due = True

    def take_syn(self, syn: segments.Segment, now: float) -> None:
        """Settle sizes and options from the peer's SYN (or SYN-ACK)."""
        options = syn.options
        self.irs = syn.seq
        self.wide_offer = options.shift is not None
        self.receiver = Receiver(syn.seq + 1, self.owner.config, self._shift() if self.wide_offer else 0)
        self.receiver.edge = self.receiver.next + self._syn_window()
        self.send_shift = options.shift or 0
        self.timestamps = options.timestamp is not None and (self.timestamps or self._passive)
        if options.timestamp is not None:
            self.stamp_recent = options.timestamp[0]
        self._last_ack = self.receiver.next
        self.sender.update_window(syn.window, syn.seq, self.iss)
        self._set_mss(options.mss or segments.DEFAULT_MSS, sack_permitted=options.sack_permitted)
        self.heard_at = now

    def established(self, now: float) -> None:
        """The handshake is complete."""
        if self._syn_tries == 1:
            self.sender.handshake_rtt(now - self._syn_sent_at, now)
        self._syn_at = None
        self._syn_due = False
        self.move(Event.SYN_ACKED)
        if self._was_shut:
            self.move(Event.SEND_FIN)
        self.owner.woke(self)

    def move(self, event: Event) -> None:
        """Change state as the table says."""
        self.state = after(self.state, event)
        if self.state is State.CLOSED:
            self.fail(None)

    def keep_until(self, at: float) -> None:
        """Give up at `at` at the latest."""
        self._expire_at = at
        self.owner.schedule(self)

    def fail(self, error: str | None) -> None:
        """Go to CLOSED at once. What has been received can still be read."""
        self.state = State.CLOSED
        self.error = error if self.error is None else self.error
        self._syn_due = self.ack_due = self._probe_due = False
        self._syn_at = self._expire_at = None
        self._ack_at = float("inf")
        self.sender.buffer.clear()
        if self.released:
            self.receiver.buffer.clear()
        self.owner.forget(self)
        self.owner.woke(self)

    def reduce_mss(self, mtu: int) -> None:
        """The path carries only packets of `mtu` bytes (ICMPv6 "packet too big")."""
        self._told_mtu = min(self._told_mtu, max(mtu, 1280))
        self._fit()

    def resize(self, mtu: int) -> bool:
        """The way to the peer carries packets of up to `mtu` bytes from now on. What is queued, and what has to be sent
        again, is cut anew. True if segments became smaller."""
        self._mtu = mtu
        return self._fit()

    def _fit(self) -> bool:
        """Choose the segment size by what peer and path take. True if it became smaller."""
        if not self._peer_mss:
            return False  # before the handshake
        usual, before = self.owner.config.mtu, self.sender.mss
        mss = min(self._peer_mss, self._mtu - 60, self._told_mtu - 60)
        self.packet_mtu = self._mtu if mss > usual - 60 else usual
        if self.timestamps:
            mss -= segments.TIMESTAMP_SIZE
        if mss != before:
            self.sender.resize(mss, rows_for(self.packet_mtu))
        return mss < before

    def send_syn_again(self) -> None:
        """The peer repeated its SYN: it did not hear our SYN-ACK."""
        self._syn_due = True
        self.owner.ready(self)

    def acknowledge(self, upto: int, now: float) -> None:
        """Data up to `upto` arrived in order: acknowledge it now, or, if it is less than a segment and the first that
        waits (RFC 9293 §3.8.6.3: every second at once), soon: by then there may be data of ours that can carry it."""
        delay = self.owner.config.ack_delay
        if (
            not delay
            or self._ack_at != float("inf")
            or upto - self._last_ack >= self.sender.mss
            or self.state is not State.ESTABLISHED
            or self.receiver.buffer.has_gap
        ):
            self.ack_due = True
        else:
            self._ack_at = now + delay

    def may_challenge(self, now: float) -> bool:
        """True if an acknowledgement that nothing but junk asks for may be sent."""
        if now - self._challenge_at >= 1.0:
            self._challenge_at, self._challenges = now, 0
        self._challenges += 1
        return self._challenges <= _CHALLENGES_PER_SECOND

    # -- timers -------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `on_timer` has something to do; inf = never."""
        at = self.sender.deadline()
        if at is None:
            at = float("inf")
        if self._syn_at is not None and self._syn_at < at:
            at = self._syn_at
        if self._expire_at is not None and self._expire_at < at:
            at = self._expire_at
        if self._ack_at < at:
            return self._ack_at
        alive = self._keepalive_at()
        return alive if alive < at else at

    def on_timer(self, now: float) -> None:
        """Do what is due."""
        if self._ack_at <= now:
            self.ack_due, self._ack_at = True, float("inf")  # once, also while its peer cannot be reached
        if self._expire_at is not None and self._expire_at <= now:
            self._expire(now)
        elif self._syn_at is not None and self._syn_at <= now:
            self._repeat_syn(now)
        elif self._keepalive_at() <= now:
            self._keepalive(now)
        if self.state is State.CLOSED or self.state in OPENING:
            return
        if not self.sender.on_timer(now):
            self._time_out(now)
        else:
            self.owner.ready(self)

    def slept(self, now: float) -> None:
        """We slept: the peer's silence meanwhile is our own."""
        self.heard_at = now
        self.keepalives_sent = 0
        self.sender.slept(now)

    def _keepalive_at(self) -> float:
        config = self.owner.config
        if not config.keepalive_idle or self.state in OPENING or self.state in (State.CLOSED, State.TIME_WAIT):
            return float("inf")
        if self.sender.outstanding:
            return float("inf")  # the retransmission timer watches the peer
        often = min(self.keepalives_sent, config.keepalive_count)
        seldom = self.keepalives_sent - often
        wait = config.keepalive_idle + often * config.keepalive_interval + seldom * config.keepalive_slow
        return self.heard_at + wait

    def _keepalive(self, now: float) -> None:
        config = self.owner.config
        if self.keepalives_sent >= config.keepalive_count and now - self.heard_at >= config.keepalive_limit:
            self._time_out(now)
            return
        self.keepalives_sent += 1
        self._probe_due = True

    def _repeat_syn(self, now: float) -> None:
        if now - self._opened_at >= self.owner.config.connect_timeout:
            self._time_out(now)
            return
        self._syn_at = None
        self._syn_due = True
        self.owner.ready(self)

    def _expire(self, now: float) -> None:
        self._expire_at = None
        if self.state is State.TIME_WAIT:
            self.move(Event.EXPIRED)
        else:
            self.abort(now)

    def _time_out(self, now: float) -> None:
        self.error = "timeout"
        if self.state in OPENING:
            self.fail("timeout")
        else:
            self.abort(now)

    # -- packets out --------------------------------------------------------------------------------------------------

    def emit(self, now: float, segmenter: Segmenter) -> Burst | bytes | None:
        """The next thing to send: a burst of data, one packet without data, or None."""
        if self._syn_due:
            return self._emit_syn(now)
        if self.state is State.CLOSED or self.state in OPENING:
            return None
        if self.ack_due and self.receiver.buffer.has_gap:
            return self._emit_ack(now)  # data segments carry no SACK blocks
        run = self.sender.next_run(now)
        if run is not None:
            return self._emit_run(run, now, segmenter)
        if self.ack_due or self.receiver.update_due(self.sender.mss):
            return self._emit_ack(now)  # before a probe, whose acknowledgement the peer does not look at
        if self._probe_due or self.sender.window_probe_due:
            self._probe_due = self.sender.window_probe_due = False
            return self.control_packet(ACK, self.sender.board.una - 1, now)  # outside the window: asks for an ACK
        return None

    def control_packet(self, flags: int, seq: int, now: float, *, sacks: bool = False) -> bytes:
        """A packet without data that acknowledges what has arrived."""
        blocks = self.receiver.buffer.sack_blocks() if sacks and self.sender.sack_permitted else ()
        options = segments.ack_options(Options(timestamp=self._stamp(now), sacks=blocks))
        window = self._acknowledge()
        return segments.build(self._addresses, self._ports, seq, self.receiver.next, flags, window, options)

    def _emit_ack(self, now: float) -> bytes:
        return self.control_packet(ACK, self.sender.board.nxt, now, sacks=True)

    def _emit_run(self, run: Run, now: float, segmenter: Segmenter) -> Burst | bytes:
        end = self.sender.buffer.end
        last = ACK | PSH if run.end >= end else ACK
        if run.end > end:
            last |= FIN
            if run.start >= end:
                return self.control_packet(FIN | ACK, run.start, now)
        payload = self.sender.buffer.cut(run.start, min(run.end, end) - run.start)
        head = self._head
        offset_flags = (len(head) - ip.HEADER_SIZE) << 10 | ACK
        window = self._acknowledge()
        struct.pack_into(">IHH", head, _ACK_AT, self.receiver.next & _MASK, offset_flags, window)
        if self.timestamps:
            struct.pack_into(">II", head, _STAMP_AT, self._stamp_value(now), self.stamp_recent)
        return segmenter.build(head, run.start, payload, self.sender.mss, last)

    def _emit_syn(self, now: float) -> bytes:
        self._syn_due = False
        self._syn_tries += 1
        self._syn_sent_at = now
        rto = self.sender.rtt.rto * (1 << min(self._syn_tries - 1, 6))
        self._syn_at = now + min(rto, self.owner.config.max_rto)
        active = self.state is State.SYN_SENT
        options = segments.syn_options(
            Options(
                mss=max(self.owner.config.mtu, self.owner.config.accepted_mtu) - 60,
                shift=self._shift() if self.wide_offer else None,
                sack_permitted=active or self.sender.sack_permitted,
                timestamp=(self._stamp_value(now), self.stamp_recent) if self.timestamps else None,
            )
        )
        flags, ack = (SYN, 0) if active else (SYN | ACK, self.receiver.next)
        return segments.build(self._addresses, self._ports, self.iss, ack, flags, self._syn_window(), options)

    def _acknowledge(self) -> int:
        """Note that everything received is acknowledged by the packet about to leave; returns its window field."""
        self.ack_due = False
        self._ack_at = float("inf")
        self._last_ack = self.receiver.next
        return self.receiver.advertise(self.sender.mss)

    # -- details ------------------------------------------------------------------------------------------------------

    def note_stamp(self, value: int, seq: int) -> None:
        """Remember a peer's timestamp to echo it (RFC 7323 §4.3)."""
        if seq <= self._last_ack and (value - self.stamp_recent) & _MASK < 1 << 31:
            self.stamp_recent = value

    def is_stale(self, value: int) -> bool:
        """True if a timestamp is older than the last (PAWS, RFC 7323 §5)."""
        return (self.stamp_recent - value - 1) & _MASK < 1 << 31

    def _stamp_value(self, now: float) -> int:
        return (int(now * 1000) + self._stamp_offset) & _MASK

    def _stamp(self, now: float) -> tuple[int, int] | None:
        return (self._stamp_value(now), self.stamp_recent) if self.timestamps else None

    def _shift(self) -> int:
        shift = _MIN_SHIFT
        while self.owner.config.receive_window >> shift > 0xFFFF and shift < segments.MAX_SHIFT:
            shift += 1
        return shift

    def _syn_window(self) -> int:
        return min(0xFFFF, self.owner.config.initial_window, self.owner.config.receive_window)

    def _set_mss(self, peer_mss: int, *, sack_permitted: bool) -> None:
        self._peer_mss = max(peer_mss, _MIN_MSS)
        head = bytearray(ip.header(0, ip.TCP, self._addresses[:16], self._addresses[16:]))
        head += self._ports + bytes(16)
        if self.timestamps:
            head += struct.pack(">III", segments.TIMESTAMP_LEAD, 0, 0)
        self._head = head
        self.sender.sack_permitted = sack_permitted
        self._fit()
