"""Joining a stream of the tunnel with a socket of this machine, in large pieces.

asyncssh wants a socket; the tunnel gives a stream. A pair of UNIX sockets is between them, also where both ends are in
one process: copying through it costs less than a transport of our own would cost per packet.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

PIECE = 256 << 10
"""Bytes per system call: as much as asyncio reads at once."""
BUFFER = 1 << 20
"""Asked for each direction of the pair; Linux gives 208 KiB unless net.core.wmem_max says more."""
LAST_WORDS = 1.0
"""Seconds for what was sent before the close."""
MAX_PARTS = 64
"""Chunks per sendmsg: their number is limited (IOV_MAX, 1024 on Linux, 16 by POSIX)."""


class NamedSocket(socket.socket):
    """A UNIX socket as asyncssh and its transport like it.

    It answers with the tunnel's addresses, which asyncssh asks for. And it gathers what is sent in a turn of the loop:
    asyncssh writes each packet by itself and an empty one before it, and a system call for each took a third of the
    time of a download.
    """

    peer: tuple[str, int] = ("::", 0)
    local: tuple[str, int] = ("::", 0)

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        return self.local

    def gather(self) -> None:
        """From now on, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._gathered: list[memoryview] = []
        self._waiting = 0
        self._copy: socket.socket | None = None
        """Of ourselves, while the buffer is full: the transport watches the other one."""

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Take all of `data`, or nothing (BlockingIOError) while too much waits. The data must not change later."""
        if self._waiting >= PIECE:
            self._flush()
            if self._waiting >= PIECE:
                raise BlockingIOError
        if not self._gathered and self._copy is None:
            self._loop.call_soon(self._flush)
        self._gathered.append(memoryview(data if isinstance(data, bytes) else bytes(data)))
        self._waiting += len(data)
        return len(data)

    def close(self) -> None:
        """What was sent still goes out, if the other end takes it soon."""
        if self.fileno() < 0:
            return
        self._flush()
        if self._copy is not None:
            self._loop.call_later(LAST_WORDS, self._give_up)
        super().close()

    def _flush(self) -> None:
        sink = self._copy or self
        if sink.fileno() < 0:
            return
        try:
            while self._gathered:
                sent = sink.sendmsg(self._gathered[:MAX_PARTS])
                self._waiting -= sent
                self._gathered = rest_of(self._gathered, sent)
        except BlockingIOError:
            if self._copy is None:
                self._copy = socket.socket(fileno=os.dup(self.fileno()))
                self._copy.setblocking(False)
                self._loop.add_writer(self._copy, self._flush)
        except OSError:  # the other end is gone: the transport reads its end
            self._give_up()
        else:
            self._give_up()

    def _give_up(self) -> None:
        """There is nothing left to send, or nobody to send it to."""
        self._gathered, self._waiting = [], 0
        if self._copy is not None:
            self._loop.remove_writer(self._copy)
            self._copy.close()
            self._copy = None


def named(sock: socket.socket, local: tuple[str, int], peer: tuple[str, int]) -> NamedSocket:
    """Take over a socket's descriptor under these names, on the running loop."""
    taken = NamedSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    taken.local, taken.peer = local, peer
    taken.setblocking(False)
    taken.gather()
    return taken


def rest_of(views: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `views` when `sent` bytes of them are gone."""
    for number, view in enumerate(views):
        if sent < len(view):
            return [view[sent:], *views[number + 1 :]]
        sent -= len(view)
    return []


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two joined sockets with large buffers, not blocking."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in pair:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    return pair


async def join(stream: anyio.abc.ByteStream, sock: socket.socket) -> None:
    """Copy both ways until the socket's side closes or either side breaks. The stream's end is passed on as a
    half-close. The socket is closed; the stream is left to the caller, its sending side ended.
    """
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_inwards, stream, sock)
            await _outwards(stream, sock)
            tasks.cancel_scope.cancel()
    finally:
        sock.close()


async def _inwards(stream: anyio.abc.ByteStream, sock: socket.socket) -> None:
    receive_chunks = getattr(stream, "receive_chunks", None)
    try:
        while True:
            parts: Sequence[Any] = await receive_chunks(PIECE) if receive_chunks else [await stream.receive(PIECE)]
            await send_all(sock, parts)
    except anyio.EndOfStream:
        _shut(sock, socket.SHUT_WR)
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        _shut(sock, socket.SHUT_RDWR)  # either side is gone; `_outwards` sees the end


async def _outwards(stream: anyio.abc.ByteStream, sock: socket.socket) -> None:
    try:
        while data := await receive(sock):
            await stream.send(data)
        await stream.send_eof()
    except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return


async def receive(sock: socket.socket) -> bytes:
    """What is there, waiting for something; b"" at the end. Raises OSError."""
    while True:
        try:
            return sock.recv(PIECE)
        except BlockingIOError:
            await anyio.wait_readable(sock)


async def send_all(sock: socket.socket, parts: Sequence[Any]) -> None:
    """Send everything, waiting while the buffer is full. Raises OSError."""
    views = [memoryview(part) for part in parts]
    while views:
        try:
            views = rest_of(views, sock.sendmsg(views[:MAX_PARTS]))
        except BlockingIOError:
            await anyio.wait_writable(sock)


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the other end is gone already
