"""TCP forwards: accept, dial through the tunnel, join. Callbacks only; what moves bytes is the node's."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Sequence

from coder_agent.node import Splice, reset_socket

from .books import Book
from .carried import Carried
from .target import Target

log = logging.getLogger(__name__)

ACCEPTS_PER_TURN = 64
"""Connections accepted before others get their turn."""
PAUSE = 0.2
"""Seconds until the next try when the system has no more sockets for us."""
NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpForward:
    """One forward with its listening sockets, which it closes in the end."""

    def __init__(self, target: Target, book: Book, listeners: Sequence[socket.socket]) -> None:
        self.book = book
        self._target = target
        self._listeners = list(listeners)
        self._loop = asyncio.get_running_loop()
        self._carried = Carried()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._closed = False
        for listener in self._listeners:
            self._loop.add_reader(listener.fileno(), self._accept, listener)

    def tick(self, now: float) -> None:
        """Bring the book up to date."""
        self._carried.tick(self.book, now)

    def reset(self, why: str) -> None:
        """Reset all connections; new ones are welcome."""
        self._carried.reset(why)

    def close(self) -> None:
        """Stop listening and reset all connections."""
        self._closed = True
        for timer in self._pauses.values():
            timer.cancel()
        for listener in self._listeners:
            self._loop.remove_reader(listener.fileno())
            listener.close()
        self.reset("stopped")

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listener, error)
                return
            sock.setblocking(False)
            if not self._target.gate.enter():
                reset_socket(sock)
                self._target.refused(self.book, f"more than {self._target.gate.limit} connections at once")
                continue
            self.book.active += 1
            self.book.opened += 1
            self._target.gate.open(lambda sock=sock: self._dial(sock))  # type: ignore[misc]

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """No socket can be had: leave the others in the backlog for a moment, instead of asking in a circle."""
        if error.errno not in NO_MORE:
            log.warning("accepting on %s: %s", self.book.forward.local_url, error)
        self._target.refused(self.book, f"no more sockets: {error.strerror}")
        self._loop.remove_reader(listener.fileno())
        self._pauses[listener] = self._loop.call_later(PAUSE, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        self._pauses.pop(listener, None)
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _dial(self, sock: socket.socket) -> None:
        if self._closed:
            reset_socket(sock)
            self._target.gate.opened()
            self._left()
            return
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:  # it is gone already: the splice will see it
            pass
        self._target.node.dial_splice(
            sock,
            self._target.address,
            self.book.forward.remote,
            on_open=self._opened,
            on_fail=self._failed,
            on_end=self._ended,
        )

    def _opened(self, splice: Splice) -> None:
        self._carried.add(splice)
        self._target.gate.opened()

    def _failed(self, why: str) -> None:
        self._target.gate.opened()
        self._left()
        self._target.failed(self.book, why)

    def _ended(self, splice: Splice) -> None:
        self._carried.end(splice)
        self._left()

    def _left(self) -> None:
        self.book.active -= 1
        self._target.gate.leave()
