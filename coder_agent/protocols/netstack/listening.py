"""Incoming connections that wait for a decision: no SYN-ACK is sent before `accept`.

An agent dials the local service first and answers the peer's SYN only when that worked, so a closed port looks closed
from the other end of the tunnel too.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv6Address
from typing import Protocol

from .segments import Segment
from .tcp import TcpConnection


class Decider(Protocol):
    """What a request needs of its stack."""

    def accept_syn(self, request: SynRequest, now: float) -> TcpConnection:
        """Make the connection."""
        ...

    def reject_syn(self, request: SynRequest) -> None:
        """Answer with a reset."""
        ...

    def drop_syn(self, request: SynRequest) -> None:
        """Forget it."""
        ...


class SynRequest:
    """A peer wants to connect: exactly one of `accept`, `reject`, `drop` should be called, now or later.

    A request that is not decided in time, or withdrawn by the peer, is `cancelled`; accepting it then gives a
    connection that is already closed.
    """

    __slots__ = ("remote", "local", "peer", "flow", "syn", "at", "cancelled", "_stack")

    def __init__(self, stack: Decider, flow: bytes, peer: Hashable, syn: Segment, now: float) -> None:
        self.remote = (IPv6Address(flow[:16]), int.from_bytes(flow[32:34], "big"))
        """Address and port of the peer."""
        self.local = (IPv6Address(flow[16:32]), int.from_bytes(flow[34:36], "big"))
        """Address and port of ours that it dialled."""
        self.peer = peer
        self.flow = flow
        self.syn = syn
        self.at = now
        self.cancelled: str | None = None
        """Why it is too late: "reset" or "timeout"."""
        self._stack = stack

    def accept(self, now: float) -> TcpConnection:
        """Answer with a SYN-ACK, sent by the next transmit."""
        return self._stack.accept_syn(self, now)

    def reject(self, now: float) -> None:
        """Refuse: the peer sees "connection refused"."""
        self._stack.reject_syn(self)

    def drop(self) -> None:
        """Say nothing: the peer will try again, and give up some time."""
        self._stack.drop_syn(self)


class Backlog:
    """Undecided requests by flow: bounded in number and age. Insertion order is order of age."""

    def __init__(self, limit: int, timeout: float) -> None:
        self._limit = limit
        self._timeout = timeout
        self._pending: dict[bytes, SynRequest] = {}

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """True if another request must be turned away."""
        return len(self._pending) >= self._limit

    def get(self, flow: bytes) -> SynRequest | None:
        """The undecided request of a flow."""
        return self._pending.get(flow)

    def add(self, request: SynRequest) -> None:
        """Keep a new request."""
        self._pending[request.flow] = request

    def take(self, request: SynRequest) -> bool:
        """Remove a request that has been decided; False if it was no longer waiting."""
        if self._pending.get(request.flow) is not request:
            return False
        del self._pending[request.flow]
        return True

    def cancel(self, flow: bytes, why: str) -> None:
        """The peer withdrew the request of this flow."""
        request = self._pending.pop(flow, None)
        if request is not None:
            request.cancelled = why

    def deadline(self) -> float:
        """When the oldest becomes too old; inf = there is none."""
        for request in self._pending.values():
            return request.at + self._timeout
        return float("inf")

    def expire(self, now: float) -> None:
        """Cancel what is too old."""
        while self._pending and self.deadline() <= now:
            self.cancel(next(iter(self._pending)), "timeout")
