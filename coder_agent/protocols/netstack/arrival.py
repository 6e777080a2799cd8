"""A segment arrives on a connection (RFC 9293 §3.10.7, RFC 5961, RFC 7323 §5).

The order of the checks is that of the RFC; a run of merged segments counts as one long segment.
"""

from __future__ import annotations

from . import segments
from .segments import ACK, FIN, RST, SYN, Segment
from .states import RECEIVING, Event, State
from .tcp import TcpConnection


def unwrap(wire: int, near: int) -> int:
    """The unwrapped sequence number closest to `near` whose low 32 bits are `wire`."""
    return near + ((wire - near + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def arrive(connection: TcpConnection, segment: Segment, now: float) -> None:
    """Enter a segment that belongs to `connection`."""
    if connection.state is State.SYN_SENT:
        _during_open(connection, segment, now)
        return
    if connection.state is State.CLOSED:
        return
    receiver = connection.receiver
    seq = unwrap(segment.seq, receiver.next)
    flags = segment.flags
    if flags & SYN and connection.state is State.SYN_RECEIVED and seq == receiver.next - 1:
        if not flags & ACK:
            connection.send_syn_again()
            return
        seq, flags = seq + 1, flags & ~SYN  # simultaneous open: their SYN again, with the acknowledgement of ours
    if not _is_acceptable(connection, segment, seq, flags, now):
        return
    connection.heard_at = now
    connection.keepalives_sent = 0
    if flags & (RST | SYN):
        _reset_or_challenge(connection, seq, flags, now)
        return
    if not flags & ACK or not _acknowledge(connection, segment, seq, now):
        return
    if segment.size or flags & FIN:
        _take_data(connection, segment, seq, flags, now)
    connection.owner.ready(connection)  # the next transmit also looks at its timers


def _is_acceptable(connection: TcpConnection, segment: Segment, seq: int, flags: int, now: float) -> bool:
    """Window and timestamp checks; what fails them is answered with an ACK, at a bounded rate if it is empty."""
    receiver = connection.receiver
    stamp = segment.options.timestamp
    if connection.timestamps and not flags & RST:
        if stamp is None:
            return False  # RFC 7323 §3.2: silently dropped
        if connection.is_stale(stamp[0]):
            _answer(connection, segment, now)
            return False
    expected = receiver.next
    size = segment.size + (flags & FIN) + (1 if flags & SYN else 0)
    inside = seq < receiver.edge and seq + size > expected if size else expected <= seq <= max(receiver.edge, expected)
    if seq == expected and size and receiver.edge == expected and flags & FIN and not segment.size:
        inside = True  # a FIN needs no buffer: take it though the window is shut
    if inside:
        if stamp is not None and connection.timestamps:
            connection.note_stamp(stamp[0], seq)
        return True
    if flags & RST:
        return False
    if segment.size and seq < expected:
        receiver.buffer.insert(seq, segment.chunks, segment.size, receiver.edge)  # reported as duplicate
    if connection.state is State.TIME_WAIT and flags & FIN:
        connection.keep_until(now + connection.owner.config.time_wait)
    _answer(connection, segment, now)
    return False


def _answer(connection: TcpConnection, segment: Segment, now: float) -> None:
    if segment.size or connection.may_challenge(now):
        connection.ack_due = True
        connection.owner.ready(connection)


def _reset_or_challenge(connection: TcpConnection, seq: int, flags: int, now: float) -> None:
    """A reset counts only at exactly the expected number; everything else is asked back (RFC 5961 §3, §4)."""
    if flags & RST and seq == connection.receiver.next:
        if connection.state is not State.TIME_WAIT:  # RFC 1337: a reset does not cut TIME-WAIT short
            refused = connection.state is State.SYN_RECEIVED
            connection.fail("refused" if refused else "reset")
        return
    if connection.may_challenge(now):
        connection.ack_due = True
        connection.owner.ready(connection)


def _acknowledge(connection: TcpConnection, segment: Segment, seq: int, now: float) -> bool:
    """Process the acknowledgement. False = the segment goes no further."""
    sender = connection.sender
    board = sender.board
    ack = unwrap(segment.ack, board.una)
    if connection.state is State.SYN_RECEIVED:
        if ack != board.una:
            connection.owner.control(connection.peer, reset_for(connection.flow, segment))
            return False
        connection.established(now)
    if ack > board.nxt or ack < board.una - 0x40000000:
        if connection.may_challenge(now):  # acknowledges what was never sent, or long ago (RFC 5961 §5)
            connection.ack_due = True
            connection.owner.ready(connection)
        return False
    if ack < board.una:
        return True
    window = segment.window << connection.send_shift
    wire_sacks = segment.options.sacks
    if ack > board.una or wire_sacks or not segment.size:
        duplicate = ack == board.una and not segment.size and window == sender.window and not segment.flags & FIN
        sacks = [(unwrap(start, ack), unwrap(end, ack)) for start, end in wire_sacks]
        sender.update_window(window, seq, ack)
        sender.on_ack(ack, sacks, now, duplicate=duplicate)
        _after_ack(connection, now)
        return connection.state is not State.CLOSED
    sender.update_window(window, seq, ack)
    return True


def _after_ack(connection: TcpConnection, now: float) -> None:
    sender = connection.sender
    if connection.full and len(sender.buffer) * 2 <= connection.owner.config.send_buffer:
        connection.full = False
        connection.owner.woke(connection)
    if sender.fin_wanted and sender.fin_acked:
        connection.move(Event.FIN_ACKED)
        if connection.state is State.TIME_WAIT:
            connection.keep_until(now + connection.owner.config.time_wait)


def _take_data(connection: TcpConnection, segment: Segment, seq: int, flags: int, now: float) -> None:
    """Store payload and notice the FIN, in whatever order they come."""
    receiver = connection.receiver
    if seq == receiver.next and not flags & FIN:
        connection.acknowledge(seq + segment.size, now)
    else:
        connection.ack_due = True
    if connection.state not in RECEIVING:
        return
    if segment.size:
        if connection.released and connection.state is State.FIN_WAIT_2:
            connection.abort(now)  # nobody will read it, and the peer should know (RFC 2525 §2.17)
            return
        rtt = connection.sender.rtt.minimum
        gained = receiver.accept(seq, segment, now, rtt if rtt != float("inf") else 0.1)
        if connection.released:
            receiver.buffer.read(None)
        elif gained:
            connection.owner.woke(connection)
    if flags & FIN and receiver.fin is None and seq + segment.size <= receiver.edge:
        receiver.fin = seq + segment.size
    if receiver.fin is not None and receiver.fin == receiver.buffer.next:
        connection.move(Event.FIN)
        connection.owner.woke(connection)
        if connection.state is State.TIME_WAIT:
            connection.keep_until(now + connection.owner.config.time_wait)


def _during_open(connection: TcpConnection, segment: Segment, now: float) -> None:
    """SYN-SENT (RFC 9293 §3.10.7.3)."""
    flags = segment.flags
    if flags & ACK and segment.ack != (connection.iss + 1) & 0xFFFFFFFF:
        if not flags & RST:
            connection.owner.control(connection.peer, reset_for(connection.flow, segment))
        return
    if flags & RST:
        if flags & ACK:
            connection.fail("refused")
        return
    if not flags & SYN:
        return
    connection.take_syn(segment, now)
    if flags & ACK:
        connection.established(now)
        connection.ack_due = True
    else:
        connection.move(Event.SYN)
        connection.send_syn_again()
    connection.owner.ready(connection)


def reset_for(flow: bytes, segment: Segment) -> bytes:
    """The reset that answers a segment nobody expects (RFC 9293 §3.10.7.1). `flow` as in TcpConnection."""
    addresses, ports = flow[16:32] + flow[:16], flow[34:36] + flow[32:34]
    if segment.flags & ACK:
        return segments.build(addresses, ports, segment.ack, 0, RST, 0)
    length = segment.size + (segment.flags & FIN) + (1 if segment.flags & SYN else 0)
    return segments.build(addresses, ports, 0, segment.seq + length, RST | ACK, 0)
