"""``--socks``: a SOCKS5 and HTTP proxy on the user's machine, whose connections leave from the workspace."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import anyio
import anyio.abc

from coder_agent.client import Workspace
from coder_agent.errors import CoderAgentError, PeerUnreachable
from coder_agent.node import TunnelStream, reset_socket

from .ask import NoService, ask
from .books import Book
from .carried import Carried
from .grammar import FIRST_PORT
from .outbound import literal
from .protocol import Code, Op, Refusal, Request
from .proxy_protocol import BadRequest, ProxyHead, Wish, answer_to
from .target import Target

HEAD_TIMEOUT = 30.0
"""Seconds for a program to say where it wants to go."""


class ProxyForward:
    """The proxy with its listening sockets. `run` serves until cancelled."""

    def __init__(self, target: Target, book: Book, listeners: Sequence[socket.socket], workspace: Workspace) -> None:
        self.book = book
        self._target = target
        self._listeners = list(listeners)
        self._workspace = workspace
        self._carried = Carried()

    def tick(self, now: float) -> None:
        """Bring the book up to date."""
        self._carried.tick(self.book, now)

    def reset(self, why: str) -> None:
        """Reset all connections; new ones are welcome."""
        self._carried.reset(why)

    def close(self) -> None:
        """Stop listening and reset all connections."""
        for listener in self._listeners:
            listener.close()
        self.reset("stopped")

    async def run(self) -> None:
        """Serve until cancelled."""
        async with anyio.create_task_group() as tasks:
            for listener in self._listeners:
                tasks.start_soon(self._accept, listener, tasks)

    async def _accept(self, listener: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._target.refused(self.book, f"accept: {error.strerror}")
                await anyio.sleep(0.2)
                continue
            if self._target.gate.enter():
                tasks.start_soon(self._serve, sock)
            else:
                reset_socket(sock)
                self._target.refused(self.book, f"more than {self._target.gate.limit} connections at once")

    async def _serve(self, sock: socket.socket) -> None:
        self.book.active += 1
        self.book.opened += 1
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wish = await self._wish(sock)
            if wish is not None:
                await self._go(sock, wish)
        except OSError:  # the program is gone
            pass
        finally:
            self.book.active -= 1
            self._target.gate.leave()
            sock.close()

    async def _wish(self, sock: socket.socket) -> Wish | None:
        loop, head = asyncio.get_running_loop(), ProxyHead()
        with anyio.move_on_after(HEAD_TIMEOUT):
            while data := await loop.sock_recv(sock, 65_536):
                try:
                    wish = head.feed(data)
                except BadRequest as error:
                    self._target.refused(self.book, str(error))
                    await loop.sock_sendall(sock, head.answer + error.answer)
                    return None
                await loop.sock_sendall(sock, head.answer)
                if wish is not None:
                    return wish
        return None

    async def _go(self, sock: socket.socket, wish: Wish) -> None:
        loop = asyncio.get_running_loop()
        try:
            stream = await self._open(wish.host, wish.port)
        except Refusal as refusal:
            self._target.failed(self.book, f"{wish.host}:{wish.port}: {refusal}")
            await loop.sock_sendall(sock, answer_to(wish, refusal.code, str(refusal)))
            return
        try:
            await loop.sock_sendall(sock, answer_to(wish, None))
            if wish.first:
                await stream.send(wish.first)
            splice = stream.splice(sock)
        except BaseException:
            stream.abort()
            raise
        await self._carried.wait(splice)

    async def _open(self, host: str, port: int) -> TunnelStream:
        """The workspace's own loopback is reached as by --tcp; every other host is for the agent's policy. Raises
        Refusal."""
        address = literal(host)
        own = host.lower().rstrip(".") == "localhost" or (address is not None and address.is_loopback)
        try:
            if not own:
                return (await ask(self._workspace, Request(Op.CONNECT, host=host, port=port)))[0]
            if port < FIRST_PORT:
                raise Refusal(Code.POLICY, f"ports below {FIRST_PORT} of a workspace belong to its agent")
            return await self._workspace.open_tcp(port)
        except NoService as error:
            raise Refusal(Code.POLICY, f"{error}; {error.hint}") from error
        except PeerUnreachable as error:
            raise Refusal(Code.UNREACHABLE, str(error)) from error
        except CoderAgentError as error:
            raise Refusal(Code.REFUSED, str(error)) from error
