"""The states of a TCP connection and what moves it between them, as data (RFC 9293 §3.3.2, figure 5)."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """RFC 9293 §3.3.2. LISTEN is missing: a listener is not a connection here (listening.py)."""

    CLOSED = "closed"
    SYN_SENT = "syn-sent"
    SYN_RECEIVED = "syn-received"
    ESTABLISHED = "established"
    FIN_WAIT_1 = "fin-wait-1"
    FIN_WAIT_2 = "fin-wait-2"
    CLOSE_WAIT = "close-wait"
    CLOSING = "closing"
    LAST_ACK = "last-ack"
    TIME_WAIT = "time-wait"


class Event(StrEnum):
    """What moves a connection. RESET and failure are not here: they lead to CLOSED from everywhere."""

    SYN = "their SYN, to our SYN (simultaneous open)"
    SYN_ACKED = "our SYN acknowledged"
    SEND_FIN = "no more to send"
    FIN = "their FIN, in order"
    FIN_ACKED = "our FIN acknowledged"
    EXPIRED = "2 MSL passed"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.SYN_SENT, Event.SYN): State.SYN_RECEIVED,
    (State.SYN_SENT, Event.SYN_ACKED): State.ESTABLISHED,
    (State.SYN_RECEIVED, Event.SYN_ACKED): State.ESTABLISHED,
    (State.ESTABLISHED, Event.SEND_FIN): State.FIN_WAIT_1,
    (State.ESTABLISHED, Event.FIN): State.CLOSE_WAIT,
    (State.CLOSE_WAIT, Event.SEND_FIN): State.LAST_ACK,
    (State.FIN_WAIT_1, Event.FIN): State.CLOSING,
    (State.FIN_WAIT_1, Event.FIN_ACKED): State.FIN_WAIT_2,
    (State.FIN_WAIT_2, Event.FIN): State.TIME_WAIT,
    (State.CLOSING, Event.FIN_ACKED): State.TIME_WAIT,
    (State.LAST_ACK, Event.FIN_ACKED): State.CLOSED,
    (State.TIME_WAIT, Event.EXPIRED): State.CLOSED,
}
"""Pairs that are missing change nothing."""

OPENING = frozenset({State.SYN_SENT, State.SYN_RECEIVED})
RECEIVING = frozenset({State.ESTABLISHED, State.FIN_WAIT_1, State.FIN_WAIT_2})
"""The peer may still send data."""
SENDING = frozenset({State.ESTABLISHED, State.CLOSE_WAIT})
"""The application may still write."""


def after(state: State, event: Event) -> State:
    """The state that follows."""
    return TRANSITIONS.get((state, event), state)
