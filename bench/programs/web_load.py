"""HTTP load for the web benchmarks, in one process without a library in the way.

    web_load.py serve PORT                          the app: small answers, a big file, WebSocket echo
    web_load.py small HOST PORT TARGET TOKEN SECONDS CONNECTIONS   requests/s and latencies
    web_load.py download HOST PORT TARGET TOKEN BYTES              Mbit/s
    web_load.py sockets HOST PORT TARGET TOKEN COUNT SECONDS       WebSockets held, each echoing once in a while

With WEB_CA in the environment, a PEM file, over TLS. Each ends with one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from statistics import median

SMALL = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nhello, world\n"
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
BLOCK = bytes(1 << 18)
FRAME = b"\x82\x85\x00\x00\x00\x00hello"
"""A masked binary frame with five bytes; the app sends back whatever it gets."""


async def connected(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the server, or to what stands in for it."""
    ca = os.environ.get("WEB_CA")
    context = ssl.create_default_context(cafile=ca) if ca else None
    return await asyncio.open_connection(host, port, limit=1 << 20, ssl=context)


class App(asyncio.Protocol):
    """Answers by the path: ``/big/BYTES``, ``/socket``, everything else small."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""
        self.left = 0
        self.echo = False

    def data_received(self, data: bytes) -> None:
        if self.echo:
            self.transport.write(data)
            return
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/big/"):
                self.left = int(path[5:])
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self.left)
                self.resume_writing()
            elif path == b"/socket":
                self.echo = True
                self.transport.write(SWITCH)
            else:
                self.transport.write(SMALL)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        while self.left and not self.paused:
            block = BLOCK[: min(len(BLOCK), self.left)]
            self.left -= len(block)
            self.transport.write(block)


async def serve(port: int) -> None:
    """Until killed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(App, "127.0.0.1", port)
    print(json.dumps({"event": "ready"}), flush=True)
    await server.serve_forever()


def head_of(host: str, target: str, token: str, more: str = "") -> bytes:
    """A request."""
    cookie = f"Cookie: coder_session_token={token}\r\n" if token else ""
    return f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n{cookie}{more}\r\n".encode()


async def small(host: str, port: int, target: str, token: str, seconds: float, connections: int) -> dict[str, object]:
    """As many small requests as get through."""
    request, latencies = head_of(host, target, token), []
    end = time.monotonic() + seconds

    async def one() -> None:
        reader, writer = await connected(host, port)
        while (began := time.monotonic()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head.decode("latin-1"))
            await reader.readexactly(13)
            latencies.append(time.monotonic() - began)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    latencies.sort()
    slow = latencies[int(0.99 * len(latencies))]
    return {"rate": len(latencies) / seconds, "median_ms": 1000 * median(latencies), "p99_ms": 1000 * slow}


async def download(host: str, port: int, target: str, token: str, size: int) -> dict[str, object]:
    """One big answer."""
    reader, writer = await connected(host, port)
    began = time.monotonic()
    writer.write(head_of(host, f"{target}{size}", token))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode("latin-1"))
    left = size
    while left:
        data = await reader.read(1 << 20)
        if not data:
            raise RuntimeError(f"{left} bytes are missing")
        left -= len(data)
    writer.close()
    return {"mbits": size * 8 / 1e6 / (time.monotonic() - began)}


async def sockets(host: str, port: int, target: str, token: str, count: int, seconds: float) -> dict[str, object]:
    """Hold WebSockets; each sends a frame every ten seconds and wants it back."""
    more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    request, errors, echoes, gate = head_of(host, target, token, more), 0, 0, asyncio.Semaphore(50)
    opened: asyncio.Queue[None] = asyncio.Queue()
    go = asyncio.Event()

    async def one(number: int) -> None:
        nonlocal errors, echoes
        try:
            async with gate:
                reader, writer = await connected(host, port)
                writer.write(request)
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                if not head.startswith(b"HTTP/1.1 101 "):
                    raise RuntimeError(head.decode("latin-1"))
                opened.put_nowait(None)
            await go.wait()
            end = time.monotonic() + seconds
            await asyncio.sleep(10 * number / count)
            while time.monotonic() < end:
                writer.write(FRAME)
                if await asyncio.wait_for(reader.readexactly(len(FRAME)), 10) != FRAME:
                    raise RuntimeError("another frame came back")
                echoes += 1
                await asyncio.sleep(10)
            writer.close()
        except (OSError, RuntimeError, asyncio.IncompleteReadError, TimeoutError) as exc:
            print(f"socket {number}: {exc!r}", file=sys.stderr)
            errors += 1
            opened.put_nowait(None)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    for _ in range(count):
        await opened.get()
    go.set()
    await asyncio.gather(*tasks)
    return {"held": count - errors, "errors": errors, "echoes": echoes}


def main() -> None:
    """By the first word."""
    what, *rest = sys.argv[1:]
    if what == "serve":
        asyncio.run(serve(int(rest[0])))
        return
    host, port, target, token, *numbers = rest
    if what == "download":
        found = asyncio.run(download(host, int(port), target, token, int(numbers[0])))
    elif what == "small":
        found = asyncio.run(small(host, int(port), target, token, float(numbers[0]), int(numbers[1])))
    else:
        found = asyncio.run(sockets(host, int(port), target, token, int(numbers[0]), float(numbers[1])))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
