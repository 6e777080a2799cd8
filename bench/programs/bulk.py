"""Bulk with a checksum: `serve` is an ordinary TCP server of the workspace; `up` and `down` reach it by the tunnel.

    bulk.py serve PORT
    bulk.py up|down PORT SIZE

Layout: b"U" or b"D" ‖ u64 size; then `size` bytes one way; then their SHA-256 from whoever has it to the client: after
an upload what the server counted, after a download what it sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterator

import anyio

import coder_agent
from coder_agent.node import TunnelStream

REQUEST = struct.Struct(">cQ")
BLOCK = 1 << 20
DIGEST_SIZE = 32


def blocks(size: int) -> Iterator[bytes]:
    """`size` random bytes; no two blocks are alike, so a repeated or misplaced one changes the checksum."""
    body = os.urandom(BLOCK - 8)
    for start in range(0, size, BLOCK):
        yield (start.to_bytes(8, "big") + body)[: min(BLOCK, size - start)]


async def serve(port: int) -> None:
    """Answer on loopback until killed."""
    server = await asyncio.start_server(_answer, "127.0.0.1", port, limit=BLOCK)
    print(json.dumps({"event": "ready"}), flush=True)
    async with server:
        await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    direction, size = REQUEST.unpack(await reader.readexactly(REQUEST.size))
    digest = hashlib.sha256()
    if direction == b"U":
        while size:
            data = await reader.read(min(size, BLOCK))
            if not data:
                break
            digest.update(data)
            size -= len(data)
    else:
        for block in blocks(size):
            digest.update(block)
            writer.write(block)
            await writer.drain()
    writer.write(digest.digest())
    writer.close()
    await writer.wait_closed()


async def transfer(direction: str, port: int, size: int) -> None:
    """Move `size` bytes, and tell whether the checksums are equal and how long it took."""
    async with coder_agent.connect("dev") as workspace:
        await workspace.wait_direct()
        stream = await workspace.open_tcp(port)
        started = time.monotonic()
        async with stream:
            equal = await (_up if direction == "up" else _down)(stream, size)
        seconds = time.monotonic() - started
        path, info = workspace.path().kind.value, stream.connection.info()
    print(json.dumps({"event": "done", "equal": equal, "seconds": seconds, "path": path, "tcp": info}), flush=True)


async def _up(stream: TunnelStream, size: int) -> bool:
    digest = hashlib.sha256()
    await stream.send(REQUEST.pack(b"U", size))
    for block in blocks(size):
        digest.update(block)
        await stream.send(block)
    return await _read_to_end(stream) == digest.digest()


async def _down(stream: TunnelStream, size: int) -> bool:
    digest = hashlib.sha256()
    await stream.send(REQUEST.pack(b"D", size))
    while size:
        for chunk in await stream.receive_chunks(size):
            digest.update(chunk)
            size -= len(chunk)
    return await _read_to_end(stream) == digest.digest()


async def _read_to_end(stream: TunnelStream) -> bytes:
    said = b""
    try:
        while len(said) <= DIGEST_SIZE:
            said += await stream.receive()
    except anyio.EndOfStream:
        pass
    return said


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        anyio.run(transfer, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
