"""A `ServerTailnet` for tests of server plugins: every agent's ports are this machine's own.

tailnet = LoopbackTailnet()
tailnet.gone[agent_id] = "workspace dev: its agent is not connected"
stream = await tailnet.dial(agent_id, 8080)
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import anyio
import anyio.abc
import anyio.lowlevel

from ..base.paths import PathKind
from ..errors import PeerUnreachable, TransportBroken
from ..hooks.server_tailnet import DIAL_TIMEOUT, TunnelPath


class LoopbackStream(anyio.abc.ByteStream):
    """A socket with what a tunnel's stream has besides: `abort`, and what `hooks.web_apps.ReadyStream` says."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_news: Callable[[], None] | None = None

    @property
    def on_news(self) -> Callable[[], None] | None:
        """Called when something arrived or the connection ended."""
        return self._on_news

    @on_news.setter
    def on_news(self, callback: Callable[[], None] | None) -> None:
        loop = asyncio.get_running_loop()
        if self._sock.fileno() >= 0:
            if callback is not None:
                loop.add_reader(self._sock, callback)
            elif self._on_news is not None:
                loop.remove_reader(self._sock)
        self._on_news = callback

    def receive_nowait(self, max_bytes: int = 65536) -> bytes | None:
        """What arrived; empty at the end, None if there is nothing."""
        try:
            return self._sock.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as exc:
            raise (anyio.ClosedResourceError if self._sock.fileno() < 0 else anyio.BrokenResourceError) from exc

    def send_nowait(self, item: bytes) -> bool:
        """Send all of a little, else nothing."""
        if len(item) > 4096:
            return False
        try:
            if self._sock.send(item) == len(item):
                return True
        except BlockingIOError:
            return False
        except OSError as exc:
            raise (anyio.ClosedResourceError if self._sock.fileno() < 0 else anyio.BrokenResourceError) from exc
        raise AssertionError("a socket took half of a little")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.lowlevel.checkpoint()
        while (data := self.receive_nowait(max_bytes)) is None:
            await anyio.wait_readable(self._sock)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        view = memoryview(item)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)
            except OSError as exc:
                raise (anyio.ClosedResourceError if self._sock.fileno() < 0 else anyio.BrokenResourceError) from exc

    async def send_eof(self) -> None:
        with suppress(OSError):  # it is gone: reading says so
            self._sock.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        if self._sock.fileno() >= 0:
            self.on_news = None
            anyio.notify_closing(self._sock)
            self._sock.close()

    def abort(self) -> None:
        """Reset the connection (SO_LINGER of zero seconds)."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already


@dataclass(slots=True)
class LoopbackTailnet:
    """`gone`: agents that are not connected, and why; `dialled`: what was asked for; `paths`: what `path` answers."""

    gone: dict[UUID, str] = field(default_factory=dict)
    dialled: list[tuple[UUID, int]] = field(default_factory=list)
    paths: dict[UUID, TunnelPath] = field(default_factory=dict)

    async def dial(self, agent_id: UUID, port: int, *, timeout: float = DIAL_TIMEOUT) -> LoopbackStream:
        """Connect to `port` of 127.0.0.1."""
        self.dialled.append((agent_id, port))
        if (reason := self.gone.get(agent_id)) is not None:
            raise PeerUnreachable(reason)
        try:
            with anyio.fail_after(timeout):
                sock = socket.socket()
                try:
                    sock.setblocking(False)
                    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
                except BaseException:
                    sock.close()
                    raise
                return LoopbackStream(sock)
        except TimeoutError:
            raise PeerUnreachable(f"no answer from port {port} within {timeout:g} s") from None
        except OSError as exc:
            raise TransportBroken(f"port {port}: connection refused") from exc

    def path(self, agent_id: UUID) -> TunnelPath | None:
        """What `paths` says; direct, once the agent was dialled."""
        dialled = any(agent == agent_id for agent, _ in self.dialled)
        return self.paths.get(agent_id, TunnelPath(PathKind.DIRECT) if dialled else None)
