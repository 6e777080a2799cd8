"""A port of the workspace on this machine, for programs that know nothing of tunnels: `Workspace.forward`.

    async with workspace.forward(5432) as forward:
        connection = await asyncpg.connect(host=forward.host, port=forward.port)

Callbacks from the listening socket to the pump of `coder port-forward` (runtime/splice.py); reconnecting, tables and
several ports at once are that command's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address

from .errors import ConfigError
from .forwarding_udp import UdpForward
from .node import Splice, TailnetNode, reset_socket

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait to be accepted; the kernel allows up to net.core.somaxconn (4096 on Linux)."""
MAX_CONNECTIONS = 4096
"""At once; more are reset. As many as a node's stack holds (StackConfig.max_connections)."""
ACCEPTS_PER_TURN = 64
"""Connections accepted before others get their turn."""
PAUSE = 0.2
"""Seconds until the next try when the system has no more sockets for us."""


class Forward:
    """A forwarded TCP port while its block runs."""

    def __init__(self, node: TailnetNode, address: IPv6Address, port: int, listener: socket.socket) -> None:
        self.host, self.port = str(listener.getsockname()[0]), int(listener.getsockname()[1])
        """Where programs of this machine reach it."""
        self.remote_port = port
        self.failed = 0
        """Connections that could not be made or were too many; `last_failure` says why."""
        self.last_failure = ""
        self._node, self._address, self._listener = node, address, listener
        self._loop = asyncio.get_running_loop()
        self._open: set[Splice] = set()
        self._active = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as `socket.create_connection` takes them."""
        return self.host, self.port

    @property
    def active(self) -> int:
        """Connections now."""
        return self._active

    def close(self) -> None:
        """Stop listening and reset all connections."""
        if self._timer is not None:
            self._timer.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        self.reset("the forward was closed")

    def reset(self, why: str) -> None:
        """Reset all connections; new ones are welcome while it is open."""
        for splice in list(self._open):
            splice.abort(why)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more sockets: leave the others in the backlog instead of asking in a circle
                self._fail(error.strerror or str(error))
                self._loop.remove_reader(self._listener.fileno())
                self._timer = self._loop.call_later(PAUSE, self._loop.add_reader, self._listener.fileno(), self._accept)
                return
            sock.setblocking(False)
            if self._active >= MAX_CONNECTIONS:
                reset_socket(sock)
                self._fail(f"more than {MAX_CONNECTIONS} connections at once")
            else:
                self._dial(sock)

    def _dial(self, sock: socket.socket) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it is gone already: the splice will see it
            pass
        self._active += 1
        self._node.dial_splice(
            sock, self._address, self.remote_port, on_open=self._opened, on_fail=self._refused, on_end=self._ended
        )

    def _opened(self, splice: Splice) -> None:
        self._open.add(splice)
        if self._listener.fileno() < 0:  # closed meanwhile
            self._loop.call_soon(splice.abort, "the forward was closed")

    def _refused(self, why: str) -> None:
        self._active -= 1
        self._fail(why)

    def _ended(self, splice: Splice) -> None:
        self._open.discard(splice)
        self._active -= 1

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.last_failure = why
        log.info("forwarding to port %d: %s", self.remote_port, why)


@contextmanager
def forwarded(
    node: TailnetNode, address: IPv6Address, port: int, host: str, local_port: int, *, udp: bool = False
) -> Iterator[Forward | UdpForward]:
    """A forward from `host`:`local_port` of this machine. Raises ConfigError if that cannot be listened on."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"port {port}: ports are numbers from 1 to 65535")
    kind = UdpForward if udp else Forward
    forward = kind(node, address, port, _listen(host, local_port, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM))
    try:
        yield forward
    finally:
        forward.close()


def _listen(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        if kind is socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # after a restart, while old connections linger
        sock.bind((host, port))
        if kind is socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on {host} port {port}: {getattr(error, 'strerror', None) or error}",
            hint="leave local_port out, and any free one is taken" if taken else "`host` is an address of this machine",
        ) from error
    return sock
