"""The client for scripts and notebooks: the same calls, blocking.

    with coder_agent.blocking.connect("dev") as workspace:
        with workspace.open_tcp(8080) as stream:
            stream.send(b"GET / HTTP/1.0\r\n\r\n")
            print(stream.receive())

An event loop runs in a thread of its own for as long as the workspace is open, so timers, keepalives and path changes
go on while the script computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
from anyio.from_thread import BlockingPortal

from . import api, client
from .magicsock.core import PathStatus
from .node import DIAL_TIMEOUT, Pong
from .runtime.streams import TunnelStream

if TYPE_CHECKING:
    import ssl

    import httpx2


class BlockingStream:
    """A tunnel stream for blocking code. Also a context manager that closes it."""

    def __init__(self, portal: BlockingPortal, stream: TunnelStream) -> None:
        self._portal = portal
        self._stream = stream

    def send(self, data: bytes) -> None:
        """Send all of `data`; blocks while the send buffer is full."""
        self._portal.call(self._stream.send, data)

    def receive(self, max_bytes: int = 65536) -> bytes:
        """What arrived, at least one byte; ``b""`` at the end."""
        try:
            return self._portal.call(self._stream.receive, max_bytes)
        except anyio.EndOfStream:
            return b""

    def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        self._portal.call(self._stream.send_eof)

    def close(self) -> None:
        """Close in order."""
        self._portal.call(self._stream.aclose)

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlockingWorkspace:
    """A workspace for blocking code."""

    def __init__(self, portal: BlockingPortal, workspace: client.Workspace) -> None:
        self._portal = portal
        self._workspace = workspace

    def open_tcp(self, port: int, *, timeout: float = DIAL_TIMEOUT) -> BlockingStream:
        """As `Workspace.open_tcp`."""

        async def call() -> TunnelStream:
            return await self._workspace.open_tcp(port, timeout=timeout)

        return BlockingStream(self._portal, self._portal.call(call))

    def http(
        self, port: int, *, tls: bool = False, verify: ssl.SSLContext | bool = False, **options: Any
    ) -> httpx2.Client:
        """As `Workspace.http`, with httpx2's blocking client."""
        dial = self._workspace.dial_port
        made: httpx2.Client = client.load_http().blocking_client(
            self._portal, dial, port, tls=tls, verify=verify, options=options
        )
        return made

    def ping(self, *, timeout: float = 5.0) -> Pong:
        """As `Workspace.ping`."""

        async def call() -> Pong:
            return await self._workspace.ping(timeout=timeout)

        return self._portal.call(call)

    def path(self) -> PathStatus:
        """As `Workspace.path`."""
        return self._portal.call(self._workspace.path)


@contextmanager
def connect(workspace: str, **options: Any) -> Iterator[BlockingWorkspace]:
    """As `coder_agent.connect`, with the same keyword options."""
    with (
        anyio.from_thread.start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(api.connect(workspace, **options)) as opened,
    ):
        yield BlockingWorkspace(portal, opened)
