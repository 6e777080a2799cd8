"""UDP forwards: each local sender gets a port of its own inside the tunnel, so that answers find back to it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from coder_agent.errors import LocalProtocolError
from coder_agent.node import Pacer, UdpFlow

from .books import Book
from .target import Target

IDLE = 120.0
"""Seconds of silence after which a sender is forgotten: what agents do (coder agent, netstack)."""
MAX_SENDERS = 512
"""Senders of one forward at once; the one idle for longest makes room."""
READS_PER_TURN = 64

Place = tuple[socket.socket, tuple[object, ...]]
"""A local socket and the sender's address."""


@dataclass(slots=True)
class _Sender:
    flow: UdpFlow
    pacer: Pacer
    last: float


class UdpForward:
    """One forward with its sockets, which it closes in the end."""

    def __init__(self, target: Target, book: Book, sockets: Sequence[socket.socket]) -> None:
        self.book = book
        self._target = target
        self._sockets = list(sockets)
        self._loop = asyncio.get_running_loop()
        self._senders: dict[Place, _Sender] = {}
        self._buffer = bytearray(65_536)
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def tick(self, now: float) -> None:
        """Bring the book up to date, and forget who is silent."""
        for place, sender in list(self._senders.items()):
            if now - sender.last > IDLE:
                self._forget(place)
        self.book.tick(now)

    def reset(self, why: str) -> None:
        """Datagrams have no connection that could be reset: senders go on."""

    def close(self) -> None:
        """Stop listening."""
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        for place in list(self._senders):
            self._forget(place)

    def _readable(self, sock: socket.socket) -> None:
        buffer = self._buffer
        for _ in range(READS_PER_TURN):
            try:
                size, address = sock.recvfrom_into(buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error for an answer of ours: the sender is gone
                continue
            sender = self._senders.get((sock, address)) or self._welcome((sock, address))
            if sender is None:
                continue
            sender.last = self._loop.time()
            if sender.flow.send(bytes(memoryview(buffer)[:size])):
                self.book.sent += size
            else:
                self.book.dropped += 1

    def _welcome(self, place: Place) -> _Sender | None:
        if len(self._senders) >= MAX_SENDERS:
            self._forget(min(self._senders, key=lambda known: self._senders[known].last))
        sock, address = place

        def hand_over(data: bytes | memoryview) -> None:
            try:
                sock.sendto(data, address)
            except OSError:  # full, or the sender is gone
                self.book.dropped += 1
            else:
                self.book.received += len(data)

        pacer = Pacer(hand_over)

        def answer(data: memoryview) -> None:
            sender.last = self._loop.time()
            if not pacer.put(data):
                self.book.dropped += 1

        def refused() -> None:
            self._target.failed(self.book, "refused")

        try:
            flow = self._target.node.udp_flow(self._target.address, self.book.forward.remote, answer, refused)
        except LocalProtocolError as error:
            self._target.refused(self.book, str(error))
            return None
        sender = self._senders[place] = _Sender(flow, pacer, self._loop.time())
        self.book.active += 1
        self.book.opened += 1
        return sender

    def _forget(self, place: Place) -> None:
        sender = self._senders.pop(place)
        sender.flow.close()
        sender.pacer.close()
        self.book.active -= 1
