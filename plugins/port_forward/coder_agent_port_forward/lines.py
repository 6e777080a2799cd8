"""Lines at the head of a stream whose rest belongs to somebody else: never reads a byte too many."""

from __future__ import annotations

import anyio.abc

from coder_agent.errors import RemoteProtocolError

from .protocol import LINE_LIMIT


async def read_line(stream: anyio.abc.ByteReceiveStream) -> bytes:
    """Up to and without the newline. Raises RemoteProtocolError (too long), anyio.EndOfStream, BrokenResourceError."""
    line = bytearray()
    while len(line) < LINE_LIMIT:
        byte = await stream.receive(1)
        if byte == b"\n":
            return bytes(line)
        line += byte
    raise RemoteProtocolError(f"a line is longer than {LINE_LIMIT} bytes")
