"""TCP connections of peers, joined to programs on loopback.

Loopback is dialled before the handshake inside the tunnel is completed, so that the peer sees "connection refused"
exactly when no program listens. The whole way is callbacks: see splice.py.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from ..protocols.netstack.listening import SynRequest
from .loopback_udp import LOOPBACKS
from .mounts import no_mounts
from .splice import Splice, reset_socket

log = logging.getLogger(__name__)

DIAL_TIMEOUT = 5.0
"""Seconds for a connection to a program on loopback: it either listens or its backlog is full."""
MAX_CONNECTIONS = 4096
"""Connections to loopback at once; more are refused. As many as the stack holds (StackConfig.max_connections)."""
_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)
_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Clock(Protocol):
    """What is needed of an engine."""

    def now(self) -> float: ...
    def kick(self) -> None: ...


class LoopbackTcp:
    """Forwards TCP to loopback. `permits(port)` is the agent's policy; ports that it refuses look closed.
    `mounts(port)` names a Unix socket that stands for a port (mounts.py); it is asked first."""

    def __init__(
        self,
        engine: Clock,
        *,
        permits: Callable[[int], bool] = lambda port: True,
        mounts: Callable[[int], str | None] = no_mounts,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._permits = permits
        self._mounts = mounts
        self._dialling: set[_Dial] = set()
        self._splices: set[Splice] = set()

    def __len__(self) -> int:
        return len(self._splices) + len(self._dialling)

    def receive(self, request: SynRequest) -> None:
        """A peer wants to connect to a port of loopback."""
        if not self._permits(request.local[1]):
            self.counters["refused"] += 1
        elif len(self) >= MAX_CONNECTIONS:
            self.counters["refused-too-many"] += 1
        else:
            _Dial(self, request).next_family()
            return
        self.reject(request)

    def close(self) -> None:
        """Give up all dials and reset all connections."""
        for dial in list(self._dialling):
            dial.give_up()
        for splice in list(self._splices):
            splice.abort("stopping")

    def reject(self, request: SynRequest) -> None:
        """The peer sees "connection refused"."""
        request.reject(self._engine.now())
        self._engine.kick()

    def join(self, request: SynRequest, sock: socket.socket) -> None:
        """The program answered."""
        engine = self._engine
        connection = request.accept(engine.now())
        if connection.error is not None:  # the peer did not wait
            reset_socket(sock)
            return
        splice = Splice(sock, connection, kick=engine.kick, now=engine.now, on_end=self._splices.discard)
        self._splices.add(splice)
        engine.kick()
        splice.start()


class _Dial:
    """The way to one program: the Unix socket that stands for the port, if there is one, then 127.0.0.1, then ::1."""

    def __init__(self, owner: LoopbackTcp, request: SynRequest) -> None:
        self._owner = owner
        self._request = request
        port = request.local[1]
        self._ways: list[tuple[socket.AddressFamily, str | tuple[str, int]]]
        self._ways = [(family, (host, port)) for family, host in reversed(LOOPBACKS)]
        if (mount := owner._mounts(port)) is not None:
            self._ways.append((socket.AF_UNIX, mount))
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        owner._dialling.add(self)

    def next_family(self) -> None:
        """Try the next address, or give up."""
        while self._ways:
            family, where = self._ways.pop()
            try:
                code = self._begin(family, where)
            except OSError as error:
                code = error.errno or errno.EINVAL
            if code == 0:
                self._connected()
                return
            if code in _UNDER_WAY and self._sock is not None and family is not socket.AF_UNIX:  # there: a full backlog
                self._owner._loop.add_writer(self._sock.fileno(), self._writable)
                self._timer = self._owner._loop.call_later(DIAL_TIMEOUT, self._failed)
                return
            self._drop()
            if code in _NO_MORE:
                self._owner.counters["refused-no-descriptor"] += 1
                break
        self.give_up()

    def _begin(self, family: socket.AddressFamily, where: str | tuple[str, int]) -> int:
        sock = self._sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if not isinstance(where, str):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(where)
        if code in _UNDER_WAY:
            # On Linux loopback has answered by now; asking again saves waiting for a turn of the loop.
            code = sock.connect_ex(where)
        return 0 if code == errno.EISCONN else code

    def _writable(self) -> None:
        assert self._sock is not None
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._failed()
        else:
            self._stop_waiting()
            self._connected()

    def _failed(self) -> None:
        self._drop()
        self.next_family()

    def _connected(self) -> None:
        self._owner._dialling.discard(self)
        assert self._sock is not None
        self._owner.join(self._request, self._sock)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            assert self._sock is not None
            self._owner._loop.remove_writer(self._sock.fileno())

    def _drop(self) -> None:
        self._stop_waiting()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def give_up(self) -> None:
        """Nobody listens."""
        self._drop()
        self._owner._dialling.discard(self)
        self._owner.reject(self._request)
