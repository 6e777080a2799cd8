"""Joining a stream of the tunnel with a socket of this machine, in large pieces.

asyncssh wants a socket; the tunnel gives a stream. A pair of UNIX sockets is between them, also where both ends are in
one process: copying through it costs less than a transport of our own would cost per packet.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.abc

PIECE = 256 << 10
"""Bytes per system call: as much as asyncio reads at once."""
BUFFER = 1 << 20
"""Asked for each direction of the pair; Linux gives 208 KiB unless net.core.wmem_max says more."""
MAX_PARTS = 64
"""Chunks per sendmsg: their number is limited (IOV_MAX, 1024 on Linux, 16 by POSIX)."""


class NamedSocket(socket.socket):
    """A UNIX socket that answers with the tunnel's addresses: asyncssh asks for them and expects a pair."""

    peer: tuple[str, int] = ("::", 0)
    local: tuple[str, int] = ("::", 0)

    def getpeername(self) -> tuple[str, int]:
        return self.peer

    def getsockname(self) -> tuple[str, int]:
        return self.local


def named(sock: socket.socket, local: tuple[str, int], peer: tuple[str, int]) -> NamedSocket:
    """Take over a socket's descriptor under these names."""
    taken = NamedSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    taken.local, taken.peer = local, peer
    taken.setblocking(False)
    return taken


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
    first = 0
    while first < len(views):
        try:
            sent = sock.sendmsg(views[first : first + MAX_PARTS])
        except BlockingIOError:
            await anyio.wait_writable(sock)
            continue
        while first < len(views) and sent >= len(views[first]):
            sent -= len(views[first])
            first += 1
        if sent:
            views[first] = views[first][sent:]


def _shut(sock: socket.socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:
        pass  # the other end is gone already
