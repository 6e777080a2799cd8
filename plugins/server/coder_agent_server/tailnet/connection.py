"""A connection of the server's node, which its agent's member counts as long as it is open."""

from __future__ import annotations

from collections.abc import Callable

import anyio.abc

from coder_agent.node import TunnelStream

CHUNK = 65536


class Connection(anyio.abc.ByteStream):
    """A TunnelStream that says when it is done with. Errors are those of TunnelStream."""

    def __init__(self, stream: TunnelStream, closed: Callable[[Connection], None]) -> None:
        self._stream = stream
        self._on_closed = closed
        self._closed = False
        self.receive_nowait = stream.receive_nowait
        self.send_nowait = stream.send_nowait

    @property
    def on_news(self) -> Callable[[], None] | None:
        """See TunnelStream."""
        return self._stream.on_news

    @on_news.setter
    def on_news(self, callback: Callable[[], None] | None) -> None:
        self._stream.on_news = callback

    async def receive(self, max_bytes: int = CHUNK) -> bytes:
        return await self._stream.receive(max_bytes)

    async def receive_chunks(self, max_bytes: int | None = None) -> list[bytes | memoryview]:
        """Everything that arrived (at least one chunk), unjoined."""
        return await self._stream.receive_chunks(max_bytes)

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        self._done()
        await self._stream.aclose()

    def abort(self) -> None:
        """Reset the connection."""
        self._done()
        self._stream.abort()

    def break_off(self, reason: str) -> None:
        """The far end does not exist any more: whoever reads or writes hears so (BrokenResourceError) at once."""
        self._stream.connection.fail(reason)

    def _done(self) -> None:
        if not self._closed:
            self._closed = True
            self._on_closed(self)
