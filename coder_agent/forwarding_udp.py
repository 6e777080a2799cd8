"""`Workspace.forward(port, udp=True)`: each local sender gets a port of its own inside the tunnel, so that answers find
back to it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address

from .errors import LocalProtocolError
from .node import Pacer, TailnetNode, UdpFlow

log = logging.getLogger(__name__)

MAX_SENDERS = 512
"""Senders at once; whoever was silent for longest makes room."""
READS_PER_TURN = 64
MAX_DATAGRAM = 65_536
SOCKET_BUFFER = 4 << 20
"""Bytes asked of the kernel; it gives what it allows."""


@dataclass(slots=True)
class _Sender:
    flow: UdpFlow
    pacer: Pacer


class UdpForward:
    """A forwarded UDP port while its block runs."""

    def __init__(self, node: TailnetNode, address: IPv6Address, port: int, sock: socket.socket) -> None:
        self.host, self.port = str(sock.getsockname()[0]), int(sock.getsockname()[1])
        """Where programs of this machine send to."""
        self.remote_port = port
        self.failed = 0
        """Datagrams that found no room, or nobody listening; `last_failure` says which."""
        self.last_failure = ""
        self._node, self._address, self._sock = node, address, sock
        self._senders: OrderedDict[tuple[object, ...], _Sender] = OrderedDict()
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray(MAX_DATAGRAM)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as `socket.sendto` takes them."""
        return self.host, self.port

    @property
    def active(self) -> int:
        """Senders now."""
        return len(self._senders)

    def close(self) -> None:
        """Stop listening."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        while self._senders:
            self._forget_oldest()

    def reset(self, why: str) -> None:
        """Datagrams have no connection that could be reset: senders go on."""

    def _readable(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                size, source = self._sock.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error for an answer of ours: that sender is gone
                continue
            sender = self._senders.get(source) or self._welcome(source)
            if sender is None:
                continue
            self._senders.move_to_end(source)
            if not sender.flow.send(bytes(memoryview(self._buffer)[:size])):
                self._fail("no room in the tunnel")

    def _welcome(self, source: tuple[object, ...]) -> _Sender | None:
        if len(self._senders) >= MAX_SENDERS:
            self._forget_oldest()

        def hand_over(data: bytes | memoryview) -> None:
            with suppress(OSError):  # full, or the sender is gone: as with any datagram
                self._sock.sendto(data, source)

        pacer = Pacer(hand_over)

        def answer(data: memoryview) -> None:
            if not pacer.put(data):
                self._fail("the local program does not keep up")

        def refused() -> None:
            self._fail(f"nobody listens on UDP port {self.remote_port} of the workspace")

        try:
            flow = self._node.udp_flow(self._address, self.remote_port, answer, refused)
        except LocalProtocolError as error:
            self._fail(str(error))
            return None
        sender = self._senders[source] = _Sender(flow, pacer)
        return sender

    def _forget_oldest(self) -> None:
        _source, sender = self._senders.popitem(last=False)
        sender.flow.close()
        sender.pacer.close()

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.last_failure = why
        log.debug("forwarding to UDP port %d: %s", self.remote_port, why)
