"""A local TCP socket joined to a tunnel connection: half-close, resets and back-pressure carried across.

No tasks and no streams, callbacks only: a short connection costs a fraction of what two copying tasks cost
(docs/port-forward.md). What one side cannot take is left with the other: a full socket stops the reading of the tunnel,
so that its window closes, and a full send buffer stops the reading of the socket.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from ..errors import LocalProtocolError
from ..protocols.netstack.states import OPENING, State
from ..protocols.netstack.tcp import TcpConnection
from .engine import Engine

READ_SIZE, READ_MORE = 65_536, 262_144
"""Bytes taken from the socket at once; the larger after a read that filled the smaller (allocating costs, too)."""
READS_PER_TURN = 4
IOV_MAX = 512
"""Chunks handed to one `sendmsg`; Linux takes 1024 (limits.h)."""
CHUNK_BYTES = 1 << 20
"""Bytes taken from the tunnel at once: what the socket does not take of them waits here."""
BUFFERED_IN_ALL, BUFFERED_EACH = 256 << 20, 128 << 10
"""Bytes that all splices of a process may hold unacknowledged, and what each may hold however many there are."""
_RESET = struct.pack("ii", 1, 0)


def reset_socket(sock: socket.socket) -> None:
    """Close so that the other side sees a reset, not an orderly end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:  # gone already
        pass
    sock.close()


