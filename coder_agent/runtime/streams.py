"""TCP connections of the tunnel as anyio byte streams."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from ..protocols.netstack.states import OPENING
from ..protocols.netstack.tcp import TcpConnection
from .splice import Splice

CHUNK = 65536


class TunnelAttribute(anyio.TypedAttributeSet):
    """Extra attributes of a tunnel stream."""

    remote_address: tuple[str, int] = anyio.typed_attribute()
    local_address: tuple[str, int] = anyio.typed_attribute()


class TunnelStream(anyio.abc.ByteStream):
    """One TCP connection inside the tunnel.

    `receive`/`send`/`send_eof`/`aclose` as in anyio. Besides, for bulk users: `receive_chunks` hands over what arrived
    without joining it, and `abort` resets. For users of many streams with little data, to whom the wake-up of a task
    each would be much: `receive_nowait`, `send_nowait` and `on_news` (hooks.web_apps.ReadyStream).

    Raises: `anyio.EndOfStream` after the peer's FIN, `anyio.BrokenResourceError` if the connection was reset or timed
    out (the reason is its `__cause__`'s text), `anyio.ClosedResourceError` after our own close.
    """

    def __init__(self, connection: TcpConnection, kick: Callable[[], None], now: Callable[[], float]) -> None:
        self._connection = connection
        self._kick = kick
        self._now = now
        self._changed = anyio.Event()
        self._waiting = 0
        self._closed = False
        self.on_news: Callable[[], None] | None = None
        """Called when something arrived, there is room again, or the connection ended."""
        self.sent_bytes = 0
        """Bytes that the send buffer has taken so far."""
        connection.user = self._wake

    @property
    def connection(self) -> TcpConnection:
        """The TCP core of this stream (state, counters, round-trip time)."""
        return self._connection

    @property
    def unacknowledged(self) -> int:
        """Bytes taken by `send` that the peer has not acknowledged yet."""
        return len(self._connection.sender.buffer)

    @property
    def extra_attributes(self) -> Any:
        connection = self._connection
        return {
            TunnelAttribute.remote_address: lambda: (str(connection.remote[0]), connection.remote[1]),
            TunnelAttribute.local_address: lambda: (str(connection.local[0]), connection.local[1]),
        }

    def _wake(self) -> None:
        if self._waiting:
            self._changed.set()
        if self.on_news is not None:
            self.on_news()

    async def _wait(self) -> None:
        if self._changed.is_set():
            self._changed = anyio.Event()
        self._waiting += 1
        try:
            await self._changed.wait()
        finally:
            self._waiting -= 1

    def _check(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._connection.error is not None:
            raise anyio.BrokenResourceError from ConnectionError(self._connection.error)

    async def wait_established(self) -> None:
        """Wait until the handshake is done. Raises BrokenResourceError if it fails."""
        while self._connection.state in OPENING:
            self._check()
            await self._wait()
        self._check()  # closed is not opening either

    def receive_nowait(self) -> bytes | None:
        """What arrived; empty at the end of data, None if there is nothing yet. Raises as `receive`."""
        if self._closed:
            raise anyio.ClosedResourceError
        connection = self._connection
        if chunks := connection.read(CHUNK):
            self._kick()
            return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)
        if connection.eof:
            return b""
        self._check()
        return None

    def send_nowait(self, item: bytes) -> bool:
        """Queue all of `item`, if there is room for it; else nothing. Raises as `send`."""
        self._check()
        connection = self._connection
        if not connection.writable or len(item) >= connection.owner.config.send_buffer - self.unacknowledged:
            return False
        self.sent_bytes += connection.write(item)
        self._kick()
        return True

    async def receive_chunks(self, max_bytes: int | None = None) -> list[bytes | memoryview]:
        """Everything that arrived (at least one chunk), unjoined. Raises as `receive`."""
        connection = self._connection
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if chunks := connection.read(max_bytes):
                self._kick()
                return chunks
            if connection.eof:
                raise anyio.EndOfStream
            self._check()
            await self._wait()

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()
        chunks = await self.receive_chunks(max_bytes)
        return bytes(chunks[0]) if len(chunks) == 1 else b"".join(chunks)

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Queue all of `item`; waits while the send buffer is full. Mutable buffers are copied first."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(item if isinstance(item, bytes) else bytes(item))
        while True:
            self._check()
            taken = self._connection.write(view)
            self.sent_bytes += taken
            self._kick()
            view = view[taken:]
            if not view:
                return
            if not (taken or self._connection.full):
                raise anyio.BrokenResourceError from ConnectionError("the connection is closed for sending")
            await self._wait()

    async def send_eof(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        self._connection.shutdown_write()
        self._kick()

    async def join(self, sock: socket.socket) -> Splice:
        """Join a local socket (connected, non-blocking) to this stream, both of which then belong together: returns
        when both directions ended or one side broke (`Splice.error`). Cancelled: both are reset."""
        splice = self.splice(sock)
        await splice.wait()
        return splice

    def splice(self, sock: socket.socket) -> Splice:
        """The same without waiting: `Splice.wait` does that."""
        self._check()
        self._closed = True
        splice = Splice(sock, self._connection, kick=self._kick, now=self._now)
        splice.start()
        return splice

    async def aclose(self) -> None:
        """Close in order: what was sent still reaches the peer, in the background."""
        if not self._closed:
            self._closed = True
            self._connection.close(self._now())
            self._kick()
            self._wake()

    def abort(self) -> None:
        """Reset the connection."""
        if not self._closed:
            self._closed = True
            self._connection.abort(self._now())
            self._kick()
            self._wake()
