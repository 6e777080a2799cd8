"""An asyncio transport as the relay core and the client want it: borrowed writes, and a word about back-pressure."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

from coder_agent.tls_server import TlsTransport

if sys.platform != "win32":
    import fcntl

HIGH_WATER = 256 << 10
"""Bytes in a connection's own buffer above which it counts as blocked: one receive buffer full."""
LOW_WATER = 64 << 10
USER_TIMEOUT_MS = 15_000
"""A connection whose data is not acknowledged for so long is dead (cmd/derper, -tcp-user-timeout)."""
KEEP_ALIVE_SECONDS = 600
"""TCP keepalive (cmd/derper, -tcp-keepalive-time)."""


def copies_what_it_keeps(transport: asyncio.Transport) -> bool:
    """True if `transport.write` keeps no reference to a memoryview after it returned.

    Both TLS transports, ours and asyncio's, encrypt at once. asyncio's plain one sends at once, copies the rest up to
    Python 3.11; from 3.12 it keeps the view. uvloop keeps it and sends later. Whoever keeps it gets a copy from us.
    """
    if isinstance(transport, TlsTransport):
        return True
    module = type(transport).__module__
    return module == "asyncio.sslproto" or (module == "asyncio.selector_events" and sys.version_info < (3, 12))


def unsent_bytes(transport: asyncio.Transport) -> int:
    """What the kernel has not got acknowledged yet, where it can be asked (Linux); else 0."""
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None:
        try:
            answer = fcntl.ioctl(sock.fileno(), 0x5411, b"\0" * 4)  # SIOCOUTQ, linux/sockios.h
            return int.from_bytes(answer, sys.byteorder)
        except OSError:
            pass  # closed meanwhile
    return 0


def tune(transport: asyncio.Transport) -> None:
    """Socket options of a relay connection. The buffers are left to the kernel: setting them ends its autotuning."""
    transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    options = [(socket.IPPROTO_TCP, "TCP_NODELAY", 1), (socket.SOL_SOCKET, "SO_KEEPALIVE", 1)]
    options += [
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", KEEP_ALIVE_SECONDS),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
    ]
    for level, name, value in options:
        option = getattr(socket, name, None)
        if option is not None:
            try:
                sock.setsockopt(level, option, value)
            except OSError:
                pass  # not a TCP socket, or a system that does not have it: nothing depends on it


class TransportWire:
    """Writes of one connection. The owner's protocol passes `pause_writing` and `resume_writing` on."""

    __slots__ = ("transport", "blocked", "_copy", "_paused", "_stuck_at")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.blocked = False
        self._paused = False
        self._stuck_at: tuple[float, int, int] | None = None
        self._copy = not copies_what_it_keeps(transport)

    def write(self, data: bytes | memoryview) -> None:
        """Send, or buffer a copy. `data` is borrowed."""
        if self.transport.is_closing():
            return
        self.transport.write(bytes(data) if self._copy and not isinstance(data, bytes) else data)

    def pause(self) -> None:
        """asyncio said `pause_writing`."""
        self.blocked = self._paused = True

    def resume(self, then: Callable[[], None]) -> None:
        """asyncio said `resume_writing`: unblock and call `then`, in the next turn of the loop.

        Not at once: a write that fails inside that callback makes asyncio (3.11) report the loss twice.
        """
        self._paused = False
        asyncio.get_running_loop().call_soon(self._unblock, then)

    def _unblock(self, then: Callable[[], None]) -> None:
        if not self._paused:
            self.blocked = False
            then()

    def close(self) -> None:
        """Close at once; what is buffered is lost."""
        self.transport.abort()

    def stuck_since(self, now: float) -> float:
        """For how many seconds nothing at all has moved on a blocked connection (0.0 if it is not blocked).

        A slow reader makes progress between two calls; only one that takes nothing is stuck.
        """
        if not self.blocked:
            self._stuck_at = None
            return 0.0
        size, unsent = self.transport.get_write_buffer_size(), unsent_bytes(self.transport)
        if self._stuck_at is None or self._stuck_at[1:] != (size, unsent):
            self._stuck_at = (now, size, unsent)
        return now - self._stuck_at[0]
