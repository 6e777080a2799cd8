"""Server-sent events: a first event at once, later ones when there is news, pings in between."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import anyio
from starlette.responses import StreamingResponse

from ..documents import Document

PING_INTERVAL = 15.0
"""Seconds between pings, as the original product sends them; proxies cut silent connections."""
PING = b"event: ping\n\n"


class EventStream(StreamingResponse):
    """Asks `news` every `poll_seconds`; None means there is none. Ends with it, and when the server stops."""

    def __init__(self, news: AsyncIterator[Document | None], *, poll_seconds: float, stopping: anyio.Event) -> None:
        super().__init__(
            _frames(news, poll_seconds, stopping),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )


async def silence() -> AsyncIterator[Document | None]:
    """A stream that never has news."""
    while True:
        yield None


async def _frames(
    news: AsyncIterator[Document | None], poll_seconds: float, stopping: anyio.Event
) -> AsyncIterator[bytes]:
    quiet = PING_INTERVAL  # a stream without news begins with a ping, so that the client knows it is open
    async for item in news:
        if item is not None:
            yield b"event: data\ndata: " + json.dumps(item, separators=(",", ":")).encode() + b"\n\n"
            quiet = 0.0
        elif quiet >= PING_INTERVAL:
            yield PING
            quiet = 0.0
        with anyio.move_on_after(poll_seconds):
            await stopping.wait()
            return
        quiet += poll_seconds