class Splice:
    """One joined pair. Ends by itself; `on_end` is called once, when both sides are done or one broke.

    `to_tunnel` and `to_local` count bytes handed over. `error` says what broke it, "" if nothing did.
    """

    __slots__ = (
        "to_tunnel", "to_local", "error", "_sock", "_fd", "_connection", "_kick", "_now", "_loop", "_on_end",
        "_pending", "_reading", "_writing", "_local_eof", "_tunnel_eof", "_done", "_size",
    )  # fmt: skip
    living = 0
    """Splices of this process: they share its memory."""

    def __init__(
        self,
        sock: socket.socket,
        connection: TcpConnection,
        *,
        kick: Callable[[], None],
        now: Callable[[], float],
        on_end: Callable[[Splice], None] = lambda splice: None,
    ) -> None:
        """Takes over `sock` (connected, non-blocking) and `connection` (may still be opening)."""
        self.to_tunnel = 0
        self.to_local = 0
        self.error = ""
        self._sock = sock
        self._fd = sock.fileno()
        self._connection = connection
        self._kick = kick
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._pending: list[bytes | memoryview] = []
        self._reading = self._writing = False
        self._local_eof = self._tunnel_eof = self._done = False
        self._size = READ_SIZE
        Splice.living += 1
        connection.user = self._wake

    def start(self) -> None:
        """Begin to copy. What a client says first is often there already, which saves a turn of the loop."""
        self._readable()
        self._wake()

    def abort(self, reason: str) -> None:
        """Reset both sides."""
        if self._done:
            return
        self.error = reason
        self._stop_watching()
        reset_socket(self._sock)
        self._connection.abort(self._now())
        self._finish()

    async def wait(self) -> None:
        """Wait until both directions ended or one side broke. Cancelled: both sides are reset."""
        if self._done:
            return
        ended, before = asyncio.Event(), self._on_end

        def end(splice: Splice) -> None:
            before(splice)
            ended.set()

        self._on_end = end
        try:
            await ended.wait()
        except BaseException:
            self.abort("cancelled")
            raise

    # -- local → tunnel -----------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        if self._done or self._local_eof:
            return
        connection = self._connection
        most = min(connection.owner.config.send_buffer, max(BUFFERED_EACH, BUFFERED_IN_ALL // Splice.living))
        for _ in range(READS_PER_TURN):
            room = most - len(connection.sender.buffer)
            if room <= 0:
                connection.full = True  # have us woken when something was acknowledged
                self._watch_reading(False)
                return
            size = min(self._size, room)
            try:
                data = self._sock.recv(size)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.abort(f"the local program: {os.strerror(error.errno or 0)}")
                return
            if not data:
                self._local_ended()
                return
            if connection.write(data) != len(data):
                self.abort(connection.error or "the tunnel's connection takes nothing more")
                return
            self.to_tunnel += len(data)
            self._kick()
            if len(data) < size:
                break
            self._size = READ_MORE
        self._watch_reading(True)

    def _local_ended(self) -> None:
        self._local_eof = True
        self._watch_reading(False)
        self._connection.shutdown_write()
        self._kick()
        self._finish_if_both_ended()

    # -- tunnel → local -----------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """The tunnel's connection has news: data, room, an end, a failure."""
        if self._done:
            return
        connection = self._connection
        if connection.error is not None:
            self.abort(f"the tunnel: {connection.error}")
            return
        if not self._writing:
            self._writable()
        if not (self._done or self._reading or self._local_eof) and connection.state not in OPENING:
            self._readable()

    def _writable(self) -> None:
        connection = self._connection
        while True:
            if not self._pending and not self._fetch():
                break
            try:
                sent = self._sock.sendmsg(self._pending[:IOV_MAX])
            except (BlockingIOError, InterruptedError):
                self._watch_writing(True)
                return
            except OSError as error:
                self.abort(f"the local program: {os.strerror(error.errno or 0)}")
                return
            self.to_local += sent
            self._advance(sent)
        self._watch_writing(False)
        if connection.eof and not self._tunnel_eof:
            self._tunnel_eof = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:  # it is gone: reading will say so
                pass
            self._finish_if_both_ended()
        elif connection.state is State.CLOSED and not self._tunnel_eof:
            self.abort("the tunnel: closed")

    def _fetch(self) -> bool:
        chunks = self._connection.read(CHUNK_BYTES)
        if chunks:
            self._kick()  # the window opened
            self._pending = chunks
        return bool(chunks)

    def _advance(self, sent: int) -> None:
        pending, index = self._pending, 0
        while index < len(pending) and sent >= len(pending[index]):
            sent -= len(pending[index])
            index += 1
        del pending[:index]
        if sent:
            pending[0] = memoryview(pending[0])[sent:]

    # -- watching and ending ------------------------------------------------------------------------------------------

    def _watch_reading(self, wanted: bool) -> None:
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def _watch_writing(self, wanted: bool) -> None:
        if wanted is not self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _stop_watching(self) -> None:
        self._watch_reading(False)
        self._watch_writing(False)

    def _finish_if_both_ended(self) -> None:
        if self._local_eof and self._tunnel_eof and not self._done:
            self._stop_watching()
            self._sock.close()
            self._connection.close(self._now())
            self._finish()

    def _finish(self) -> None:
        self._done = True
        Splice.living -= 1
        self._pending = []
        self._connection.user = None
        self._kick()
        self._on_end(self)


class Dial:
    """A connection into the tunnel that is being made for a local socket. Ends in a `Splice`, or in a reset."""

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        remote: tuple[IPv6Address, int],
        *,
        on_open: Callable[[Splice], None],
        on_fail: Callable[[str], None],
        on_end: Callable[[Splice], None],
        timeout: float,
    ) -> None:
        self._engine = engine
        self._sock = sock
        self._on_open = on_open
        self._on_fail = on_fail
        self._on_end = on_end
        self._connection: TcpConnection | None = None
        self._timer = asyncio.get_running_loop().call_later(timeout, self.cancel, f"no answer within {timeout:g} s")
        try:
            self._connection = engine.stack.connect(*remote, engine.now())
        except LocalProtocolError as error:
            asyncio.get_running_loop().call_soon(self.cancel, str(error))
            return
        self._connection.user = self._wake
        engine.kick()

    def cancel(self, reason: str) -> None:
        """Give up: reset both sides, and tell why."""
        if self._timer.cancelled():
            return
        self._timer.cancel()
        if self._connection is not None:
            self._connection.user = None
            self._connection.abort(self._engine.now())
            self._engine.kick()
        reset_socket(self._sock)
        self._on_fail(reason)

    def _wake(self) -> None:
        connection = self._connection
        assert connection is not None
        if connection.error is not None:
            self.cancel(connection.error)
        elif connection.state not in OPENING:
            self._timer.cancel()
            engine = self._engine
            splice = Splice(self._sock, connection, kick=engine.kick, now=engine.now, on_end=self._on_end)
            self._on_open(splice)
            splice.start()
