"""``--reverse`` on the agent: listen on the workspace's loopback, and hand every connection to the user who asked.

The user's side connects to nothing but what was written on its own command line: all that the agent can do is say that
somebody is waiting.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from dataclasses import dataclass, field

import anyio

from coder_agent.node import TunnelStream, reset_socket

from .protocol import Code, Op, Refusal, Request, encode

MAX_LISTENERS = 64
"""Ports that all users together may have listened on."""
MAX_WAITING = 128
"""Connections of one port that wait to be fetched; more are reset."""
FETCH_TIMEOUT = 15.0
"""Seconds in which the user's side must fetch a connection: its own dial takes ten at most."""
BACKLOG = 128
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1", True), (socket.AF_INET6, "::1", False))


@dataclass(slots=True)
class _Waiting:
    """Local connections that nobody has fetched yet, by a number that only the right user is told."""

    sockets: dict[str, tuple[socket.socket, asyncio.TimerHandle]] = field(default_factory=dict)

    def take(self, number: str) -> socket.socket | None:
        sock, timer = self.sockets.pop(number, (None, None))
        if timer is not None:
            timer.cancel()
        return sock

    def drop(self, number: str) -> None:
        if (sock := self.take(number)) is not None:
            reset_socket(sock)

    def close(self) -> None:
        for number in list(self.sockets):
            self.drop(number)


class ReverseListeners:
    """All ports that users have listened on."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed
        self._listening: list[_Waiting] = []

    async def listen(self, stream: TunnelStream, port: int) -> None:
        """Listen until the user's connection ends. Raises Refusal."""
        if not self._allowed:
            raise Refusal(
                Code.POLICY, "this agent lets nobody listen in its workspace ([plugins.port_forward] reverse)"
            )
        if len(self._listening) >= MAX_LISTENERS:
            raise Refusal(Code.TOO_MANY, f"{MAX_LISTENERS} ports of this workspace lead to its users already")
        waiting, announce = _Waiting(), _Announcer()
        listeners = _open(port)
        self._listening.append(waiting)
        loop = asyncio.get_running_loop()
        try:
            for listener in listeners:
                loop.add_reader(listener.fileno(), _accept, listener, waiting, announce)
            await stream.send(encode({"ok": True}))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(announce.run, stream)
                try:
                    while True:
                        await stream.receive(1024)  # nothing is to come but the end
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    tasks.cancel_scope.cancel()
        finally:
            self._listening.remove(waiting)
            for listener in listeners:
                loop.remove_reader(listener.fileno())
                listener.close()
            waiting.close()

    async def answer(self, stream: TunnelStream, request: Request) -> None:
        """A connection is fetched, or refused by the user's port. Raises Refusal."""
        sock = next((s for waiting in self._listening if (s := waiting.take(request.id)) is not None), None)
        if sock is None:
            raise Refusal(Code.REFUSED, "that connection does not wait any more")
        if request.op is Op.REFUSE:
            reset_socket(sock)
            await stream.send(encode({"ok": True}))
            return
        try:
            await stream.send(encode({"ok": True}))
        except BaseException:
            reset_socket(sock)
            raise
        await stream.join(sock)


class _Announcer:
    """Numbers of new connections, on their way to the user. As many as can wait."""

    def __init__(self) -> None:
        self._numbers: list[str] = []
        self._changed = anyio.Event()

    def add(self, number: str) -> None:
        self._numbers.append(number)
        self._changed.set()

    async def run(self, stream: TunnelStream) -> None:
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            numbers, self._numbers = self._numbers, []
            await stream.send(b"".join(encode({"id": number}) for number in numbers))


def _accept(listener: socket.socket, waiting: _Waiting, announce: _Announcer) -> None:
    try:
        sock, _ = listener.accept()
    except OSError:
        return
    if len(waiting.sockets) >= MAX_WAITING:
        reset_socket(sock)
        return
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = secrets.token_hex(16)
    timer = asyncio.get_running_loop().call_later(FETCH_TIMEOUT, waiting.drop, number)
    waiting.sockets[number] = (sock, timer)
    announce.add(number)


def _open(port: int) -> list[socket.socket]:
    """Both loopbacks, as far as there are both. Raises Refusal."""
    found: list[socket.socket] = []
    for family, host, needed in _LOOPBACKS:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            if needed:
                raise _refusal(port, error) from None
        else:
            found.append(sock)
    return found


def _refusal(port: int, error: OSError) -> Refusal:
    if error.errno == errno.EADDRINUSE:
        return Refusal(Code.BUSY, f"port {port} of the workspace is taken by another program")
    if error.errno == errno.EACCES:
        return Refusal(Code.POLICY, f"the agent may not listen on port {port}: choose one above 1023")
    return Refusal(Code.REFUSED, f"the agent cannot listen on port {port}: {(error.strerror or str(error)).lower()}")
